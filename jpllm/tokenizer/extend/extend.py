"""Add Japanese pieces to an existing tokenizer; every old id, and the ids of text without Japanese, stay as they are.

New pieces are Japanese characters only, so no other text can contain one. A byte-level BPE (GPT-2's and its kin) gets
new merges (`byte_level`), a SentencePiece model gets pieces appended (`sentencepiece_model`).
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from jpllm import whole_files
from jpllm.runtime import InputError
from jpllm.tokenizer.extend.byte_level import with_new_merges
from jpllm.tokenizer.extend.merges import ExtendConfig, japanese_lines
from jpllm.tokenizer.extend.sentencepiece_model import with_new_pieces
from jpllm.tokenizer.load import MODEL_FILE_NAME, load, sentencepiece_file
from jpllm.tokenizer.pieces import JAPANESE, first_new_id, is_byte_level
from jpllm.tokenizer.proof import NASTY_STRINGS

if typing.TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_MAX_PROOF_LINES = 1000


def extend(path: str | Path, texts: Iterable[str], config: ExtendConfig, output_dir: Path) -> None:
    """Write the tokenizer of `path` with exactly `num_pieces` more pieces, as a folder that AutoTokenizer loads.

    The new ids follow the old ones without a gap. The folder appears complete, and proved (`_prove`), or not
    at all. The defaults take about a minute on one core for a byte-level BPE, and 1 GB of memory.

    Raises:
        InputError: the tokenizer is of a kind that cannot be extended so, the texts yield too few pieces, or
            `output_dir` is in use.
    """
    tokenizer = load(path)
    model_file = None if is_byte_level(tokenizer) else _model_file(path)
    with whole_files.new_folder(output_dir) as folder:
        lines = japanese_lines(texts, config)
        if model_file is None:
            backend = with_new_merges(tokenizer, lines, config)
        else:
            backend = with_new_pieces(tokenizer, model_file, lines, config, folder / MODEL_FILE_NAME)
        _save(tokenizer, backend, folder)
        _prove(tokenizer, load(folder), config.num_pieces, lines[:_MAX_PROOF_LINES])


def _model_file(path: str | Path) -> Path:
    file = sentencepiece_file(Path(path))
    if file is None:
        raise InputError(
            f"{path}: no byte-level BPE, and no SentencePiece model beside it to extend; put the {MODEL_FILE_NAME} "
            "that it was published with into a folder with its other files, and name that folder"
        )
    return file


def _save(tokenizer: PreTrainedTokenizerFast, backend: Tokenizer, folder: Path) -> None:
    """Save the tokenizer with another backend, under the class that takes a backend as it is."""
    tokenizer.save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _prove(old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast, num_pieces: int, lines: Sequence[str]) -> None:
    """Compare the old tokenizer with the new one, on NASTY_STRINGS and `lines`.

    Raises:
        InputError: an old id is lost, the new ids do not follow the old ones, a text without Japanese gets other ids,
            or a text with Japanese decodes to something else.
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
