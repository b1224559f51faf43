import random

import numpy as np
import pytest

from jpllm.evaluation.contamination import index as ngram_index
from jpllm.evaluation.contamination.index import NgramIndex, Stretch


def found_slowly(texts, documents, n, min_share):
    """(text, document) by the rule, read off every stretch of every document."""
    pairs = set()
    for t, text in enumerate(texts):
        wanted = {text[i : i + n] for i in range(len(text) - n + 1)}
        for d, document in enumerate(documents):
            for start in range(len(document)):
                part = document[start : start + 2 * len(text)]
                share = len(wanted & {part[i : i + n] for i in range(len(part) - n + 1)}) / max(len(wanted), 1)
                if wanted and share >= min_share - 1e-9:
                    pairs.add((t, d))
    return pairs


@pytest.mark.parametrize(("n", "min_share"), [(1, 1.0), (2, 0.5), (3, 0.6), (3, 1.0), (4, 0.75)])
@pytest.mark.parametrize("seed", range(3))
def test_finds_what_a_slow_search_finds(n, min_share, seed):
    letters = random.Random(seed)
    texts = ["".join(letters.choices("あいう", k=letters.randint(1, 14))) for _ in range(40)]
    documents = ["".join(letters.choices("あいう", k=letters.randint(0, 60))) for _ in range(20)]
    found = list(NgramIndex(texts, n, min_share).find(documents))
    assert {(stretch.text, stretch.document) for stretch in found} == found_slowly(texts, documents, n, min_share)
    for stretch in found:
        text, part = texts[stretch.text], documents[stretch.document][stretch.start : stretch.stop]
        wanted = {text[i : i + n] for i in range(len(text) - n + 1)}
        assert stretch.share == len(wanted & {part[i : i + n] for i in range(len(part))}) / len(wanted) >= min_share
        assert len(part) <= 2 * len(text)


def test_places_of_copies():
    text = "吾輩は猫であるまだ名前はない"
    index = NgramIndex(["どこにもない文章です", text], 5, 0.9)
    assert list(index.find(["前" * 7 + text + "間" * 30 + text, "", text])) == [
        Stretch(1, 0, 7, 21, 1.0),
        Stretch(1, 0, 51, 65, 1.0),
        Stretch(1, 2, 0, 14, 1.0),
    ]


def test_a_text_does_not_go_on_in_the_next_document():
    text = "吾輩は猫であるまだ名前はない"
    assert list(NgramIndex([text], 5, 0.9).find([text[:7], text[7:]])) == []


def test_ngrams_scattered_over_a_long_document_are_no_hit():
    text = "吾輩は猫であるまだ名前はない"
    pieces = [text[i : i + 5] for i in range(len(text) - 4)]
    index = NgramIndex([text], 5, 0.9)
    assert list(index.find([("間" * 40).join(pieces)])) == []
    assert len(list(index.find([text]))) == 1


def test_share_needed_by_number_of_ngrams():
    """With 0.9, nine 3-grams are all needed, and of ten one may be missing."""
    eleven, twelve = "あいうえおかきくけこさ", "なにぬねのはひふへほまみ"
    index = NgramIndex([eleven, twelve], 3, 0.9)
    assert list(index.find([eleven[:-1], twelve[:-1]])) == [Stretch(1, 1, 0, 11, 0.9)]


def test_equal_hashes_of_different_ngrams_are_no_hit(monkeypatch):
    monkeypatch.setattr(ngram_index, "ngram_hashes", lambda text, n: np.zeros(max(len(text) - n + 1, 0), np.uint64))
    index = NgramIndex(["あいうえお"], 3, 0.9)
    assert list(index.find(["かきくけこ"])) == []


@pytest.mark.parametrize("texts", [[], ["短い"]])
def test_nothing_to_look_for(texts):
    assert list(NgramIndex(texts, 5, 0.9).find(["吾輩は猫である", ""])) == []
