"""Write short stories, sketches of a day, a person or a town, and descriptions of animals, food, tools and months."""

from __future__ import annotations

import random
import re

from jpllm.demo.arithmetic import problem
from jpllm.demo.scene import Scene, another, between, choose, new_scene
from jpllm.demo.tables import Topic, fact_table, story_table, topic_table, word_table

_SKETCHES = ("diary", "profile", "town")


def story(rng: random.Random) -> str:
    """Return a short story: one hero, one season and one place from beginning to end."""
    if rng.random() < 0.55:
        return sketch(rng, "diary")
    kind, bindings, steps = choose(rng, [entry for entry in story_table() if entry.kind not in _SKETCHES])
    scene = new_scene(rng)
    if kind != "fable":
        _cast(scene, choose(rng, ("child", "adult")) if kind == "any" else kind)
    for binding in bindings:
        scene.bind(binding)
    return _tell(scene, steps)


def sketch(rng: random.Random, kind: str) -> str:
    """Return a text made of short facts: a day (`diary`), a person (`profile`) or a town (`town`)."""
    _, bindings, steps = next(entry for entry in story_table() if entry.kind == kind)
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
    return _tell(scene, steps)


def _cast(scene: Scene, age: str) -> None:
    """Bind the hero, the friend and how others call the hero."""
    rng, words = scene.rng, scene.words
    gender = choose(rng, ("female", "male"))
    child = age == "child"
    name = choose(rng, word_table()[gender if child else "surname"])
    friend = another(rng, choose(rng, ("female", "male")) if child else "surname", name)
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


def _tell(scene: Scene, steps: list[list[str]]) -> str:
    """Return a text with one alternative of each step, and a paragraph break at about every second one."""
    chosen = [choose(scene.rng, step) for step in steps]
    text, *others = [scene.fill(template) for template in chosen if template != "-"]
    for sentence in others:
        text += ("\n" if scene.rng.random() < 0.45 else "") + sentence
    return _vary_subject(scene, text) if "hero" in scene.words else text


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


def description(rng: random.Random) -> str:
    """Return a description of one or two subjects of one topic, of a person or a town, or a few general facts."""
    draw = rng.random()
    if draw < 0.08:
        return _general_facts(rng)
    if draw < 0.6:
        return sketch(rng, "profile" if draw < 0.38 else "town")
    topic = choose(rng, topic_table())
    scene = new_scene(rng)
    first = int(rng.random() * len(topic.records))
    second = (first + between(rng, 1, len(topic.records) - 1)) % len(topic.records)
    subjects = [first] if rng.random() < 0.5 else [first, second]
    return "\n".join(_describe(scene, topic, topic.records[subject]) for subject in subjects)


def _describe(scene: Scene, topic: Topic, record: list[str]) -> str:
    rng = scene.rng
    words = dict(zip(topic.fields, record, strict=True))
    scene = new_scene(rng, scene.polite, **words)
    # The first sentence names the subject; the others may be left out.
    sentences = [choose(rng, topic.steps[0])]
    sentences += [choose(rng, step) for step in topic.steps[1:] if rng.random() < 0.85]
    text = "".join(scene.fill(sentence) for sentence in sentences if sentence != "-")
    start = int(rng.random() * len(topic.remarks))
    for index in range(between(rng, 1, 2)):
        text += ("\n" if rng.random() < 0.3 else "") + scene.fill(topic.remarks[(start + index) % len(topic.remarks)])
        # The next remark is about other people.
        scene = new_scene(rng, scene.polite, **words)
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
    pairs = [problem(rng, True) if rng.random() < 0.2 else question(rng) for _ in range(between(rng, 3, 6))]
    # The dict drops a question that was drawn twice.
    return "\n".join(f"質問：{asked}\n答え：{answer}" for asked, answer in dict(pairs).items())


def question(rng: random.Random) -> tuple[str, str]:
    """Return a question about a general fact or a topic, and its answer."""
    if rng.random() < 0.2:
        asked, answer, _ = choose(rng, fact_table())
        return asked, answer
    topic = choose(rng, topic_table())
    scene = new_scene(rng, True, **dict(zip(topic.fields, choose(rng, topic.records), strict=True)))
    asked, answer = choose(rng, topic.pairs)
    return scene.fill(asked), scene.fill(answer)
