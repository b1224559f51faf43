"""Encode a corpus fast, and never into control ids.

SentencePiece encodes 5 to 19 times as fast as tokenizers, so it encodes the corpus wherever the folder has its model
and its ids are proved equal. Text of a corpus never becomes a control id, whatever somebody typed in it.
"""

from __future__ import annotations

import json
import logging
import typing
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from jpllm import runtime
from jpllm.tokenizer.document_tokens import document_bos, warn_of_unwritten_bos
from jpllm.tokenizer.load import fingerprint, sentencepiece_file
from jpllm.tokenizer.model_file import read_model
from jpllm.tokenizer.pieces import without_surrogates
from jpllm.tokenizer.proof import NASTY_STRINGS, first_difference

if typing.TYPE_CHECKING:
    import numpy as np
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

Encode = Callable[[list[str]], list["np.ndarray"]]

_NUM_PROOF_CHARACTERS = 100_000
_CHUNK_CHARACTERS = 2000
_UNTYPABLE = "\U0010fffe"  # a noncharacter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusEncoder:
    """Encode texts of a corpus, and identify what the ids depend on.

    Attributes:
        encode: texts → one int32 id array each, without special tokens.
        eos_token_id: the id that is written once after each document.
        bos_token_id: the id that the tokenizer writes before a text, and so documents begin with; None without one.
        vocab_size: a number above all ids.
        fingerprint: a hash that changes whenever an id would.
    """

    encode: Encode
    eos_token_id: int
    vocab_size: int
    fingerprint: str
    bos_token_id: int | None = None


def corpus_encoder(tokenizer: PreTrainedTokenizerFast, path: str | Path) -> CorpusEncoder:
    """Return the fastest exact encoder of a tokenizer that was loaded from `path`.

    A SentencePiece model in the folder `path` does the work if its ids equal the tokenizer's on NASTY_STRINGS and on
    the first documents to encode. No special token is added, typed text never becomes a control id, and lone
    surrogates are left out.

    Raises:
        InputError: the tokenizer writes around a text what cannot be around a document (`document_bos`).
    """
    warn_of_unwritten_bos(tokenizer, path)
    return CorpusEncoder(
        encode=corpus_encode(tokenizer, path),
        eos_token_id=tokenizer.eos_token_id,
        vocab_size=max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1),
        fingerprint=fingerprint(tokenizer),
        bos_token_id=document_bos(tokenizer),
    )


def corpus_encode(tokenizer: PreTrainedTokenizerFast, path: str | Path) -> Encode:
    """Return the function that encodes texts for `corpus_encoder`."""
    encode = _backend_encode(tokenizer)
    model_file = sentencepiece_file(Path(path))
    if model_file is None:
        logger.info("encoding with tokenizers: %s holds no SentencePiece model", path)
        return encode
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(model_file))
    added_words = [str(token) for token in tokenizer.added_tokens_decoder.values() if not token.special]
    if added_words:  # no sample of text can prove that they never occur
        found = f"the tokenizer has words that the model lacks: {added_words[0]!r}"
    else:
        found = first_difference(processor, NASTY_STRINGS, encode(list(NASTY_STRINGS)))
    if found:
        _log_fallback(model_file, found)
        return encode
    return _proven_on_first_documents(processor, encode, model_file)


def _proven_on_first_documents(processor: SentencePieceProcessor, encode: Encode, model_file: Path) -> Encode:
    """Return a function that encodes with SentencePiece if that agrees with `encode` on the first documents."""
    import numpy as np

    may_cut = _newlines_stand_alone(processor, model_file)

    def encode_with_sentencepiece(texts: list[str]) -> list[np.ndarray]:
        chunks = [_chunks(without_surrogates(text), may_cut) for text in texts]
        flat = [chunk for one in chunks for chunk in one]
        encoded = iter(processor.encode(flat, num_threads=runtime.num_cores(), return_type="numpy"))
        return [next(encoded) if len(one) == 1 else np.concatenate(list(islice(encoded, len(one)))) for one in chunks]

    chosen: list[Encode] = []

    def encode_proven(texts: list[str]) -> list[np.ndarray]:
        if not chosen and texts:
            sample = _first_characters(texts)
            found = first_difference(processor, sample, encode(sample))
            chosen.append(encode if found else encode_with_sentencepiece)
            if found:
                _log_fallback(model_file, found)
            else:
                logger.info("encoding with SentencePiece: %s gives the tokenizer's ids", model_file)
        return chosen[0](texts) if texts else []

    return encode_proven


def _newlines_stand_alone(processor: SentencePieceProcessor, model_file: Path) -> bool:
    """Return whether a text can be encoded line by line, each line with its newline, into the same ids."""
    model = read_model(model_file)
    return (
        not model.has_dummy_prefix
        and not model.removes_extra_spaces
        and processor.normalize("a\n\na") == "a\n\na"
        and [piece.text for piece in model.pieces if "\n" in piece.text] == ["\n"]
    )


def _chunks(text: str, may_cut: bool) -> list[str]:
    """Cut the text into chunks of whole lines, each of at least `_CHUNK_CHARACTERS` characters but for the last one.

    SentencePiece's sums of scores, in 32 bits, are exact in a chunk of this size (`model_file.with_exact_scores`), and
    several cores can share a long document.
    """
    chunks, begin = [], 0
    while may_cut and (end := text.find("\n", begin + _CHUNK_CHARACTERS) + 1):
        chunks.append(text[begin:end])
        begin = end
    return [*chunks, text[begin:]]


def _first_characters(texts: list[str]) -> list[str]:
    """Return the first texts, cut off at `_NUM_PROOF_CHARACTERS` characters in all."""
    sample: list[str] = []
    num_left = _NUM_PROOF_CHARACTERS
    for text in texts:
        sample.append(without_surrogates(text[:num_left]))
        num_left -= len(text)
        if num_left <= 0:
            break
    return sample


def _log_fallback(model_file: Path, found: str) -> None:
    logger.warning("encoding with tokenizers, several times slower: %s differs: %s", model_file, found)


def _backend_encode(tokenizer: PreTrainedTokenizerFast) -> Encode:
    import numpy as np

    backend = _without_special_tokens(tokenizer.backend_tokenizer)

    def encode(texts: list[str]) -> list[np.ndarray]:
        clean_texts = [without_surrogates(text) for text in texts]
        encodings = backend.encode_batch_fast(clean_texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    return encode


def _without_special_tokens(backend: Tokenizer) -> Tokenizer:
    """Return a copy that gives text the same ids, but has no special token that a text could spell.

    Special tokens stand in two places: in the list of added tokens, from which they are removed, and in the vocabulary,
    where a unigram model can choose one by its score and where each gets a name that nobody can type.
    """
    from tokenizers import Tokenizer

    state = json.loads(backend.to_str())
    special = {token["id"]: token["content"] for token in state["added_tokens"] if token["special"]}
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] not in special]
    state |= {"post_processor": None, "truncation": None, "padding": None}
    model = state["model"]
    if isinstance(model["vocab"], list):  # unigram: [piece, score] by id
        for index in special.keys() & set(range(len(model["vocab"]))):
            model["vocab"][index][0] = f"{_UNTYPABLE}{index}"
    else:  # the model looks its unknown token up by name, and the result of a merge
        needed = {model.get("unk_token"), *("".join(merge) for merge in model.get("merges", ()))}
        for index, content in special.items():
            if content not in needed and model["vocab"].get(content) == index:
                model["vocab"][f"{_UNTYPABLE}{index}"] = model["vocab"].pop(content)
    return Tokenizer.from_str(json.dumps(state))
