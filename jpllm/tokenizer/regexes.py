"""Try the regular expressions of a stranger's tokenizer on texts that are long to search, before a corpus comes."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jpllm.runtime import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_LONG, _SHORT = 3000, 64  # characters of a text: a cost that grows with a power shows in the former
_MAX_SECONDS = 5
_MAX_GROWTH = 1000
_USUAL = "a1 \nAあ漢　!-"
_STOP = "\u0001"  # nothing that a word of a text goes on with


def refuse_costly(tokenizer: PreTrainedTokenizerFast, place: object) -> None:
    """Raise InputError where a rule of the tokenizer takes too long, or makes a text many times as long."""
    backend = tokenizer.backend_tokenizer
    parts = [part for part in (backend.normalizer, backend.pre_tokenizer, backend.decoder) if part is not None]
    states = [json.loads(part.__getstate__()) for part in parts]
    rules = [rule for state in states for rule in _rules(state)]
    growth = math.prod(max(1.0, _length(rule.get("content")) / max(1, _length(rule.get("pattern")))) for rule in rules)
    if growth > _MAX_GROWTH:
        raise InputError(f"{place}: its rules can make a text {growth:,.0f} times as long; take another tokenizer")
    patterns = [
        pattern["Regex"] for rule in rules if isinstance(pattern := rule.get("pattern"), dict) and "Regex" in pattern
    ]
    if patterns:
        _refuse_slow(backend, list(_texts(patterns)), place)


def _rules(state: object) -> Iterator[dict]:
    """Yield the objects in a part of a tokenizer, those inside others too."""
    if isinstance(state, dict):
        yield state
        state = list(state.values())
    if isinstance(state, list):
        for item in state:
            yield from _rules(item)


def _length(text: object) -> int:
    if isinstance(text, dict):  # a pattern: a regular expression may match a single character
        return len(text.get("String", ""))
    return len(text) if isinstance(text, str) else 0


def _texts(patterns: list[str]) -> Iterator[str]:
    """Yield texts on which searching for patterns may take long: repetitions, behind which the patterns do not go on.

    Each ends with the patterns themselves: a search is over at once where a character that it needs is nowhere.
    """
    end = _STOP + _STOP.join(patterns)
    for character in _USUAL:
        yield character * _SHORT + end
        yield character * _LONG + end
    for pattern in patterns:
        letters = "".join(dict.fromkeys(character for character in pattern if character.isalnum()))[:20]
        for unit in {*letters, letters, letters[:2]} - {""}:
            yield unit * (_SHORT // len(unit) + 1) + end
            yield unit * (_LONG // len(unit)) + end


def _refuse_slow(backend: Tokenizer, texts: list[str], place: object) -> None:
    """Run the rules alone, without the vocabulary, in a thread that is left behind where it does not come back."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    rules_alone = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    if backend.normalizer is not None:
        rules_alone.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        rules_alone.pre_tokenizer = backend.pre_tokenizer
    errors: list[BaseException] = []

    def search() -> None:
        try:
            rules_alone.encode_batch_fast(texts)
        except BaseException as error:  # a panic of tokenizers is no Exception
            errors.append(error)

    thread = threading.Thread(target=search, daemon=True)
    with _silent_stderr():
        thread.start()
        thread.join(_MAX_SECONDS)
    if thread.is_alive() or errors:
        reason = str(errors[0]) if errors else f"not done within {_MAX_SECONDS} seconds"
        raise InputError(
            f"{place}: a regular expression of the tokenizer takes too long on a text of {_LONG:,} characters "
            f"({reason}); take another tokenizer"
        )


@contextmanager
def _silent_stderr() -> Generator[None]:
    """Keep what tokenizers writes of a panic from the screen; it goes round Python."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
