"""Scores against scipy, and against the published way to compute them."""

import collections
import json
import unicodedata

import numpy as np
import pytest

from jpllm.evaluation.jglue.lm_eval_tasks import metrics

stats = pytest.importorskip("scipy.stats", reason="scipy is not installed (it comes with lm-eval)")


def official_f1(gold: str, given: str) -> float:
    """Character F1 by the steps of JGLUE's change to SQuAD's evaluation, behind NFKC and without white space."""

    def normalize(text):
        text = "".join(unicodedata.normalize("NFKC", text).split())
        return " ".join(text.lower().rstrip("。").split())

    gold_characters, characters = list(normalize(gold)), list(normalize(given))
    common = collections.Counter(gold_characters) & collections.Counter(characters)
    num_same = sum(common.values())
    if len(gold_characters) == 0 or len(characters) == 0:
        return int(gold_characters == characters)
    if num_same == 0:
        return 0
    precision, recall = num_same / len(characters), num_same / len(gold_characters)
    return 2 * precision * recall / (precision + recall)


def test_correlations_are_scipys():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 51, 200) / 10
    given = np.round(np.clip(gold + rng.normal(0, 1.5, 200), 0, 5), 1)
    pairs = list(zip(gold.tolist(), given.tolist(), strict=True))
    assert metrics.pearson(pairs) == pytest.approx(stats.pearsonr(gold, given).statistic, abs=1e-12)
    assert metrics.spearman(pairs) == pytest.approx(stats.spearmanr(gold, given).statistic, abs=1e-12)
    assert metrics.pearson([(gold, 3.0) for gold, _ in pairs]) == 0
    assert metrics.spearman([(1.0, 2.0)]) == 0


def test_correlations_on_real_items_are_scipys(real_data):
    file = real_data / "jglue/jsts-v1.3/valid-v1.3.json"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][:200]
    answers = [f"{len(set(row['sentence1']) & set(row['sentence2'])) / 4:.1f}です" for row in rows]
    docs = [{"similarity": row["label"]} for row in rows]
    pairs = [metrics.pair_of_similarity(doc, [text]) for doc, text in zip(docs, answers, strict=True)]
    gold, given = np.array(pairs).T
    assert gold.tolist() == [row["label"] for row in rows]
    assert given.tolist() == [min(5.0, float(text[:-2])) for text in answers]
    assert metrics.pearson(pairs) == pytest.approx(stats.pearsonr(gold, given).statistic, abs=1e-12)
    assert metrics.spearman(pairs) == pytest.approx(stats.spearmanr(gold, given).statistic, abs=1e-12)


def test_f1_on_real_items_is_the_official_one(real_data):
    data = json.loads((real_data / "jglue/jsquad-v1.3/valid-v1.3.json").read_text(encoding="utf-8"))["data"]
    questions = [q for article in data for paragraph in article["paragraphs"] for q in paragraph["qas"]][:200]
    pairs, expected = [], []
    for number, question in enumerate(questions):
        golds = [answer["text"] for answer in question["answers"]]
        given = [golds[-1], golds[0][1:], golds[0] + "である。", question["question"]][number % 4]
        pairs.append((golds, given))
        expected.append(max(official_f1(gold, given) for gold in golds))
    assert metrics.character_f1(pairs) == pytest.approx(np.mean(expected), abs=1e-12)
    assert 0.3 < metrics.character_f1(pairs) < 0.9


@pytest.mark.parametrize(
    ("given", "match", "f1"),
    [
        ("　ＪＲ 東日本。", 1, 1.0),
        ("jr東日本", 1, 1.0),
        ("東日本", 0, 2 * 3 / 8),
        ("", 0, 0.0),
        ("西", 0, 0.0),
    ],
)
def test_answers_are_compared_after_nfkc(given, match, f1):
    pairs = [(("ＪＲ東日本", "会社"), given)]
    assert (metrics.exact_match(pairs), metrics.character_f1(pairs)) == (match, pytest.approx(f1))


def test_accuracies_from_counts():
    pairs = [(0, 0)] * 6 + [(0, 1)] * 2 + [(1, 0)] * 1 + [(1, 1)] * 1
    assert metrics.accuracy(pairs) == pytest.approx(0.7)
    assert metrics.balanced_accuracy(pairs) == pytest.approx((6 / 8 + 1 / 2) / 2)
    mcc = (6 * 1 - 1 * 2) / np.sqrt((6 + 1) * (6 + 2) * (1 + 1) * (1 + 2))
    assert metrics.matthews_correlation(pairs) == pytest.approx(mcc)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("３．２", 3.2),
        ("類似度は4です", 4.0),
        ("99", 5.0),
        ("わからない", 0.0),
        ("-1", 0.0),
        ("−1.5", 0.0),
        (".5", 0.5),
        ("…5", 5.0),
        ("3.", 3.0),
        ("文1と文2は3.5", 3.5),
        ("文 12の類似度は.5", 0.5),
        ("文1と文2", 0.0),
    ],
)
def test_similarity_is_the_first_number(text, number):
    assert metrics.pair_of_similarity({"similarity": 1.0}, [text]) == (1.0, number)
