"""The built-in corpus: same bytes for a seed, right arithmetic, one style in a document."""

from __future__ import annotations

import hashlib
import re
from itertools import islice

import pytest

from jpllm.demo.builtin import arithmetic_documents, documents, instructions, labelled_documents, labelled_sentences

CORPUS = list(labelled_documents(seed=0, num_bytes=1_500_000))
TEXTS = [text for _, text in CORPUS]
QUOTED = re.compile(r"「[^「」]*」")
FORMULA = re.compile(r"(\d+)([+\-×÷])(\d+)=(\d+)(?:あまり(\d+))?")
GOLDEN = "a4682414161372c54b73ceab5b2419cbe52aa866ce397a2fea07389251c90019"


def test_a_seed_gives_the_same_bytes_everywhere() -> None:
    text = "\n\n".join(islice(documents(seed=0), 200))
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN


def test_another_seed_gives_another_text() -> None:
    assert next(documents(seed=0)) != next(documents(seed=1))


@pytest.mark.parametrize("num_bytes", [1, 5_000, 100_000])
def test_the_stream_stops_at_the_document_that_reaches_the_size(num_bytes: int) -> None:
    sizes = [len(text.encode()) for text in documents(seed=3, num_bytes=num_bytes)]
    assert sum(sizes) >= num_bytes
    assert sum(sizes[:-1]) < num_bytes


def test_no_bytes_no_documents() -> None:
    assert list(documents(seed=0, num_bytes=0)) == []


def test_every_kind_is_there_and_lengths_are_bounded() -> None:
    kinds = [kind for kind, _ in CORPUS]
    for kind in ("story", "description", "arithmetic", "question"):
        assert kinds.count(kind) / len(kinds) > 0.05
    assert all(80 <= len(text) <= 900 for text in TEXTS)


def test_documents_and_sentences_rarely_repeat() -> None:
    assert len(set(TEXTS)) / len(TEXTS) > 0.999
    sentences = [part for text in TEXTS for part in re.split(r"[。\n]", text) if part]
    assert len(set(sentences)) / len(sentences) > 0.5


def compute(left: int, operator: str, right: int) -> tuple[int, int]:
    """Return the result and the remainder of one operation."""
    if operator == "÷":
        return divmod(left, right)
    return {"+": left + right, "-": left - right, "×": left * right}[operator], 0


def test_every_formula_is_right() -> None:
    formulas = [found for text in TEXTS[:2000] for found in FORMULA.findall(text)]
    assert len(formulas) > 800
    for left, operator, right, result, rest in formulas:
        assert compute(int(left), operator, int(right)) == (int(result), int(rest or 0))


