"""Rows of texts: what they state, and which are measured again."""

import hashlib

import numpy as np
import pytest

from jpllm.data.read.sources import SourceConfig
from jpllm.evaluation import perplexity, texts
from jpllm.evaluation.texts import ReadingConfig
from jpllm.runtime import InputError
from tests.models.test_build import tiny_model


@pytest.fixture
def model():
    return tiny_model("gpt2-tiny", num_ids=257)


def reading(folder, *contents, stride=None, context_length=16, max_bytes=1000):
    sources = []
    for number, content in enumerate(contents):
        file = folder / f"text{number}.txt"
        file.write_text(content, encoding="utf-8")
        sources.append(SourceConfig(str(file)))
    return ReadingConfig(sources, max_bytes, context_length, stride, batch_size=2)


def test_rows_state_what_was_read_and_how(tmp_path, encoder, model):
    (row,) = texts.add_missing([], model, encoder, reading(tmp_path, "吾輩は猫である。" * 4, stride=5))
    data = ("吾輩は猫である。" * 4).encode()
    _, counts = np.unique(np.frombuffer(data, np.uint8), return_counts=True)
    share = np.append(counts, 1) / (len(data) + 1)  # and one EOS
    assert row["unigram_bits_per_byte"] == pytest.approx(-(share * np.log2(share)).sum() * (len(data) + 1) / len(data))
    assert row["xz_bits_per_byte"] == perplexity.xz_bits_per_byte([data.decode()])
    assert (row["context_length"], row["stride"], row["max_bytes"]) == (16, 5, 1000)
    assert (row["text"], row["group"], row["num_bytes"]) == ("text0", "text0", len(data))
    assert row["sha256"] == hashlib.sha256(data).hexdigest()
    assert row["versions"]["torch"]
    assert "commit" in row


def test_only_what_is_missing_is_scored(tmp_path, encoder, model, monkeypatch):
    """Another text, other content, and another reading are missing; a row once measured stays as it is."""
    scored, score = [], perplexity.score
    monkeypatch.setattr(perplexity, "score", lambda *given, **more: scored.append(more) or score(*given, **more))
    rows = []
    (first,) = texts.add_missing(rows, model, encoder, reading(tmp_path, "短い。"))
    first["commit"] = "earlier"
    assert texts.add_missing(rows, model, encoder, reading(tmp_path, "短い。", "長い文章です。")) == rows
    assert (len(scored), [row["text"] for row in rows], rows[0]["commit"]) == (2, ["text0", "text1"], "earlier")
    others = (
        ("違う。", {}),
        ("短い。", {"stride": 4}),
        ("短い。", {"context_length": 8}),
        ("短い。", {"max_bytes": 999}),
    )
    for number, (content, settings) in enumerate(others, 3):
        (row,) = texts.add_missing(rows, model, encoder, reading(tmp_path, content, **settings))
        assert (len(scored), rows[-1]) == (number, row)


def test_a_model_that_depends_on_its_bos_is_told(tmp_path, encoder, monkeypatch, caplog):
    """The row has both figures; a row that was read without the BOS is not that of today."""
    model = tiny_model("llama-tiny", num_ids=258)
    rows = []
    (plain,) = texts.add_missing(rows, model, encoder, reading(tmp_path, "吾輩は猫である。" * 4))
    assert "bos_effect" not in plain
    encoder.bos_token_id = 257
    (row,) = texts.add_missing(rows, model, encoder, reading(tmp_path, "吾輩は猫である。" * 4))
    assert (len(rows), row["num_tokens"]) == (2, plain["num_tokens"])
    assert ("bos_token_id" in plain, row["bos_token_id"]) == (False, 257)

    monkeypatch.setattr(perplexity, "_TOLD_DIFFERENCE", 0.0)
    (row,) = texts.add_missing([], model, encoder, reading(tmp_path, "吾輩は猫である。" * 4))
    known = {"num_bytes": 96, "with_bos": row["bits_per_byte"], "without_bos": plain["bits_per_byte"]}
    assert row["bos_effect"] == pytest.approx(known)
    assert "text0, 96 bytes of it: bits per byte" in caplog.text
    (remark,) = texts.bos_remarks([row, plain])
    assert remark.startswith("text0 (96 bytes): bits per byte")


def test_average_counts_each_text_the_same(tmp_path, encoder, model):
    """Over rows of several commands, and only over those that were read alike."""
    rows = []
    texts.add_missing(rows, model, encoder, reading(tmp_path, "短い。"))
    texts.add_missing(rows, model, encoder, reading(tmp_path, "短い。", "長い文章です。" * 9))
    texts.add_missing(rows, model, encoder, reading(tmp_path, "短い。", context_length=8))
    average, geometric = texts.averages(rows)
    for key in (
        "loss",
        "perplexity",
        "bits_per_character",
        "bits_per_byte",
        "unigram_bits_per_byte",
        "xz_bits_per_byte",
    ):
        assert average[key] == pytest.approx((rows[0][key] + rows[1][key]) / 2)
    assert (average["text"], average["context_length"], average["stride"]) == ("average", 16, 15)
    assert geometric["perplexity"] == pytest.approx((rows[0]["perplexity"] * rows[1]["perplexity"]) ** 0.5)
    head, shown = texts.table(rows)
    assert {len(cells) for cells in shown} == {len(head)}
    assert [cells[0] for cells in shown] == ["text0", "text1", "text0", "average", "geometric mean"]


def test_windows_that_do_not_fit(tmp_path, encoder, model):
    positions = model.config.max_position_embeddings
    with pytest.raises(InputError, match=f"context_length: {positions + 1:,} is more than the model's {positions:,}"):
        texts.add_missing([], model, encoder, reading(tmp_path, "短い。", context_length=positions + 1))
    with pytest.raises(InputError, match=r"stride: 16 must be below the context length \(16\)"):
        texts.add_missing([], model, encoder, reading(tmp_path, "短い。", stride=16))
