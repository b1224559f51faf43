"""`jpllm export --gguf` refuses what llama.cpp cannot read before a model is loaded or a file is written."""

import json

import pytest

from jpllm import cli
from jpllm.models import build
from jpllm.models.build import build_from_scratch
from jpllm.models.presets import ModelConfig
from jpllm.tokenizer.load import load, save
from jpllm.tokenizer.train import TokenizerConfig, train_and_export
from tests.commands.test_export import LICENCES, SHAPE
from tests.sharing.card import card_runs

pytest.importorskip("gguf", reason="pip install 'jpllm[gguf]'")
pytest.importorskip("xllamacpp", reason="pip install 'jpllm[gguf]'")


@pytest.mark.parametrize(
    ("tokenizer_settings", "change", "message"),
    [
        ({}, {}, "llama.cpp has no byte fallback for this kind"),
        ({"preset": "published"}, {}, "the tokenizer removes extra spaces"),
        ({"model_type": "bpe"}, {}, "the tokenizer rewrites texts by the rule nfkc"),
        (
            {"model_type": "bpe", "normalization": "identity"},
            {"hidden_act": "relu"},
            "with hidden_act silu; the model has",
        ),
    ],
)
def test_nothing_is_written(tmp_path, corpus_file, monkeypatch, capsys, tokenizer_settings, change, message):
    texts = [json.loads(line)["text"] for line in corpus_file.read_text(encoding="utf-8").splitlines()]
    train_and_export(texts, TokenizerConfig(vocab_size=1400, **tokenizer_settings), tmp_path / "tok")
    run, tokenizer = card_runs.write(tmp_path / "run", "scratch"), load(tmp_path / "tok")
    build_from_scratch(ModelConfig(model="llama-tiny", **SHAPE), tokenizer, seed=0).save_pretrained(run / "model")
    save(tokenizer, tmp_path / "tok", run / "model")
    config = json.loads((run / "model" / "config.json").read_text())
    (run / "model" / "config.json").write_text(json.dumps(config | change))
    monkeypatch.setattr(build, "load_trained", None)
    (tmp_path / "away").mkdir()
    argv = ["export", str(run), "--to", str(tmp_path / "away" / "out"), "--gguf", "f32", *LICENCES]
    assert cli.main(argv) == 2
    assert message in capsys.readouterr().err
    assert list((tmp_path / "away").iterdir()) == []
