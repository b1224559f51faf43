"""Scores of answers as on the Japanese boards, computed from pairs of what is right and what was answered.

A pair has two places of choices, a list of right answers and a text, or two numbers. The functions that the task files
name (`process_results`) return the scores of one item, or its pair where a score is one of all items together.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

Pairs = Sequence[tuple] | np.ndarray  # what is right, what was given; an array has a row for each pair
NO_NUMBER = 0.0  # similarity of an answer that holds none
# The name of a sentence (文1), or a number, which is the group: 3, 3.5, .5, -1.
_NUMBER = re.compile(r"文\s*\d+|([-−]?(?:\d+(?:\.\d+)?|(?<!\.)\.\d+))")


def choice(doc: dict, results: Sequence[tuple[float, bool]]) -> dict:
    """Return the accuracy of the choice with the highest log-probability, as on the boards; of equals the first."""
    return {"acc": accuracy([pair_of_choice(doc, results)])}


def choice_of_classes(doc: dict, results: Sequence[tuple[float, bool]]) -> dict:
    """Return accuracy and balanced accuracy, for choices that are the same classes in each question."""
    return {**choice(doc, results), "balanced_acc": pair_of_choice(doc, results)}


def acceptability(doc: dict, results: Sequence[tuple[float, bool]]) -> dict:
    """Return accuracy, balanced accuracy and Matthews' correlation of two classes."""
    return {**choice_of_classes(doc, results), "mcc": pair_of_choice(doc, results)}


def answer(doc: dict, results: Sequence[str]) -> dict:
    """Return exact match and character F1 of a text."""
    pair = pair_of_answer(doc, results)
    return {"exact_match": exact_match([pair]), "f1": character_f1([pair])}


def similarity(doc: dict, results: Sequence[str]) -> dict:
    """Return Pearson's and Spearman's correlation of the first number in a text."""
    pair = pair_of_similarity(doc, results)
    return {"pearson": pair, "spearman": pair}


def pair_of(doc: dict, results: Sequence) -> tuple:
    """Return what is right and what was answered, of an item of any kind."""
    if "gold" in doc:
        return pair_of_choice(doc, results)
    return pair_of_similarity(doc, results) if "similarity" in doc else pair_of_answer(doc, results)


def pair_of_choice(doc: dict, results: Sequence[tuple[float, bool]]) -> tuple[int, int]:
    """Return the place of the right choice and that of the likeliest one."""
    return int(doc["gold"]), int(np.argmax([log_probability for log_probability, _ in results]))


def pair_of_answer(doc: dict, results: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the right answers and the one that was given."""
    return tuple(doc["answers"]), results[0]


def pair_of_similarity(doc: dict, results: Sequence[str]) -> tuple[float, float]:
    """Return the right similarity and the first number of an answer, from 0 to 5; the 1 of a name 文1 is no answer."""
    found = filter(None, _NUMBER.findall(unicodedata.normalize("NFKC", results[0])))
    number = float(next(found, str(NO_NUMBER)).replace("−", "-"))
    return float(doc["similarity"]), min(5.0, max(0.0, number))


def accuracy(pairs: Pairs) -> float:
    """Return the share of right choices."""
    return float(np.mean([gold == given for gold, given in pairs]))


def balanced_accuracy(pairs: Pairs) -> float:
    """Return the mean of the accuracies on the items of each class that occurs."""
    by_class: dict[int, list[bool]] = {}
    for gold, given in pairs:
        by_class.setdefault(gold, []).append(gold == given)
    return float(np.mean([np.mean(hits) for hits in by_class.values()]))


def matthews_correlation(pairs: Pairs) -> float:
    """Return the correlation of two classes (Matthews 1975); 0 where it is undefined."""
    return pearson(pairs)  # of two binary variables the two coefficients are the same


def exact_match(pairs: Pairs) -> float:
    """Return the share of answers that equal a right one, both normalised by `comparable`."""
    return float(np.mean([comparable(given) in map(comparable, golds) for golds, given in pairs]))


def character_f1(pairs: Pairs) -> float:
    """Return the mean of each answer's best F1 of characters with a right one, both normalised by `comparable`.

    As in JGLUE's change to the evaluation of SQuAD (fine-tuning/patch in yahoojapan/JGLUE).
    """
    return float(np.mean([max(_f1(comparable(gold), comparable(given)) for gold in golds) for golds, given in pairs]))


def comparable(text: str) -> str:
    """Normalise a text: NFKC, lower case, no white space and no final 。 (the last two as in JGLUE's own script)."""
    return "".join(unicodedata.normalize("NFKC", text).lower().split()).rstrip("。")


def pearson(pairs: Pairs) -> float:
    """Return Pearson's correlation; 0 where it is undefined, as for an answer that is always the same."""
    gold, given = np.array(pairs, dtype=np.float64).T
    if len(pairs) < 2 or np.ptp(gold) == 0 or np.ptp(given) == 0:
        return 0.0
    return float(np.corrcoef(gold, given)[0, 1])


def spearman(pairs: Pairs) -> float:
    """Return the correlation of the ranks, whose mean equal values share; 0 where it is undefined."""
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