def test_the_answer_of_a_problem_is_the_result_of_its_last_formula() -> None:
    checked = 0
    for kind, text in CORPUS:
        if kind != "arithmetic":
            continue
        for question, solution in zip(text.split("\n")[::2], text.split("\n")[1::2], strict=True):
            result, rest = FORMULA.findall(solution)[-1][3:]
            answer = solution.split("答えは")[1]
            numbers = re.findall(r"\d+", answer.replace("1人分", "").replace("1箱", ""))
            if "何時何分" in question:
                hour, minute, minutes = map(int, re.findall(r"(\d+)時(\d+)分.*?(\d+)分", question)[0])
                total = hour * 60 + minute + minutes
                assert numbers == [str(part) for part in (total // 60, total % 60) if part]
            else:
                assert numbers == [result, rest] if rest else numbers == [result]
            checked += 1
    assert checked > 500


def test_a_document_keeps_one_style() -> None:
    # 覚ました is the plain past of 覚ます.
    ending = re.compile(r"(?:です|ます|でした|(?<!覚)ました|ません|でしょう)か?$")
    styles = set()
    for kind, text in CORPUS:
        # Questions stand beside answers, which may be formulas or names.
        if kind == "question":
            continue
        sentences = [part for part in re.split(r"[。\n]", QUOTED.sub("", text)) if part]
        polite = {bool(ending.search(sentence)) for sentence in sentences}
        assert len(polite) == 1, text
        styles |= polite
    assert styles == {True, False}


@pytest.mark.parametrize(
    "pattern",
    [
        r"[{}\[\]<>|/]",
        r"[^\d]\+|\+[^\d]",
        "。。|、、|、。|。、|^、|\n、|\n\n|\n$",
        "(?<!かっ)たです",
        "をを|(?<!じゃ)がが|はは(?![ちじり虫])",
        "するます|見ります|来る(?:た|ます)|行いて|いくた(?!め)|くった|よいかった",
        "冬[^。]*せみ",
    ],
)
def test_no_broken_text(pattern: str) -> None:
    found = [text for text in TEXTS if re.search(pattern, text)]
    assert found == []


def test_quotation_marks_are_balanced() -> None:
    for text in TEXTS:
        assert not re.search("[「」]", QUOTED.sub("", text)), text


def test_no_cicadas_in_winter() -> None:
    for text in TEXTS:
        if "せみが鳴" in text:
            assert not re.search(r"雪が|(?<!\d)(?:12|1|2)月", text)


def test_instructions() -> None:
    rows = list(instructions(seed=0, count=1000))
    assert len(rows) == 1000
    assert rows == list(instructions(seed=0, count=1000))
    assert all(list(row) == ["instruction", "input", "output"] for row in rows)
    assert all(row["instruction"] and row["output"] for row in rows)
    polite = [row for row in rows if row["instruction"].startswith("次の文をていねいな形")]
    assert polite
    assert all(row["output"].endswith(("ます。", "ました。")) for row in polite)
    for row in rows:
        for left, operator, right, result, rest in FORMULA.findall(row["output"]):
            assert compute(int(left), operator, int(right)) == (int(result), int(rest or 0))
    asked = {row["output"] for row in rows if re.fullmatch(r"[\d+×-]+(を|は|の).+。", row["instruction"])}
    assert len(asked) > 80
    assert all(re.fullmatch(r"\d+[+×-]\d+=\d+です。", output) for output in asked)


def test_arithmetic_documents() -> None:
    texts = list(arithmetic_documents(seed=0, num_bytes=100_000))
    assert texts == list(arithmetic_documents(seed=0, num_bytes=100_000))
    assert 100_000 <= sum(len(text.encode()) for text in texts) < 103_000
    lines = [line for text in texts if text[0].isdigit() for line in text.split("\n")]
    bare = [re.fullmatch(r"(\d)([+×-])(\d)(?:を|は|の)[^。]+。(\d[+×-]\d)=(\d+)です。", line) for line in lines]
    bare = [match for match in bare if match]
    assert len(bare) > 1000
    for match in bare:
        assert match[4] == match[1] + match[2] + match[3]
        assert compute(int(match[1]), match[2], int(match[3])) == (int(match[5]), 0)


def test_labelled_sentences() -> None:
    rows = list(labelled_sentences(seed=0, count=1000))
    assert len(rows) == 1000
    assert {row["label"] for row in rows} == {"positive", "negative"}
    assert sum(row["label"] == "positive" for row in rows) == 500
    assert len({row["text"] for row in rows}) > 800
    assert not any(re.search(r"[{}\[\]<>|/+]", row["text"]) for row in rows)


def test_the_last_clause_decides_the_label() -> None:
    rows = list(labelled_sentences(seed=1, count=4000))
    high_price = {
        row["label"] for row in rows if re.match(r"値段は(?:高|味のわりに高)[^。]*(?:が|けれど)", row["text"])
    }
    low_price = {
        row["label"] for row in rows if re.match(r"値段は(?:安|良心的)[^。]*(?:が|けれど)、(?!実際)", row["text"])
    }
    assert (high_price, low_price) == ({"positive"}, {"negative"})
