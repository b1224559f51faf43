"""Scores that others published, to stand beside our own; each with its source and with how it was got."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A published score, a share, and its standard error where one was published."""

    value: float
    standard_error: float | None = None


# Without training on the tasks: model → (task, metric) → score.
ZERO_TRAINING_SOURCE = "Stability-AI/lm-evaluation-harness, branch jp-stable, models/**/result.json"
ZERO_TRAINING_SETTINGS = (
    "Prompt version 0.2, in which JCommonsenseQA is answered by the number of a choice; versions 1.1 of the data, of "
    "whose JNLI 29 labels were corrected later; 3 (JCommonsenseQA, JNLI), 2 (JSQuAD) and 1 (JAQKET) examples drawn by "
    "lot; F1 of MeCab words."
)
ZERO_TRAINING: dict[str, dict[tuple[str, str], Published]] = {
    "rinna/japanese-gpt-neox-small (0.1B)": {
        ("jcommonsenseqa", "acc"): Published(0.34227, 0.01419),
        ("jnli", "acc"): Published(0.30115, 0.00930),
        ("jsquad", "exact_match"): Published(0.05808),
        ("jsquad", "f1"): Published(0.19590),
        ("jaqket", "exact_match"): Published(0.03179),
        ("jaqket", "f1"): Published(0.15319),
    },
    "cyberagent/open-calm-medium (0.4B)": {
        ("jcommonsenseqa", "acc"): Published(0.39500, 0.01462),
        ("jnli", "acc"): Published(0.42317, 0.01002),
        ("jsquad", "exact_match"): Published(0.28726),
        ("jsquad", "f1"): Published(0.39803),
    },
    "rinna/japanese-gpt-1b (1.3B)": {
        ("jcommonsenseqa", "acc"): Published(0.34763, 0.01424),
        ("jnli", "acc"): Published(0.37675, 0.00982),
        ("jsquad", "exact_match"): Published(0.26182),
        ("jsquad", "f1"): Published(0.44675),
        ("jaqket", "exact_match"): Published(0.37027),
        ("jaqket", "f1"): Published(0.57991),
    },
    "line-corporation/japanese-large-lm-1.7b": {
        ("jcommonsenseqa", "acc"): Published(0.30831, 0.01381),
        ("jnli", "acc"): Published(0.35949, 0.00973),
        ("jsquad", "exact_match"): Published(0.56551),
        ("jsquad", "f1"): Published(0.69470),
        ("jaqket", "exact_match"): Published(0.52062),
        ("jaqket", "f1"): Published(0.60433),
    },
}

# Fine-tuned on the training files, scored on the validation files: model → (task, metric) → score.
FINE_TUNED_SOURCE = "yahoojapan/JGLUE, README.md (commit 7bbbe02), development set"
FINE_TUNED_SETTINGS = (
    "Trained on the whole training file; learning rate (2e-5, 3e-5, 5e-5) and epochs (3, 4) chosen on the very rows "
    "that are scored; no deviation is given. JNLI with the labels that version 1.2 corrected, the others as of 1.1."
)
FINE_TUNED: dict[str, dict[tuple[str, str], Published]] = {
    "Tohoku BERT base": {
        ("jnli", "acc"): Published(0.906),
        ("jsts", "pearson"): Published(0.909),
        ("jsts", "spearman"): Published(0.868),
        ("jcommonsenseqa", "acc"): Published(0.808),
        ("marc_ja", "acc"): Published(0.958),
    },
    "Waseda RoBERTa base": {
        ("jnli", "acc"): Published(0.900),
        ("jsts", "pearson"): Published(0.913),
        ("jsts", "spearman"): Published(0.873),
        ("jcommonsenseqa", "acc"): Published(0.840),
        ("marc_ja", "acc"): Published(0.962),
    },
    "human": {
        ("jnli", "acc"): Published(0.925),
        ("jsts", "pearson"): Published(0.899),
        ("jsts", "spearman"): Published(0.861),
        ("jcommonsenseqa", "acc"): Published(0.986),
        ("marc_ja", "acc"): Published(0.989),
    },
}
