r"""How byte-level tokenizers cut texts before their merges act, and what llama.cpp calls the same cuts.

A tokenizer.json has rules and regular expressions, llama.cpp a name for each set that it knows. Its source
(`llm_tokenizer_bpe` in src/llama-vocab.cpp) states the expressions of most names; it writes some of them in another
way, such as `\p{Lu}`, so that only a proof can tell whether the ids are equal.
"""

from __future__ import annotations

from jpllm.runtime import InputError

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


def name_of_cuts(state: dict) -> str:
    """Return llama.cpp's name for how a byte-level tokenizer cuts texts; `state` is what its tokenizer.json holds.

    Raises:
        InputError: llama.cpp has no name for it, or it is not converted here.
    """
    cuts = state["pre_tokenizer"]
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
