"""Plain modern Japanese written by a grammar: stories, descriptions, arithmetic, questions and answers.

The corpus of the demo and of the tests. Everything is drawn from `random.Random(seed).random()`, the one
method whose sequence Python promises to keep, so a seed gives the same bytes everywhere.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from jpllm.data import builtin_words as tables
from jpllm.data.builtin_words import inflect

MIN_CHARACTERS = 80
MAX_CHARACTERS = 900
# Cumulative share of the kinds among the documents; stories are longer, so their share of bytes is larger.
KIND_SHARES = (("story", 0.37), ("description", 0.61), ("arithmetic", 0.91), ("question", 1.0))
SKETCHES = ("diary", "profile", "town")
SEASONS = ("春", "夏", "秋", "冬")

ALTERNATIVES = re.compile(r"<([^<>]*)>")
SLOT = re.compile(r"\{(\w+)\}")
INFLECTION = re.compile(r"\[([^\[\]/]+)/([^\[\]/]+)\]")

# Each word that the synonym table lists, but not inside a longer word.
SYNONYM = re.compile("|".join(line.rsplit("=", 1)[0] for line in tables.SYNONYM_TABLE.split()))

Item = TypeVar("Item")


def documents(seed: int = 0, num_bytes: int = 3_000_000) -> Iterator[str]:
    """Yield documents until their UTF-8 texts together reach `num_bytes` bytes (0 yields nothing).

    A document has 80 to 900 characters; its paragraphs are separated by "\\n" and it ends without one.
    """
    for _, text in labelled_documents(seed, num_bytes):
        yield text


def arithmetic_documents(seed: int = 0, num_bytes: int = 1_000_000) -> Iterator[str]:
    """Yield documents as `documents` does, but of arithmetic alone: half bare calculations, half problems in words."""
    rng = random.Random(seed)
    for _, text in _fitting(lambda: ("arithmetic", choose(rng, (calculations, arithmetic))(rng)), num_bytes):
        yield text


def labelled_documents(seed: int = 0, num_bytes: int = 3_000_000) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) of `documents`; kind is one of `story description arithmetic question`."""
    writers = {"story": story, "description": description, "arithmetic": arithmetic, "question": questions}
    rng = random.Random(seed)

    def write() -> tuple[str, str]:
        draw = rng.random()
        kind = next(name for name, share in KIND_SHARES if draw < share)
        return kind, writers[kind](rng)

    yield from _fitting(write, num_bytes)


def _fitting(write: Callable[[], tuple[str, str]], num_bytes: int) -> Iterator[tuple[str, str]]:
    """Of the (kind, text) that `write` makes those of a document's length, until they have `num_bytes` bytes."""
    written = 0
    while written < num_bytes:
        kind, text = write()
        if MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS:
            written += len(text.encode())
            yield kind, text


def instructions(seed: int = 0, count: int = 1000) -> Iterator[dict[str, str]]:
    """Yield `count` rows with the keys `instruction`, `input` ("" where there is none) and `output`."""
    makers = (
        *(_calculation_row, _calculation_row, _arithmetic_row, _question_row),
        *(_rewrite_row, _extract_row, _join_row, _counter_row),
    )
    rng = random.Random(seed)
    for _ in range(count):
        instruction, given, output = choose(rng, makers)(rng)
        yield {"instruction": instruction, "input": given, "output": output}


def labelled_sentences(seed: int = 0, count: int = 1000) -> Iterator[dict[str, str]]:
    """Yield `count` opinions with the keys `text` and `label` (`positive` or `negative`), half of each.

    In contrasts such as 「値段は高いが、味はよかった。」 the last clause decides the label.
    """
    rng = random.Random(seed)
    positive = False
    for index in range(count):
        # One of each label in every pair of rows, in random order.
        positive = rng.random() < 0.5 if index % 2 == 0 else not positive
        yield {"text": _opinion(rng, positive), "label": "positive" if positive else "negative"}


def choose(rng: random.Random, items: list[Item] | tuple[Item, ...] | str) -> Item | str:
    """Return one of `items`; `rng.choice` may draw differently in another version of Python."""
    return items[int(rng.random() * len(items))]


