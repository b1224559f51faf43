r"""How byte-level tokenizers cut texts before their merges act, and what llama.cpp calls the same cuts.

A tokenizer.json has rules and regular expressions, llama.cpp a name for each set that it knows. Its source
(`llm_tokenizer_bpe` in src/llama-vocab.cpp) states the expressions of most names; it writes some of them in another
way, such as `\p{Lu}`, so that only a proof can tell whether the ids are equal. Where they are known to differ on rare
texts, `as_llama_cpp_reads` tells how.
"""

from __future__ import annotations

from typing import Any, Literal

from jpllm.runtime import InputError

Difference = Literal["marks", "space"]

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
_SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_ASCII_SIGNS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""


def _split(*patterns: str) -> list[dict]:
    steps = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns]
    return [*steps, _BYTES]


# Name, whether a word that is a piece is taken whole whatever the merges are, and the steps.
_CUTS: list[tuple[str, bool, list[dict]]] = [
    ("gpt-2", False, [_GPT2]),
    ("smollm", False, [_DIGITS, _GPT2]),
    ("llama-bpe", True, _split(rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}")),
    ("dbrx", False, _split(rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}")),
    ("qwen2", False, _split(rf"{_SUFFIX}|{_WORD}|\p{{N}}|{_SIGNS}|{_SPACES}")),
    (
        "qwen35",
        False,
        _split(
            rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
        ),
    ),
    (
        "gpt-4o",
        False,
        _split(
            rf"{_BEFORE}{_UPPER}*{_LOWER}+{_SUFFIX}?|{_BEFORE}{_UPPER}+{_LOWER}*{_SUFFIX}?|\p{{N}}{{1,3}}|{_PATHS}|{_SPACES}"
        ),
    ),
    (
        "tekken",
        True,
        _split(rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}|{_PATHS}|{_SPACES}"),
    ),
    (
        "deepseek-v3",
        False,
        _split(
            r"\p{N}{1,3}",
            "[一-龥\u3040-ゟ゠-ヿ]+",
            rf"{_ASCII_SIGNS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
            rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
        ),
    ),
    ("seed-coder", False, _split(rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}")),
]


# llama.cpp's own expressions, where they are not the tokenizer's: a mark apart from its letter is no letter there.
_NO_LOWER, _NO_UPPER = r"((?=[\p{L}])([^a-z]))", r"((?=[\p{L}])([^A-Z]))"
_IN_LLAMA_CPP = {
    "gpt-4o": _split(
        rf"{_BEFORE}{_NO_LOWER}*{_NO_UPPER}+{_SUFFIX}?|{_BEFORE}{_NO_LOWER}+{_NO_UPPER}*{_SUFFIX}?|\p{{N}}{{1,3}}"
        rf"|{_PATHS}|{_SPACES}"
    ),
    "tekken": _split(
        rf"{_BEFORE}{_NO_LOWER}*{_NO_UPPER}+|{_BEFORE}{_NO_LOWER}+{_NO_UPPER}*|\p{{N}}|{_PATHS}|{_SPACES}"
    ),
}


def as_llama_cpp_reads(state: dict) -> tuple[Difference, dict] | None:
    """Return on what texts llama.cpp gives other ids, and a tokenizer.json that cuts and rewrites texts as it does.

    "marks": those with marks apart from their letters, which are composed (NFC) or cut otherwise; "space": those that
    begin with a space or follow a special token. None where there is no such difference.
    """
    cuts = state["pre_tokenizer"]
    if cuts is not None and cuts["type"] == "Metaspace" and cuts["prepend_scheme"] != "never":
        # llama.cpp writes a space in front of a text that begins with one too
        steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
        return "space", {**state, "normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}
    try:
        own = _IN_LLAMA_CPP.get(name_of_cuts(state))
    except InputError:
        return None
    if own is None and state["normalizer"] is None:
        return None
    return "marks", {**state, "normalizer": None, "pre_tokenizer": _sequence(own) if own else cuts}


def _sequence(steps: list[dict]) -> dict:
    return {"type": "Sequence", "pretokenizers": [{"trim_offsets": True, **s} if s is _BYTES else s for s in steps]}


def name_of_cuts(state: dict) -> str:
    """Return llama.cpp's name for how a byte-level tokenizer cuts texts; `state` is what its tokenizer.json holds.

    Raises:
        InputError: llama.cpp has no name for it, or it is not converted here.
    """
    cuts: dict[str, Any] = state["pre_tokenizer"] or {"type": "Sequence", "pretokenizers": []}
    steps = cuts["pretokenizers"] if cuts["type"] == "Sequence" else [cuts]
    steps = [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
    takes_whole = bool(state["model"].get("ignore_merges"))
    # where merges lead to every piece, as is usual, it makes no difference whether words are taken whole
    known = sorted((whole != takes_whole, name) for name, whole, found in _CUTS if found == steps)
    if not known:
        raise InputError(
            f"the tokenizer cuts texts before its merges by {[_shown(step) for step in steps]}, which is none of "
            f"{', '.join(name for name, *_ in _CUTS)}, the cuts that are converted here"
        )
    return known[0][1]


def _shown(step: dict) -> str:
    return step["pattern"].get("Regex", step["type"]) if step["type"] == "Split" else step["type"]
