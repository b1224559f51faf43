"""Learn Japanese merges for a byte-level BPE, such as GPT-2's, and put them before its own."""

from __future__ import annotations

import json
import re
import typing
from array import array
from collections import Counter
from collections.abc import Sequence

from jpllm.runtime import InputError
from jpllm.tokenizer.extend.merges import ExtendConfig, learn_merges, refuse_too_few
from jpllm.tokenizer.pieces import CHARACTER_OF_BYTE, LETTERS, first_new_id, is_japanese, piece_bytes

if typing.TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_JAPANESE_BYTE = re.compile(f"[{''.join(CHARACTER_OF_BYTE[byte] for byte in range(0xE3, 0xF1))}]")
# The words of a ByteLevel pre-tokenizer with use_regex; Radford et al. 2019, https://github.com/openai/gpt-2.
_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_JAPANESE_WORDS = f"[{LETTERS}]+[、。]?"


def with_new_merges(tokenizer: PreTrainedTokenizerFast, lines: Sequence[str], config: ExtendConfig) -> Tokenizer:
    """Return the backend of a byte-level BPE with new merges before its own.

    The new merges are learned from the bytes up and lead to whole characters first, whereas the old ones join の and
    the first byte of many a kanji. A piece that the vocabulary has already keeps its id.

    Raises:
        InputError: the tokenizer is no plain byte-level BPE, or the lines give too few pieces.
    """
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    if model["type"] != "BPE" or any(model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix")):
        raise InputError("the tokenizer's model is no plain byte-level BPE, and cannot be extended")
    if config.join_punctuation:
        state["pre_tokenizer"] = _joining(state["pre_tokenizer"])
    words = _words(Tokenizer.from_str(json.dumps(state)), lines)
    words = {word: count for word, count in words.items() if model["vocab"].keys() >= set(word)}  # some lack rare bytes
    contents = [b""] * first_new_id(tokenizer)
    for index, content in piece_bytes(tokenizer).items():
        contents[index] = content

    def is_allowed(content: bytes) -> bool:
        return len(content.decode(errors="ignore")) <= config.max_piece_characters and is_japanese(content)

    byte_ids = [array("i", map(model["vocab"].__getitem__, word)) for word in words]
    merges = learn_merges(byte_ids, list(words.values()), contents, config.num_pieces, is_allowed)
    pieces = {index: piece for piece, index in tokenizer.get_vocab().items()}
    for token in state["added_tokens"]:  # those beyond the vocabulary would be numbered anew after it
        model["vocab"].setdefault(token["content"], token["id"])
    for left, right, merged in merges:
        model["vocab"][pieces.setdefault(merged, pieces[left] + pieces[right])] = merged
    refuse_too_few(len({merged for *_, merged in merges if merged >= len(contents)}), config.num_pieces)
    new_merges = {(pieces[left], pieces[right]): None for left, right, _ in merges}
    model["merges"] = list(new_merges | dict.fromkeys(map(tuple, model["merges"])))
    return Tokenizer.from_str(json.dumps(state))


def _joining(pre_tokenizer: dict) -> dict:
    """Return the settings of a pre-tokenizer that keeps 、 and 。 with the Japanese word before them.

    Raises:
        InputError: it does not cut by one pattern, as GPT-2's, Qwen's and Llama's do, perhaps beside digits.
    """
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    *steps, last = steps
    if last["type"] == "ByteLevel" and last["use_regex"]:
        pattern = {"Regex": _GPT2_WORDS}
        steps.append({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
    splits = [step for step in steps if step["type"] == "Split"]
    is_plain = last["type"] == "ByteLevel" and not last["add_prefix_space"] and len(splits) == 1
    if not is_plain or "Regex" not in splits[0]["pattern"] or splits[0]["behavior"] != "Isolated":
        raise InputError(
            "join_punctuation: the tokenizer cuts words by a rule that cannot be changed for Japanese; set it to false"
        )
    pattern = {"Regex": f"{_JAPANESE_WORDS}|{splits[0]['pattern']['Regex']}"}
    steps = [step | {"pattern": pattern} if step["type"] == "Split" else step for step in steps]
    return {"type": "Sequence", "pretokenizers": [*steps, last | {"use_regex": False}]}


def _words(backend: Tokenizer, lines: Sequence[str]) -> Counter[str]:
    """Count the words with Japanese in them that the tokenizer cuts the lines into, spelled in byte characters."""
    words: Counter[str] = Counter()
    for line in lines:
        text = backend.normalizer.normalize_str(line) if backend.normalizer else line
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text) if _JAPANESE_BYTE.search(word))
    return words
