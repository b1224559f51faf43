"""Scores of answers as on the Japanese boards, from pairs of what is right and what was answered.

In the pairs of tasks with choices both are indices; of JSQuAD and JAQKET a list of right answers and a text; of JSTS
two numbers.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

Pairs = Sequence[tuple]
NO_NUMBER = 0.0  # similarity of an answer that holds none
# The name of a sentence (文1), or a number, which is the group: 3, 3.5, .5, -1.
_NUMBER = re.compile(r"文\s*\d+|([-−]?(?:\d+(?:\.\d+)?|(?<!\.)\.\d+))")


def choice(doc: dict, results: Sequence[tuple[float, bool]]) -> dict:
    """Accuracy of the likeliest choice (by its whole log-probability, as on the boards; the first of equal ones)."""
    return {"acc": accuracy([pair_of_choice(doc, results)])}


def choice_of_classes(doc: dict, results: Sequence[tuple[float, bool]]) -> dict:
    """Also the balanced accuracy, where the choices are the same classes in each question."""
    return {**choice(doc, results), "balanced_acc": pair_of_choice(doc, results)}


def acceptability(doc: dict, results: Sequence[tuple[float, bool]]) -> dict:
    """Also Matthews' correlation, of two classes."""
    return {**choice_of_classes(doc, results), "mcc": pair_of_choice(doc, results)}


def answer(doc: dict, results: Sequence[str]) -> dict:
    """Exact match and character F1 of a text."""
    pair = pair_of_answer(doc, results)
    return {"exact_match": exact_match([pair]), "f1": character_f1([pair])}


def similarity(doc: dict, results: Sequence[str]) -> dict:
    """Both correlations of the first number in a text."""
    pair = pair_of_similarity(doc, results)
    return {"pearson": pair, "spearman": pair}


def pair_of_choice(doc: dict, results: Sequence[tuple[float, bool]]) -> tuple[int, int]:
    return int(doc["gold"]), int(np.argmax([log_probability for log_probability, _ in results]))


def pair_of_answer(doc: dict, results: Sequence[str]) -> tuple[tuple[str, ...], str]:
    return tuple(doc["answers"]), results[0]


def pair_of_similarity(doc: dict, results: Sequence[str]) -> tuple[float, float]:
    """The first number of an answer, from 0 to 5; the 1 of 文1, a name in the question, is none."""
    found = filter(None, _NUMBER.findall(unicodedata.normalize("NFKC", results[0])))
    number = float(next(found, str(NO_NUMBER)).replace("−", "-"))
    return float(doc["similarity"]), min(5.0, max(0.0, number))


def accuracy(pairs: Pairs) -> float:
    """Share of right choices."""
    return float(np.mean([gold == given for gold, given in pairs]))


def balanced_accuracy(pairs: Pairs) -> float:
    """Mean of the accuracies on the items of each class, of those classes that occur."""
    by_class: dict[int, list[bool]] = {}
    for gold, given in pairs:
        by_class.setdefault(gold, []).append(gold == given)
    return float(np.mean([np.mean(hits) for hits in by_class.values()]))


def matthews_correlation(pairs: Pairs) -> float:
    """Correlation of two classes (Matthews 1975); 0 where it is undefined."""
    return pearson(pairs)  # of two binary variables the two coefficients are the same


def exact_match(pairs: Pairs) -> float:
    """Share of answers that are one of the right ones, after `comparable`."""
    return float(np.mean([comparable(given) in map(comparable, golds) for golds, given in pairs]))


def character_f1(pairs: Pairs) -> float:
    """Mean over the answers of the best F1 of characters with one of the right ones, after `comparable`.

    As in JGLUE's change to the evaluation of SQuAD (fine-tuning/patch in yahoojapan/JGLUE).
    """
    return float(np.mean([max(_f1(comparable(gold), comparable(given)) for gold in golds) for golds, given in pairs]))


def comparable(text: str) -> str:
    """NFKC, lower case, without white space and final 。; the last two are those of JGLUE's own script."""
    return "".join(unicodedata.normalize("NFKC", text).lower().split()).rstrip("。")


def pearson(pairs: Pairs) -> float:
    """Correlation; 0 where it is undefined, as for an answer that is always the same."""
    gold, given = np.array(pairs, dtype=np.float64).T
    if len(pairs) < 2 or np.ptp(gold) == 0 or np.ptp(given) == 0:
        return 0.0
    return float(np.corrcoef(gold, given)[0, 1])


def spearman(pairs: Pairs) -> float:
    """Correlation of the ranks, of which equal values share the mean; 0 where it is undefined."""
    gold, given = np.array(pairs, dtype=np.float64).T
    return pearson(np.stack([_ranks(gold), _ranks(given)], axis=1))


SCORES = {
    "acc": accuracy,
    "balanced_acc": balanced_accuracy,
    "mcc": matthews_correlation,
    "exact_match": exact_match,
    "f1": character_f1,
    "pearson": pearson,
    "spearman": spearman,
}
MEANS = ("acc", "exact_match", "f1")  # of one value per item


def _f1(gold: str, given: str) -> float:
    common = sum((Counter(gold) & Counter(given)).values())
    if not gold or not given:
        return float(gold == given)
    return 2 * common / (len(gold) + len(given))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
