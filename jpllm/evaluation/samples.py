"""Continuations of prompts, and measures of them that need no judge: these show what goes wrong, not what is good.

Characters are counted without white space, after NFKC. Distinct n-grams: Li et al. 2016,
https://arxiv.org/abs/1510.03055, there of words; Japanese has no spaces, so here they are of characters. Repetition:
Welleck et al. 2020, https://arxiv.org/abs/1908.04319 (seq-rep-4, also of characters).
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from jpllm.evaluation.generate import Answer, SamplingConfig, answers
from jpllm.evaluation.results import measured_with

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_JAPANESE_RANGES = ((0x3005, 0x3007), (0x3041, 0x309F), (0x30A1, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF))
_NUM_REPEATED = 4
logger = logging.getLogger(__name__)


def add_missing(
    results: dict,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    seed: int,
    save: Callable = lambda: None,
) -> None:
    """Let a model continue prompts, unless `results` has samples of the same prompts, seed and settings.

    Samples of other prompts or settings are replaced; `save()` is called afterwards.

    Raises:
        InputError: a prompt leaves no room for an answer.
    """
    settings = {"prompts": list(prompts), "seed": seed, **asdict(sampling)}
    kept = results.get("sample_settings", {})
    if all(kept.get(key) == value for key, value in settings.items()):
        logger.info("samples: drawn before")
        return
    found = answers(model, tokenizer, prompts, sampling, seed)
    results["samples"] = [
        {"prompt": prompt, "text": answer.text} for prompt, answer in zip(prompts, found, strict=True)
    ]
    results["sample_quality"] = asdict(sample_quality(found))
    results["sample_settings"] = settings | measured_with()
    save()


@dataclass(frozen=True)
class SampleQuality:
    """Measures over all texts, as shares between 0 and 1; None where there is nothing to count.

    Attributes:
        japanese: kana and kanji among the letters and digits.
        repeated: runs of four characters that occurred earlier in the same text, among all such runs.
        distinct_1, distinct_2: different characters, and different pairs of characters, among all of them.
        ended: texts that the model ended by itself.
    """

    num_texts: int
    num_characters: int
    japanese: float | None
    repeated: float | None
    distinct_1: float | None
    distinct_2: float | None
    ended: float | None


def sample_quality(answers: Sequence[Answer]) -> SampleQuality:
    """Return the measures of a model's answers."""
    texts = ["".join(unicodedata.normalize("NFKC", answer.text).split()) for answer in answers]
    letters = [character for text in texts for character in text if character.isalnum()]
    runs = [ngrams(text, _NUM_REPEATED) for text in texts]
    return SampleQuality(
        num_texts=len(texts),
        num_characters=sum(map(len, texts)),
        japanese=_share(sum(map(is_japanese, letters)), len(letters)),
        repeated=_share(sum(len(found) - len(set(found)) for found in runs), sum(map(len, runs))),
        distinct_1=_distinct(texts, 1),
        distinct_2=_distinct(texts, 2),
        ended=_share(sum(answer.ended for answer in answers), len(answers)),
    )


def is_japanese(character: str) -> bool:
    """Return whether a character is kana or kanji."""
    return any(first <= ord(character) <= last for first, last in _JAPANESE_RANGES)


def ngrams(text: str, length: int) -> list[str]:
    """Return all runs of `length` characters of a text."""
    return [text[start : start + length] for start in range(len(text) - length + 1)]


def _distinct(texts: Iterable[str], length: int) -> float | None:
    found = [ngram for text in texts for ngram in ngrams(text, length)]
    return _share(len(set(found)), len(found))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