def between(rng: random.Random, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`, both included."""
    return low + int(rng.random() * (high - low + 1))


def new_scene(rng: random.Random, polite: bool | None = None, **words: str) -> Scene:
    """Return a scene with a season, a town and a friend; the style is random where `polite` is None."""
    scene = Scene(rng, rng.random() < 0.5 if polite is None else polite, {"season": choose(rng, SEASONS)})
    names = [_full_name(rng, "surname"), _full_name(rng, "female"), _full_name(rng, "male")]
    # Two of three names of different kinds are never the same.
    first = int(rng.random() * 3)
    scene.words.update(who=f"{names[first]}さん", friend=names[(first + between(rng, 1, 2)) % 3])
    scene.words.update(town=scene.fill("{town_name}"), **words)
    return scene


def _full_name(rng: random.Random, kind: str) -> str:
    """Return a surname, or a given name (`kind` female or male) that half of the time follows one."""
    name = choose(rng, word_table()[kind])
    return name if kind == "surname" or rng.random() < 0.5 else choose(rng, word_table()["surname"]) + name


@lru_cache(maxsize=1)
def word_table() -> dict[str, list[str]]:
    """Return the entries of every slot."""
    rows = {}
    name = ""
    for line in tables.WORD_TABLES.splitlines():
        if not line.startswith(" "):
            name, line = line.split(" =", 1)
            rows[name] = []
        rows[name] += line.split()
    return rows


@lru_cache(maxsize=1)
def synonyms() -> dict[str, list[str]]:
    """Return the words that may stand for each word of the synonym table, itself included."""
    rows = (line.rsplit("=", 1) for line in tables.SYNONYM_TABLE.split())
    return {re.sub(r"\(.*?\)", "", word): others.split("|") for word, others in rows}


@lru_cache(maxsize=1)
def story_table() -> list[tuple[str, list[str], list[list[str]]]]:
    """Return (kind of hero, bindings, alternatives of each step) of every story."""
    stories = []
    for block in _joined(tables.STORY_TABLES).split("\n@"):
        header, text = block.removeprefix("@").split("\n", 1)
        kind, bindings = header.split(" ", 1)
        alternatives = [step.split("\n") for step in text.strip().split("\n\n")]
        stories.append((kind, bindings.split(";"), alternatives))
    return stories


@lru_cache(maxsize=1)
def topic_table() -> list[tuple[list[str], list[list[str]], list[list[str]], list[str], list[list[str]]]]:
    """Return (fields, records, steps of a description, remarks, [question, answer]) of every topic."""
    topics = []
    for block in _joined(tables.TOPIC_TABLES).split("\n#"):
        header, text = block.removeprefix("#").split("\n", 1)
        sections = [section.strip() for section in text.split("---")]
        # The name of the topic stands before its fields.
        fields = header.split()[1:]
        records = [line.split(";") for line in sections[0].split("\n")]
        steps = [step.split("\n") for step in sections[1].split("\n\n")]
        pairs = [line.split("=") for line in sections[3].split("\n")]
        topics.append((fields, records, steps, sections[2].split("\n"), pairs))
    return topics


def _joined(text: str) -> str:
    """Return `text` with its indented continuation lines joined to the line above."""
    return text.replace("\n  ", "").strip()


@lru_cache(maxsize=1)
def fact_table() -> list[list[str]]:
    """Return [question, answer, statement] of every general fact."""
    return [line.split("=") for line in _joined(tables.FACT_TABLES).split("\n")]


@lru_cache(maxsize=1)
def problem_table() -> list[tuple[str, str, str]]:
    """Return (operation, question, unit of the answer) of every arithmetic problem."""
    rows = [line.split(" ", 1) for line in _joined(tables.PROBLEM_TABLES).split("\n")]
    return [(operation, *text.split("=")) for operation, text in rows]


def story(rng: random.Random) -> str:
    """Return a short story: one hero, one season and one place from beginning to end."""
    if rng.random() < 0.55:
        return _sketch(rng, "diary")
    kind, bindings, steps = choose(rng, [entry for entry in story_table() if entry[0] not in SKETCHES])
    scene = new_scene(rng)
    if kind != "fable":
        _cast(scene, choose(rng, ("child", "adult")) if kind == "any" else kind)
    for binding in bindings:
        scene.bind(binding)
    chosen = [choose(rng, step) for step in steps]
    text = _paragraphs(rng, [scene.fill(template) for template in chosen if template != "-"])
    return _vary_subject(scene, text) if "hero" in scene.words else text


def _sketch(rng: random.Random, kind: str) -> str:
    """Return a text made of short facts: a day (`diary`), a person (`profile`) or a town (`town`)."""
    bindings, steps = next(entry[1:] for entry in story_table() if entry[0] == kind)
    scene = new_scene(rng)
    facts = scene
    if kind == "diary":
        _cast(scene, "adult")
    elif kind == "town":
        name = scene.words["town_name"] = scene.fill("{town_name}")
        # What is told of a town depends on its name alone, so that no two documents contradict each other.
        facts = Scene(random.Random(int.from_bytes(name.encode(), "big")), scene.polite, scene.words)
    else:
        scene.words["full"] = scene.fill("{full}")
    for binding in bindings:
        facts.bind(binding)
    chosen = [choose(rng, step) for step in steps]
    text = _paragraphs(rng, [scene.fill(template) for template in chosen if template != "-"])
    return _vary_subject(scene, text) if kind == "diary" else text


def _cast(scene: Scene, age: str) -> None:
    """Bind the hero, the friend and how others call the hero."""
    rng, words = scene.rng, scene.words
    gender = choose(rng, ("female", "male"))
    child = age == "child"
    name = choose(rng, word_table()[gender if child else "surname"])
    friend = _other(rng, choose(rng, ("female", "male")) if child else "surname", name)
    words["name"] = name + ("くん" if child and gender == "male" else "さん")
    words["hero"] = name if child and not scene.polite else name + "さん"
    if rng.random() < 0.5:
        words["full_hero"] = (
            (choose(rng, word_table()["surname"]) + name) if child else name + choose(rng, word_table()[gender])
        )
        words["full_hero"] += words["hero"].removeprefix(name)
    words["pronoun"] = "彼" if gender == "male" else "彼女"
    if rng.random() < 0.3:
        words["hero"] = "僕" if gender == "male" and child else "私"
        words["pronoun"] = ""
        words.pop("full_hero", None)
    words["friend"] = friend if child else friend + "さん"
    words["friend_intro"] = choose(rng, word_table()[f"role_{age}"]) + words["friend"]
    words["intro"] = choose(rng, word_table()[f"intro_{age}"])


def _vary_subject(scene: Scene, text: str) -> str:
    """Return `text` with some mentions of the hero left out or replaced by a pronoun.

    The subject is left out only where the sentence before has the same one: there no reader is in doubt.
    """
    hero, pronoun = scene.words["hero"], scene.words["pronoun"]
    parts = re.split(r"(?<=[。\n])", text)
    mentioned = False
    for index, part in enumerate(parts):
        topic = part.startswith(f"{hero}は")
        rest = part[len(hero) + 1 :].removeprefix("、")
        follows = topic and mentioned and index > 0 and not parts[index - 1].endswith("\n")
        draw = scene.rng.random()
        if follows and draw < 0.55:
            parts[index] = rest
        elif follows and draw > 0.8 and pronoun:
            parts[index] = f"{pronoun}は{rest}"
        elif topic and "、" not in rest[:12] and draw < 0.4:
            parts[index] = f"{hero}は、{rest}"
        mentioned = topic
    # The first mention may give the full name.
    return "".join(parts).replace(hero, scene.words.get("full_hero", hero), 1)


def _other(rng: random.Random, table: str, taken: str) -> str:
    return choose(rng, [name for name in word_table()[table] if name != taken])


def _paragraphs(rng: random.Random, sentences: list[str]) -> str:
    """Return the steps of a text joined, with a paragraph break at about every second one."""
    text = sentences[0]
    for sentence in sentences[1:]:
        text += ("\n" if rng.random() < 0.45 else "") + sentence
    return text


def description(rng: random.Random) -> str:
    """Return a description of one or two subjects of one topic, or a few general facts."""
    draw = rng.random()
    if draw < 0.08:
        return _general_facts(rng)
    if draw < 0.6:
        return _sketch(rng, "profile" if draw < 0.38 else "town")
    topic = choose(rng, topic_table())
    scene = new_scene(rng)
    first = int(rng.random() * len(topic[1]))
    second = (first + between(rng, 1, len(topic[1]) - 1)) % len(topic[1])
    subjects = [first] if rng.random() < 0.5 else [first, second]
    parts = [_describe(scene, topic, subject) for subject in subjects]
    return "\n".join(parts)


def _describe(scene: Scene, topic: tuple, subject: int) -> str:
    fields, records, steps, remarks, _ = topic
    rng = scene.rng
    scene = new_scene(rng, scene.polite, **dict(zip(fields, records[subject], strict=True)))
    # The first sentence names the subject; the others may be left out.
    sentences = [choose(rng, steps[0])]
    sentences += [choose(rng, step) for step in steps[1:] if rng.random() < 0.85]
    text = "".join(scene.fill(sentence) for sentence in sentences if sentence != "-")
    start = int(rng.random() * len(remarks))
    for index in range(between(rng, 1, 2)):
        text += ("\n" if rng.random() < 0.3 else "") + scene.fill(remarks[(start + index) % len(remarks)])
        # The next remark is about other people.
        scene = new_scene(rng, scene.polite, **dict(zip(fields, records[subject], strict=True)))
    return text


def _general_facts(rng: random.Random) -> str:
    scene = new_scene(rng)
    facts = fact_table()
    start, step = int(rng.random() * len(facts)), choose(rng, (1, 3, 5, 7))
    statements = [facts[(start + step * index) % len(facts)][2] for index in range(between(rng, 5, 8))]
    opening = "<身の回りのこと|毎日の暮らしで役に立つこと|だれでも知っておきたいこと>を<いくつか|少し>[書く/ます]。"
    return scene.fill(opening + "".join(statements))


def questions(rng: random.Random) -> str:
    """Return three to six questions with their answers, 質問 and 答え on lines of their own."""
    pairs = [problem(rng, True) if rng.random() < 0.2 else _question(rng) for _ in range(between(rng, 3, 6))]
    # The dict drops a question that was drawn twice.
    return "\n".join(f"質問：{asked}\n答え：{answer}" for asked, answer in dict(pairs).items())


def _question(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.2:
        asked, answer, _ = choose(rng, fact_table())
        return asked, answer
    fields, records, _, _, pairs = choose(rng, topic_table())
    scene = new_scene(rng, True, **dict(zip(fields, choose(rng, records), strict=True)))
    asked, answer = choose(rng, pairs)
    return scene.fill(asked), scene.fill(answer)


def arithmetic(rng: random.Random) -> str:
    """Return one to three word problems, each with its formula and its computed answer."""
    polite = rng.random() < 0.6
    return "\n".join("\n".join(problem(rng, polite)) for _ in range(between(rng, 1, 3)))


def calculations(rng: random.Random) -> str:
    """Return eight to sixteen sums, differences and products of one-digit numbers, each with its question in a line."""
    return "\n".join("".join(_calculation(rng)) for _ in range(between(rng, 8, 16)))


def _calculation(rng: random.Random) -> tuple[str, str]:
    sign, a, b = choose(rng, "+-×"), between(rng, 1, 9), between(rng, 1, 9)
    if sign == "-":
        a, b = max(a, b), min(a, b)
    value = {"+": a + b, "-": a - b, "×": a * b}[sign]
    asked = choose(rng, ("を計算してください。", "はいくつですか。", "の答えを教えてください。"))
    return f"{a}{sign}{b}{asked}", f"{a}{sign}{b}={value}です。"


def problem(rng: random.Random, polite: bool) -> tuple[str, str]:
    """Return a word problem and its solution; formulas read `12+5=17` and `17÷5=3あまり2`."""
    operation, question, unit = choose(rng, problem_table())
    item, counter = choose(rng, word_table()["carry"]).split(":")
    place, animal, animal_counter = choose(rng, word_table()["animals"]).split(":")
    scene = new_scene(rng, polite, item=item, c=counter)
    scene.words.update(animal_place=place, animal=animal, ac=animal_counter)
    scene.words["friend2"] = _other(rng, "female", scene.words["friend"])
    formulas, answer = _solve(rng, operation, question, scene.words)
    scene.words["result"] = scene.fill(answer or f"{scene.words['value']}{unit}")
    solution = [
        "式は{formulas}[だ/ます]。答えは{result}[だ/ます]。",
        "{formulas}なので、答えは{result}[だ/ます]。",
        "計算すると{formulas}となり、答えは{result}[だ/ます]。",
    ]
    if len(formulas) == 2:
        solution = [
            "まず、{first}と[なる/ます]。次に、{second}と[なる/ます]。<だから|したがって>、答えは{result}[だ/ます]。"
        ]
    scene.words.update(formulas=formulas[0], first=formulas[0], second=formulas[-1])
    return scene.fill(question), scene.fill(choose(rng, solution))


def _solve(rng: random.Random, operation: str, question: str, words: dict[str, str]) -> tuple[list[str], str]:
    """Draw the numbers of a problem into `words`; return its formulas and an answer that is no plain number.

    The plain number, where the answer is one, goes to `words["value"]`.
    """
    a, b = between(rng, 12, 99), between(rng, 2, 9)
    formulas, answer = [], ""
    if operation in ("add", "sub"):
        b = between(rng, 3, 60) if operation == "add" else between(rng, 2, a - 1)
        value = a + b if operation == "add" else a - b
        formulas = [f"{a}{'+' if operation == 'add' else '-'}{b}={value}"]
    elif operation in ("mul", "muladd", "change"):
        slot = next((slot for slot in ("p", "small", "walk") if f"{{{slot}}}" in question), "a")
        highs = {"p": (3, 30, 10), "small": (2, 6, 1), "walk": (50, 80, 1), "a": (3, 24, 1)}
        low, high, unit = highs[slot]
        a = between(rng, low, high) * unit
        words[slot] = str(a)
        value = a * b
        formulas = [f"{a}×{b}={value}"]
        if operation == "muladd":
            extra = choose(rng, (3, 5, 10)) if slot == "p" else between(rng, 2, 9)
            words.update(fee=str(extra), d=str(extra))
            formulas.append(f"{value}+{extra}={value + extra}")
            value += extra
        elif operation == "change":
            paid = next(note for note in (500, 1000, 2000, 5000) if note > value)
            words["paid"] = str(paid)
            formulas.append(f"{paid}-{value}={paid - value}")
            value = paid - value
    elif operation in ("div", "rem"):
        value, rest = between(rng, 2, 25), between(rng, 1, b - 1) if operation == "rem" else 0
        a = value * b + rest
        formulas = [f"{a}÷{b}={value}" + (f"あまり{rest}" if rest else "")]
        share = "1人分は" if "1人分" in question else "1箱は"
        answer = f"{share}{value}{{c}}で、あまりは{rest}{{c}}" if rest else ""
    elif operation == "addsub":
        b = between(rng, 3, 30)
        gone = between(rng, 2, a)
        value = a + b - gone
        words["d"] = str(gone)
        formulas = [f"{a}+{b}={a + b}", f"{a + b}-{gone}={value}"]
    elif operation == "clock":
        hour, minute, minutes = between(rng, 7, 20), between(rng, 1, 59), between(rng, 2, 59)
        words.update(h=str(hour), m=str(minute), dur=str(minutes))
        value = minute + minutes
        formulas = [f"{minute}+{minutes}={value}"]
        if value >= 60:
            formulas.append(f"{value}-60={value - 60}")
            hour, value = hour + 1, value - 60
        answer = f"{hour}時{value}分" if value else f"{hour}時"
    else:
        a, b = (between(rng, 3, 19) * 50, 2) if operation == "meter" else (between(rng, 2, 30), 100)
        words.update(m1=str(a), m2=str(a))
        value = a * b
        formulas = [f"{a}×{b}={value}"]
    words.update(a=str(a), b=str(b), value=str(value))
    return formulas, answer


def _calculation_row(rng: random.Random) -> tuple[str, str, str]:
    asked, answer = _calculation(rng)
    return asked, "", answer


def _arithmetic_row(rng: random.Random) -> tuple[str, str, str]:
    return "次の問題を解いてください。", *problem(rng, polite=True)


def _question_row(rng: random.Random) -> tuple[str, str, str]:
    asked, answer = _question(rng)
    return asked, "", answer


def _clause(rng: random.Random) -> tuple[str, str, str]:
    """Return (who, where, what) of a sentence: 田中さん, 公園, 散歩をする."""
    scene = new_scene(rng)
    scene.bind("spot,deed=places")
    return scene.words["who"], scene.words["spot"], scene.words["deed"]


def _rewrite_row(rng: random.Random) -> tuple[str, str, str]:
    who, where, what = _clause(rng)
    tasks = (
        ("次の文をていねいな形に書きかえてください。", "る", "ます"),
        ("次の文をていねいな形に書きかえてください。", "た", "ました"),
        ("次の文をふつうの形（です・ますを使わない形）に書きかえてください。", "ます", "る"),
        ("次の文をふつうの形（です・ますを使わない形）に書きかえてください。", "ました", "た"),
        ("次の文を過去の文に書きかえてください。", "ます", "ました"),
        ("次の文を過去の文に書きかえてください。", "る", "た"),
        ("次の文を打ち消しの文に書きかえてください。", "ます", "ません"),
        ("次の文を打ち消しの文に書きかえてください。", "た", "なかった"),
    )
    instruction, given, wanted = choose(rng, tasks)
    start = f"{who}は{where}で"
    return instruction, f"{start}{inflect(what, given, True)}。", f"{start}{inflect(what, wanted, True)}。"


def _extract_row(rng: random.Random) -> tuple[str, str, str]:
    who, where, what = _clause(rng)
    when = choose(rng, ("きのう", "日曜日に", "朝早く", "昼過ぎに", "先週", "久しぶりに"))
    asked, answer = choose(
        rng,
        (
            ("次の文の主語になっている人はだれですか。", f"{who}です。"),
            ("次の文で、行われた場所はどこですか。", f"{where}です。"),
            ("次の文で、だれが何をしましたか。", f"{who}が{inflect(what, 'ました', True)}。"),
        ),
    )
    return asked, f"{who}は{when}{where}で{inflect(what, 'ました', True)}。", answer


def _join_row(rng: random.Random) -> tuple[str, str, str]:
    who, where, what = _clause(rng)
    other = choose(rng, ("弁当を食べ+る", "電話をかけ+る", "友だちに会う", "お茶を飲む", "写真をとる"))
    given = f"{who}は{where}で{inflect(what, 'ました', True)}。それから、{inflect(other, 'ました', True)}。"
    joined = f"{who}は{where}で{inflect(what, 'て')}、{inflect(other, 'ました', True)}。"
    return "次の二つの文を一つの文にまとめてください。", given, joined


def _counter_row(rng: random.Random) -> tuple[str, str, str]:
    item, counter = choose(rng, word_table()["carry"]).split(":")
    number = between(rng, 2, 9)
    return (
        f"{item}が{number}あるとき、数え方を表す言葉をつけるとどうなりますか。",
        "",
        f"{number}{counter}です。",
    )


@lru_cache(maxsize=1)
def review_table() -> list[tuple[str, list[list[list[str]]]]]:
    """Return (subject, aspects) of every kind of review; an aspect is its noun, good and bad predicates."""
    subjects = []
    for line in _joined(tables.REVIEW_TABLES).split("\n"):
        subject, aspects = line.split(":")
        subjects.append((subject, [[part.split(",") for part in item.split("/")] for item in aspects.split(";")]))
    return subjects


def _opinion(rng: random.Random, positive: bool) -> str:
    subject, aspects = choose(rng, review_table())
    start = int(rng.random() * len(aspects))
    first, second = aspects[start], aspects[(start + between(rng, 1, len(aspects) - 1)) % len(aspects)]
    scene = new_scene(rng, s=subject, a=first[0][0], b=second[0][0])
    same, opposite = (1, 2) if positive else (2, 1)
    scene.words.update(x=choose(rng, first[same]), y=choose(rng, second[same]))
    scene.words.update(v=choose(rng, first[opposite]), w=choose(rng, second[opposite]))
    scene.words["end"] = choose(rng, GOOD_VERDICTS if positive else BAD_VERDICTS)
    return scene.fill(choose(rng, OPINIONS + (GOOD_OPINIONS if positive else BAD_OPINIONS)))


# x and y are predicates of the aspects a and b that agree with the label, v and w predicates that do not.
OPINIONS = (
    "この{s}は、{a}が<とても|本当に|>[{x}/ました]。{end}",
    "{a}が[{x}/て]、{b}も[{y}/ました]。{end}",
    "{b}は[{w}/た]が、{a}は<とても|本当に|>[{x}/ました]。",
    "この{s}は、{b}は[{w}/た]<が|けれども>、{a}は[{x}/ました]。{end}",
    "{a}は[{v}/る]と<聞いていた|思っていた>が、実際は[{x}/ました]。",
    "{b}は[{w}/ました]。<しかし|けれども>、それ以上に{a}が[{x}/ました]。{end}",
    "<友人にすすめられて|広告を見て|前から気になっていて>選んだ{s}は、{a}が[{x}/ました]。",
)
GOOD_OPINIONS = (
    "あまり期待していなかったが、{a}は[{x}/ました]。{end}",
    "{b}が[{w}/連体]ことを除けば、<全体として満足できる|十分に満足できる>{s}[だ/ました]。",
    "{a}が[{v}/る]という声もあるが、私は<まったく|少しも>そう[思う/ません]。{end}",
)
BAD_OPINIONS = (
    "<評判を聞いて期待していた|楽しみにしていた>のに、{a}は[{x}/ました]。{end}",
    "{b}が[{w}/連体]ことを除けば、<ほめるところがない|よいところの少ない>{s}[だ/ました]。",
    "{a}が[{v}/る]という声もあるが、私は<まったく|少しも>そう[思う/ません]。{end}",
)
GOOD_VERDICTS = (
    "<全体として|私は>[満足な/ました]。",
    "<選んで|出会えて>[よい/ました]。",
    "ほかの人にもぜひ[すすめたい/ます]。",
    "<不満はほとんど|後悔は>[ある/ません]。",
)
BAD_VERDICTS = (
    "<全体として|とても>[残念な/ました]。",
    "<満足とはとても|よかったとは>[言え+る/ません]。",
    "ほかの人には[すすめられ+る/ません]。",
    "<期待しただけに、|>がっかり[する/ました]。",
)


@dataclass(frozen=True)
class Scene:
    """What the sentences of one document share: style, season and the words bound to slots."""

    rng: random.Random
    polite: bool
    words: dict[str, str]

    def fill(self, template: str) -> str:
        """Return `template` with its alternatives chosen, its slots filled and its words inflected."""
        template = self._vary(template)
        while "<" in template or "{" in template:
            template = ALTERNATIVES.sub(lambda match: choose(self.rng, match[1].split("|")), template)
            template = SLOT.sub(lambda match: self._word(match[1]), template)
        return INFLECTION.sub(lambda match: inflect(match[1], match[2], self.polite), template)

    def _word(self, slot: str) -> str:
        if slot in self.words:
            return self.words[slot]
        entries = word_table()
        entry = choose(self.rng, entries.get(slot) or entries[f"{slot}_{self.words['season']}"])
        return self._vary(entry) if "[" in entry else entry

    def _vary(self, template: str) -> str:
        """Return `template` with words replaced by synonyms."""
        return SYNONYM.sub(lambda match: choose(self.rng, synonyms()[match[0]]), template)

    def bind(self, binding: str) -> None:
        """Bind the slots of `a=x|y`, `a={slot}` or `key,value=table` to words of this document."""
        names, values = binding.split("=")
        if "," not in names:
            self.words[names] = self.fill(choose(self.rng, values.split("|")))
            return
        key, value = names.split(",")
        self.words[key], entries = choose(self.rng, word_table()[values]).split(":", 1)
        self.words[value] = choose(self.rng, entries.split(","))
