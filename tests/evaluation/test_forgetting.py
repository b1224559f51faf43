"""The matrix of bits per byte: texts of a group are added up, and the first model is the reference."""

import pytest

from jpllm.data.read.sources import SourceConfig
from jpllm.evaluation import forgetting
from jpllm.evaluation.forgetting import matrix, table
from jpllm.evaluation.results import SUMS, identity
from jpllm.evaluation.texts import ReadingConfig
from jpllm.models.build import build_from_scratch, load_trained, record_trained_length
from jpllm.models.presets import ModelConfig
from jpllm.runtime import InputError
from jpllm.tokenizer.encoder import corpus_encoder
from jpllm.tokenizer.load import load, save


def row(group, bits, num_bytes):
    return {"group": group, "bits_per_byte": bits / num_bytes, "num_bytes": num_bytes}


def test_matrix():
    before = [row("english", 100, 100), row("english", 50, 200), row("prose", 600, 300)]
    after = [row("english", 150, 100), row("english", 60, 200), row("prose", 450, 300)]
    found = matrix({"base": before, "continued": after})
    assert found.models == ["base", "continued"]
    assert found.bits_per_byte == {"english": pytest.approx([0.5, 0.7]), "prose": pytest.approx([2.0, 1.5])}
    assert found.change == {"english": pytest.approx([0, 0.2]), "prose": pytest.approx([0, -0.5])}
    assert table(found) == (
        ["bits per byte", "base", "continued"],
        [["english", "0.5000", "0.7000 (+0.2000)"], ["prose", "2.0000", "1.5000 (-0.5000)"]],
    )


def make(folder, tokenizer_dir, seed, trained_length):
    tokenizer = load(tokenizer_dir)
    shape = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "max_positions": 64}
    model = build_from_scratch(ModelConfig(model="neox-tiny", **shape), tokenizer, seed=seed)
    record_trained_length(model, trained_length)
    model.save_pretrained(folder)
    save(tokenizer, tokenizer_dir, folder)
    return str(folder)


def compare(results, name, earlier, text, **changes):
    model, tokenizer = load_trained(name), load(name)
    settings = {"max_bytes": 1000, "context_length": None, "stride": None, "batch_size": 4, **changes}
    results.update(identity(name, model, tokenizer))
    reading = ReadingConfig([SourceConfig(str(text), group="prose")], **settings)
    forgetting.add_missing(results, model, corpus_encoder(tokenizer, name), earlier, reading)
    return results["forgetting"]


def test_all_models_read_with_one_context(tokenizer_dir, tmp_path):
    """The shortest of the lengths that they were trained on; it is measured again only for other models or texts."""
    text = tmp_path / "text.txt"
    text.write_text("吾輩は猫である。名前はまだ無い。" * 20, encoding="utf-8")
    old, new = (make(tmp_path / str(length), tokenizer_dir, length, length) for length in (24, 48))
    results = {}
    found = compare(results, new, [old], text)
    assert (found["models"], found["context_length"], found["stride"]) == ([old, new], 24, 23)
    assert found["earlier_models"] == [identity(old, load_trained(old), load(old))]
    (row,) = results["perplexity"]
    assert (row["context_length"], row["stride"]) == (24, 23)
    assert found["texts"] == [{key: row[key] for key in ("text", "group", "sha256", "max_bytes")}]
    assert found["bits_per_byte"]["prose"][1] == pytest.approx(row["bits_per_byte"])
    assert found["versions"]["torch"]
    alone = compare({}, old, [new], text, context_length=24)["bits_per_byte"]["prose"]
    assert alone[::-1] == found["bits_per_byte"]["prose"]

    found["commit"] = "earlier"
    assert compare(results, new, [old], text)["commit"] == "earlier"
    make(tmp_path / "24", tokenizer_dir, 5, 24)  # other weights under the old name
    again = compare(results, new, [old], text)
    assert again["commit"] != "earlier"
    assert again["bits_per_byte"] != found["bits_per_byte"]
    assert [key for key in SUMS if again["earlier_models"][0][key] != found["earlier_models"][0][key]] == list(SUMS[:1])
    assert compare(results, new, [old], text, stride=8)["stride"] == 8
    with pytest.raises(InputError, match=r"stride: 24 must be below the context length \(24\)"):
        compare(results, new, [old], text, stride=24)
