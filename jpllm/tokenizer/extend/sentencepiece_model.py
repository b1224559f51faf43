"""Append Japanese pieces to a SentencePiece model.

A unigram model gets the best pieces of a unigram model trained on the Japanese parts of the text, a BPE model the
merges that are learned over what its own leave. New pieces come after the old ones, so no id changes, and they are
Japanese characters only, so text without them is cut as before.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import typing
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from jpllm import runtime
from jpllm.runtime import InputError
from jpllm.tokenizer.convert import convert
from jpllm.tokenizer.extend.merges import ExtendConfig, learn_merges, refuse_too_few
from jpllm.tokenizer.model_file import BPE, NORMAL, SentencePieceModel, read_model, with_pieces
from jpllm.tokenizer.pieces import JAPANESE, LETTERS, first_new_id
from jpllm.tokenizer.proof import first_difference

if typing.TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_CHARACTER_COVERAGE = 0.9995
_MAX_PROOF_LINES = 1000
_MARGIN = 0.1


def with_new_pieces(
    tokenizer: PreTrainedTokenizerFast,
    model_file: Path,
    lines: Sequence[str],
    config: ExtendConfig,
    new_model_file: Path,
) -> Tokenizer:
    """Write the extended model to `new_model_file`, and return the tokenizer's backend with the new pieces.

    The backend's ids have been compared with those of the extended model.

    Raises:
        InputError: the tokenizer has added words (their ids would be those of the new pieces) or other ids than the
            model, the model is of a kind that `convert` refuses, or the lines give too few pieces.
    """
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

    model = read_model(model_file)
    if first_new_id(tokenizer) != len(model.pieces):
        raise InputError(
            f"{model_file}: the model has {len(model.pieces):,} pieces, the tokenizer beside it "
            f"{first_new_id(tokenizer):,} ids: it has words that were added later, and cannot be extended"
        )
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    expected = "BPE" if model.algorithm == BPE else "Unigram"
    if state["model"]["type"] != expected:
        raise InputError(f"{model_file}: the model is {expected}, the tokenizer beside it {state['model']['type']}")
    processor = SentencePieceProcessor(model_file=str(model_file))
    end = "[、。]?" if config.join_punctuation else ""
    one_kind = re.compile(f"[{LETTERS}]+{end}|[^{LETTERS}]+")  # letters, or punctuation: no piece is `」と、`
    japanese = (text for line in lines for text in JAPANESE.findall(processor.normalize(line)))
    runs = Counter(chain.from_iterable(map(one_kind.findall, japanese)))
    new_pieces = _bpe_pieces if model.algorithm == BPE else _unigram_pieces
    pieces = new_pieces(model, tokenizer, runs, config)
    refuse_too_few(len(pieces), config.num_pieces)
    new_model_file.write_bytes(with_pieces(model_file.read_bytes(), len(model.pieces) + len(pieces), pieces))
    with tempfile.TemporaryDirectory() as folder:
        convert(new_model_file, Path(folder) / "tokenizer")
        converted = json.loads((Path(folder) / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    _copy_pieces(converted["model"], state["model"], len(model.pieces))
    backend = Tokenizer.from_str(json.dumps(state))
    proof = lines[:_MAX_PROOF_LINES]
    encodings = backend.encode_batch_fast(proof, add_special_tokens=False)
    reference = SentencePieceProcessor(model_file=str(new_model_file))
    if found := first_difference(reference, proof, [encoding.ids for encoding in encodings]):
        raise InputError(f"{model_file}: the tokenizer beside it does not have its ids: {found}")
    return backend


def _copy_pieces(source: dict, target: dict, first_id: int) -> None:
    """Copy the pieces from `first_id` on, and the merges that make them, between models as tokenizer.json has them."""
    if source["type"] == "Unigram":
        target["vocab"] += source["vocab"][first_id:]
    else:
        target["vocab"] |= {piece: index for piece, index in source["vocab"].items() if index >= first_id}
        target["merges"] = list(dict.fromkeys(map(tuple, chain(target["merges"], source["merges"]))))


def _unigram_pieces(
    model: SentencePieceModel, tokenizer: PreTrainedTokenizerFast, runs: Counter[str], config: ExtendConfig
) -> list[tuple[str, float]]:
    """Return the likeliest pieces that the old model lacks, each after the characters of it that are no pieces yet.

    A score is the logarithm of a piece's probability in the new model, raised if need be above what the old pieces
    that spell it score together, so that it is chosen before them.
    """
    known = {piece.text for piece in model.pieces}
    num_japanese = sum(JAPANESE.fullmatch(piece) is not None for piece in known)
    trained = _trained_unigram(runs, config, config.num_pieces + num_japanese)
    scores = {piece: score for piece, score in trained.items() if piece not in known and JAPANESE.fullmatch(piece)}
    chosen: dict[str, None] = {}
    for piece in sorted(scores, key=scores.__getitem__, reverse=True):
        added = dict.fromkeys(one for one in (*piece, piece) if one not in known and one not in chosen)
        if len(chosen) + len(added) <= config.num_pieces and all(one in scores for one in added):
            chosen |= added
    old_scores = [piece.score for piece in model.pieces if piece.kind == NORMAL]
    lowest, highest = min(old_scores), max(old_scores)
    spelled = {piece: _old_score(model, tokenizer, piece) for piece in chosen}
    return [(one, min(max(scores[one], spelled[one] + _MARGIN, lowest), highest)) for one in chosen]


def _old_score(model: SentencePieceModel, tokenizer: PreTrainedTokenizerFast, piece: str) -> float:
    """Return the sum of the scores of the old pieces that spell `piece`; minus infinity if one is no ordinary piece."""
    pieces = [model.pieces[token.id] for token in tokenizer.backend_tokenizer.model.tokenize(piece)]
    return sum(one.score if one.kind == NORMAL else float("-inf") for one in pieces)


def _trained_unigram(runs: Counter[str], config: ExtendConfig, vocab_size: int) -> dict[str, float]:
    """Train a unigram model of at most about `vocab_size` pieces, and return the score of each piece."""
    import sentencepiece

    content = io.BytesIO()
    num_characters = len(set().union(*runs))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(runs.elements()),
        model_writer=content,
        model_type="unigram",
        vocab_size=vocab_size + num_characters + 3,  # unknown, beginning, end
        hard_vocab_limit=False,
        character_coverage=_CHARACTER_COVERAGE,
        max_sentencepiece_length=config.max_piece_characters,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_unicode_script=False,  # the runs are cut already
        max_sentence_length=1 << 16,
        num_threads=runtime.num_cores(),
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=content.getvalue())
    normal = (i for i in range(len(model)) if not (model.is_unknown(i) or model.is_control(i)))
    return {model.id_to_piece(i): model.get_score(i) for i in normal}


def _bpe_pieces(
    model: SentencePieceModel, tokenizer: PreTrainedTokenizerFast, runs: Counter[str], config: ExtendConfig
) -> list[tuple[str, float]]:
    """Return the frequent characters that are no pieces yet, then the merges; each scores below all before it."""
    from tokenizers import Tokenizer

    characters = _missing_characters(model, runs)[: config.num_pieces]
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state |= {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "added_tokens": []}
    state["model"]["vocab"] |= {one: index for index, one in enumerate(characters, start=len(model.pieces))}
    encodings = Tokenizer.from_str(json.dumps(state)).encode_batch_fast(list(runs), add_special_tokens=False)
    contents = [piece.text if piece.kind == NORMAL else f"\0{piece.text}" for piece in model.pieces] + characters

    def is_allowed(piece: str) -> bool:
        return len(piece) <= config.max_piece_characters and JAPANESE.fullmatch(piece) is not None

    ids, num_merges = [encoding.ids for encoding in encodings], config.num_pieces - len(characters)
    for left, right, merged in learn_merges(ids, list(runs.values()), contents, num_merges, is_allowed):
        if merged == len(contents):
            contents.append(contents[left] + contents[right])
    lowest = min(piece.score for piece in model.pieces if piece.kind == NORMAL)
    return [(piece, lowest - rank) for rank, piece in enumerate(contents[len(model.pieces) :], start=1)]


def _missing_characters(model: SentencePieceModel, runs: Counter[str]) -> list[str]:
    """Return the characters without a piece, most frequent first; the rarest of the text are left out."""
    known = {piece.text for piece in model.pieces}
    counts: Counter[str] = Counter()
    for run, count in runs.items():
        for character in run:
            counts[character] += count
    num_left = sum(counts.values()) * _CHARACTER_COVERAGE
    missing = []
    for character, count in counts.most_common():
        if num_left <= 0:
            break
        num_left -= count
        if character not in known:
            missing.append(character)
    return missing
