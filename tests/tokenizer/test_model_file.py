"""Scores on a grid: SentencePiece's 32 bits and tokenizers' 64 add them to the same sum, so ties end alike."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from jpllm.data.documents import read_documents
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.pack import pack
from jpllm.data.shards.token_shards import TokenShards
from jpllm.tokenizer.convert import convert
from jpllm.tokenizer.encoder import corpus_encoder
from jpllm.tokenizer.load import load, sentencepiece_file
from jpllm.tokenizer.model_file import NORMAL, read_model, without_paths
from jpllm.tokenizer.train import TokenizerConfig, train


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    texts = list(read_documents(SourceConfig(str(corpus_file))))
    train([*texts, "―――っっっ、、、。。。"] * 2, TokenizerConfig(vocab_size=1200, num_threads=1), folder / "m.model")
    convert(folder / "m.model", folder / "tokenizer")
    return folder / "tokenizer"


def test_every_score_of_a_trained_model_is_a_multiple_of_the_grid(tokenizer_dir):
    model = read_model(sentencepiece_file(tokenizer_dir))
    assert len(model.pieces) == 1200
    assert all((piece.score * 512).is_integer() for piece in model.pieces)
    kinds = {piece.text: piece.kind for piece in model.pieces if piece.text in "\n\t"}
    assert kinds == {"\n": NORMAL, "\t": NORMAL}


def test_long_documents_of_ties_get_the_ids_of_the_tokenizer(tokenizer_dir):
    generator = random.Random(0)
    words = ["―" * n for n in range(1, 9)] + ["。。", "っっっっ", "今日は", "公園で", "\n", "\n\n", "　", "\t", "  "]
    texts = ["".join(generator.choices(words, k=6000)) for _ in range(4)]
    tokenizer = load(tokenizer_dir)
    found = corpus_encoder(tokenizer, tokenizer_dir).encode(texts)
    for text, ids in zip(texts, found, strict=True):
        assert ids.tolist() == tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def test_a_model_with_a_prefix_for_each_text_is_not_given_single_lines(tmp_path, corpus_file):
    texts = list(read_documents(SourceConfig(str(corpus_file))))
    config = TokenizerConfig(vocab_size=1200, preset="published", num_threads=1)
    train(texts, config, tmp_path / "m.model")
    convert(tmp_path / "m.model", tmp_path / "tokenizer")
    document = "\n".join(texts)[:20_000]
    expected = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model")).encode(document)
    encoder = corpus_encoder(load(tmp_path / "tokenizer"), tmp_path / "tokenizer")
    assert encoder.encode([document])[0].tolist() == expected


@pytest.mark.slow
def test_ids_of_a_whole_corpus_are_those_of_the_tokenizer_document_by_document(real_data, tmp_path):
    source = SourceConfig(str(real_data / "aozora.jsonl.gz"))
    train(read_documents(source), TokenizerConfig(vocab_size=16_000, max_sentences=20_000), tmp_path / "m.model")
    convert(tmp_path / "m.model", tmp_path / "tokenizer")
    tokenizer = load(tmp_path / "tokenizer")
    encoder = corpus_encoder(tokenizer, tmp_path / "tokenizer")
    shards = TokenShards(pack(source, encoder, tmp_path / "shards", held_out_fraction=0))
    position = 0
    for number, text in enumerate(read_documents(source)):
        ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        found = shards.tokens(position, position + len(ids) + 1)
        assert np.array_equal(found, [*ids, tokenizer.eos_token_id]), f"document {number}"
        position += len(found)
    assert position == shards.size.num_tokens


def test_a_model_without_the_names_of_its_files(tmp_path, corpus_file):
    """Trained from a file, as SentencePiece's own command does, it holds two paths; nothing else is lost."""
    lines = tmp_path / "somebody" / "lines.txt"
    lines.parent.mkdir()
    lines.write_text("\n".join(read_documents(SourceConfig(str(corpus_file)))), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(lines), model_prefix=str(lines.parent / "m"), vocab_size=1200, minloglevel=2, byte_fallback=True
    )
    content = (lines.parent / "m.model").read_bytes()
    clean = without_paths(content)
    assert (b"somebody" in content, b"somebody" in clean) == (True, False)
    (tmp_path / "clean.model").write_bytes(clean)
    before, after = read_model(lines.parent / "m.model"), read_model(tmp_path / "clean.model")
    assert vars(before) == vars(after)
    own, other = (sentencepiece.SentencePieceProcessor(model_proto=one) for one in (content, clean))
    assert own.encode("吾輩は猫である。") == other.encode("吾輩は猫である。")
    assert without_paths(clean) == clean
