import json

import pytest
from huggingface_hub import ModelCard

from jpllm import cli
from jpllm.evaluation.results import identity
from jpllm.models.build import build_from_scratch, load_trained
from jpllm.models.presets import ModelConfig
from jpllm.tokenizer.load import load
from tests.sharing.card import card_runs

LICENCES = ["--license", "apache-2.0", "--data_license", *card_runs.DATA_LICENSE]


@pytest.fixture
def folder(tmp_path):
    return card_runs.write(tmp_path / "neko", "scratch")


def test_the_command_as_typed(folder, capsys):
    assert cli.main(["card", str(folder), *LICENCES]) == 0
    file = folder / "model" / "README.md"
    assert capsys.readouterr().out == f"card {file}\n"
    assert ModelCard(file.read_text(encoding="utf-8")).data.license == "apache-2.0"
    assert (folder / "model" / "loss.png").exists()
    file.write_text("mine", encoding="utf-8")
    assert cli.main(["card", str(folder), *LICENCES]) == 2
    assert "there is a card already; --overwrite replaces it" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "mine"
    assert cli.main(["card", str(folder), "--overwrite", "--japanese", "false", *LICENCES]) == 0
    assert "日本語の要約" not in file.read_text(encoding="utf-8")


def test_what_is_missing_leaves_nothing_behind(folder, capsys):
    before = sorted(folder.rglob("*"))
    assert cli.main(["card", str(folder)]) == 2
    message = capsys.readouterr().err
    assert "the licence of the model" in message
    assert "the licence of the data diary" in message
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--run: required, but not set"),
        (["a", "b"], "name one run folder"),
        (["nowhere"], "nowhere: no model"),
        (["nowhere", "--license", "Apache 2"], "--license: 'Apache 2' is no identifier that the Hub knows"),
        (["nowhere", "--data_license", "diary"], "--data_license: write NAME=LICENCE, not 'diary'"),
    ],
)
def test_bad_input(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["card", *argv]) == 2
    assert message in capsys.readouterr().err


def test_only_evaluations_of_these_weights(folder, tokenizer_dir, tmp_path, capsys):
    tokenizer = load(tokenizer_dir)
    build_from_scratch(ModelConfig(model="llama-tiny", num_layers=1), tokenizer, seed=0).save_pretrained(
        folder / "model"
    )
    tokenizer.save_pretrained(folder / "model")
    own = identity("x", load_trained(folder / "model"), tokenizer)["weights_sha256"]
    texts = [{"text": name, "num_bytes": 1000, "bits_per_byte": 0.75} for name in ("ours", "theirs")]
    for place, digest, text in ((folder / "evaluation", own, texts[0]), (tmp_path / "more", "0", texts[1])):
        place.mkdir()
        content = {"model": "/home/x/m", "weights_sha256": digest, "perplexity": [text]}
        (place / "evaluation.json").write_text(json.dumps(content))
    assert cli.main(["card", str(folder), "--evaluation", str(tmp_path / "more"), *LICENCES]) == 0
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "| ours | 1,000 | 0.7500 |" in card
    assert "theirs" not in card
    assert "1 of 2 evaluations are of other weights" in capsys.readouterr().err
    assert cli.main(["card", str(folder), "--evaluation", str(tmp_path), *LICENCES, "--overwrite"]) == 2
    assert "holds no evaluation.json" in capsys.readouterr().err
