"""Add Japanese pieces to an existing tokenizer; every old id, and the ids of text without Japanese, stay as they are.

New pieces are Japanese characters only, so no other text can contain one. A byte-level BPE (GPT-2's and its kin) gets
new merges (`_with_new_merges`), a SentencePiece model gets pieces appended (`extend_sentencepiece`).
"""

from __future__ import annotations

import heapq
import json
import random
import re
import typing
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from jpllm import runtime
from jpllm.config import option
from jpllm.runtime import InputError
from jpllm.tokenizer.load import MODEL_FILE_NAME, load, sentencepiece_file
from jpllm.tokenizer.pieces import CHARACTER_OF_BYTE, JAPANESE, LETTERS, is_byte_level, is_japanese, piece_bytes
from jpllm.tokenizer.proof import NASTY_STRINGS
from jpllm.tokenizer.train import training_lines

if typing.TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_MAX_PROOF_LINES = 1000
_JAPANESE_BYTE = re.compile(f"[{''.join(CHARACTER_OF_BYTE[byte] for byte in range(0xE3, 0xF1))}]")
# The words of a ByteLevel pre-tokenizer with use_regex; Radford et al. 2019, https://github.com/openai/gpt-2.
_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_JAPANESE_WORDS = f"[{LETTERS}]+[、。]?"


@dataclass
class ExtendConfig:
    """New pieces"""

    num_pieces: int = option(8000, "Number of pieces to add.", minimum=1)
    max_piece_characters: int = option(8, "Most characters of a new piece.", minimum=1)
    join_punctuation: bool = option(
        True,
        "Whether a new piece may end in 、 or 。 as in である。; a byte-level BPE then cuts Japanese into words by "
        "another rule, which programs other than tokenizers may not know.",
    )
    max_lines: int = option(
        50_000, "Number of Japanese lines to learn from, drawn evenly from the whole text.", minimum=1
    )
    seed: int = option(0, "Another seed draws other lines, where there are more than max_lines.", minimum=0)


def extend(path: str | Path, texts: Iterable[str], config: ExtendConfig, output_dir: Path) -> None:
    """Write the tokenizer of `path` with exactly `num_pieces` more pieces, as a folder that AutoTokenizer loads.

    The new ids follow the old ones without a gap. The folder appears complete or not at all, after `_prove`. The
    defaults take about a minute on one core for a byte-level BPE, and 1 GB of memory.

    Raises:
        InputError: the tokenizer is of a kind that cannot be extended so, the texts yield too few pieces, or
            `output_dir` is in use.
    """
    tokenizer = load(path)
    model_file = sentencepiece_file(Path(path))
    if not is_byte_level(tokenizer) and model_file is None:
        raise InputError(
            f"{path}: only a byte-level BPE or a folder with a SentencePiece model ({MODEL_FILE_NAME}) can be extended"
        )
    with runtime.new_folder(output_dir) as folder:
        lines = japanese_lines(texts, config)
        if is_byte_level(tokenizer):
            backend = _with_new_merges(tokenizer, lines, config)
        else:
            from jpllm.tokenizer.extend_sentencepiece import with_new_pieces

            backend = with_new_pieces(tokenizer, model_file, lines, config, folder / MODEL_FILE_NAME)
        _save(tokenizer, backend, folder)
        _prove(tokenizer, load(folder), config.num_pieces, lines[:_MAX_PROOF_LINES])


def first_new_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id after the tokenizer's last one."""
    return max(tokenizer.get_vocab().values()) + 1


def old_pieces(old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast) -> list[list[int]]:
    """For each id of `new` from `first_new_id(old)` on, the ids that `old` gives to what the new piece spells.

    To initialise the new rows of a model by the mean of the old ones.
    Source: Gee et al. 2022, https://arxiv.org/abs/2402.09977 (fast vocabulary transfer).
    """
    pieces = {index: piece for piece, index in new.get_vocab().items()}
    model = old.backend_tokenizer.model  # no normalizer and no prefix: the piece is cut as it stands, whole or not
    return [[token.id for token in model.tokenize(pieces[i])] for i in range(first_new_id(old), first_new_id(new))]


def japanese_lines(texts: Iterable[str], config: ExtendConfig) -> list[str]:
    """`max_lines` of the lines with Japanese, each with the same chance. Raises InputError if there are none."""
    generator = random.Random(config.seed)
    lines = (line for line in training_lines(texts) if JAPANESE.search(line))
    drawn = heapq.nsmallest(config.max_lines, lines, key=lambda _: generator.random())
    if not drawn:
        raise InputError("the text to learn new pieces from has no Japanese line")
    return drawn


def refuse_too_few(num_found: int, num_pieces: int) -> None:
    """Raises InputError if the text gave fewer pieces than were asked for."""
    if num_found < num_pieces:
        raise InputError(
            f"num_pieces: the text gives only {num_found:,} new pieces, not {num_pieces:,}; "
            "ask for fewer, raise max_lines or give more text"
        )


def _with_new_merges(tokenizer: PreTrainedTokenizerFast, lines: Sequence[str], config: ExtendConfig) -> Tokenizer:
    """The backend of a byte-level BPE with new merges before its own.

    They are learned from the bytes up and lead to whole characters first, whereas the old ones join の and the first
    byte of many a kanji. Where they make a piece that is there already, it keeps its id.
    """
    from tokenizers import Tokenizer

    from jpllm.tokenizer.merges import learn_merges

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
    """The settings of a pre-tokenizer that keeps 、 and 。 with the Japanese word before, and cuts all else as before.

    Raises InputError unless it cuts by one pattern, as GPT-2's, Qwen's and Llama's do, perhaps beside digits.
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
    """The words with Japanese in them that the tokenizer cuts the lines into, in byte characters."""
    words: Counter[str] = Counter()
    for line in lines:
        text = backend.normalizer.normalize_str(line) if backend.normalizer else line
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text) if _JAPANESE_BYTE.search(word))
    return words


def _save(tokenizer: PreTrainedTokenizerFast, backend: Tokenizer, folder: Path) -> None:
    """The tokenizer's settings with another backend, under the class that takes the backend as it is."""
    tokenizer.save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _prove(old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast, num_pieces: int, lines: Sequence[str]) -> None:
    """Raises InputError unless old ids are kept, new ones follow, and text is read and written as before.

    Compared are NASTY_STRINGS and `lines`: without Japanese the ids are equal, with it what they decode to.
    """
    vocabulary, ids = old.get_vocab(), new.get_vocab()
    if any(ids.get(piece) != index for piece, index in vocabulary.items()):
        raise InputError("the tokenizer cannot be extended: an old piece would get another id")
    if sorted(ids.values())[-num_pieces:] != list(range(first_new_id(old), first_new_id(old) + num_pieces)):
        raise InputError("the tokenizer cannot be extended: the new ids would not follow the old ones")
    normalizer = old.backend_tokenizer.normalizer
    for text in chain(NASTY_STRINGS, lines):
        before, after = (one.encode(text, add_special_tokens=False) for one in (old, new))
        normalized = normalizer.normalize_str(text) if normalizer else text
        if not JAPANESE.search(normalized):
            same = before == after
        else:
            same = old.unk_token_id in before or old.decode(before) == new.decode(after)
        if not same:
            raise InputError(f"the tokenizer cannot be extended: {text!r} was {before}, would be {after}")
