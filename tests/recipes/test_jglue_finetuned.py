"""The part jglue_finetuned of the recipe as typed: what it leaves, and that it goes on where it was stopped."""

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml

from jpllm.models.build import build_from_scratch
from jpllm.models.presets import ModelConfig
from jpllm.runtime import InputError
from jpllm.tokenizer.load import load, save
from jpllm.training import jglue_finetuning
from tests.configs.test_configs import ROOT
from tests.evaluation.jglue.jglue_files import write_jglue
from tests.recipes.test_pretrain_scratch import call_recipe

pytest.importorskip("lm_eval", reason="pip install 'jpllm[eval]'")
RECIPE = ROOT / "recipes" / "evaluate.py"
QUICK = {
    "--any_jglue_content": "true",
    "--finetune_learning_rates": "1e-3",
    "--finetune_epochs": "1",
    "--finetune_batch_size": "8",
}


@pytest.fixture(scope="module")
def jglue_dir(tmp_path_factory):
    return write_jglue(tmp_path_factory.mktemp("jglue"), num_items=40)


@pytest.fixture(scope="module")
def models(tokenizer_dir, tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("models"), load(tokenizer_dir)
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64, "max_positions": 128}
    for preset in ("neox-tiny", "bert-tiny"):
        build_from_scratch(ModelConfig(model=preset, **shape), tokenizer, seed=0).save_pretrained(folder / preset)
        save(tokenizer, tokenizer_dir, folder / preset)
    return folder


@pytest.fixture
def commands(monkeypatch):
    """Runs happen in this process, which is quicker; the slow test below has the real ones."""
    found = []

    def in_this_process(command, run_dir):
        found.append(command)
        with monkeypatch.context() as patch:
            if call_recipe(patch, ROOT / "recipes" / "classify.py", command[2:]):
                raise InputError("what jglue_finetuning.run_recipe raises")

    monkeypatch.setattr(jglue_finetuning, "run_recipe", in_this_process)
    return found


def arguments(model, data, output_dir, *more, **changes):
    named = {"--model": model, "--parts": "jglue_finetuned", "--jglue_dir": data, "--output_dir": output_dir}
    named |= QUICK | {f"--{key}": value for key, value in changes.items()}
    return [*(str(word) for pair in named.items() for word in pair), *more]


def results_of(folder):
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_all_tasks_with_an_encoder(models, jglue_dir, commands, monkeypatch, tmp_path, capsys):
    """Each figure is that of the runs themselves; the second call does nothing, a further seed adds its own runs."""
    argv = arguments(models / "bert-tiny", jglue_dir, tmp_path, "--finetune_seeds", "0", "1")
    assert call_recipe(monkeypatch, RECIPE, argv) == 0
    results = results_of(tmp_path)
    assert [(row["task"], row["metric"]) for row in results["jglue_finetuned"]] == [
        *(("jnli", "acc"), ("jsts", "pearson"), ("jsts", "spearman"), ("jcommonsenseqa", "acc")),
        *(("marc_ja", "acc"), ("jcola", "acc"), ("jcola", "mcc")),
    ]
    names = {"acc": "accuracy", "pearson": "pearson", "spearman": "spearman"}
    for row in results["jglue_finetuned"]:
        folders = [tmp_path / "finetuned" / row["task"] / f"lr0.001_seed{seed}" for seed in (0, 1)]
        own = [json.loads((folder / "results.json").read_text())["test"] for folder in folders]
        assert {one["num_rows"] for one in own} == {row["n"]} == {40}
        if row["metric"] in names:
            values = [one[names[row["metric"]]] for one in own]
            assert row["value"] == pytest.approx(sum(values) / 2)
            assert row["standard_deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
        if row["metric"] == "acc":
            assert (row["chance"], row["majority"]) == (own[0]["chance"], own[0]["majority"])
    table = (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    assert "| jcommonsenseqa | acc | " in table
    assert "Tohoku BERT base, published" in table
    assert table.split("\n\n", 1)[1].strip() in capsys.readouterr().out
    assert len(commands) == 10

    assert call_recipe(monkeypatch, RECIPE, argv) == 0
    assert results_of(tmp_path) == results
    assert len(commands) == 10
    argv = arguments(models / "bert-tiny", jglue_dir, tmp_path, "--finetune_seeds", "0", "1", "2")
    assert call_recipe(monkeypatch, RECIPE, [*argv, "--finetune_tasks", "jsts"]) == 0
    assert len(commands) == 11
    rows = {(row["task"], row["metric"]): row for row in results_of(tmp_path)["jglue_finetuned"]}
    assert len(rows) == 7
    assert rows["jsts", "pearson"]["num_seeds"] == 3
    assert [one["seed"] for one in rows["jsts", "pearson"]["runs"]] == [0, 1, 2]


def test_beside_other_parts(models, jglue_dir, commands, monkeypatch, tmp_path):
    """The weights of a language model are told apart alike, whichever part is measured."""
    text = tmp_path / "text.txt"
    text.write_text("吾輩は猫である。", encoding="utf-8")
    argv = ["--model", str(models / "neox-tiny"), "--parts", "perplexity", "--texts", str(text)]
    assert call_recipe(monkeypatch, RECIPE, [*argv, "--output_dir", str(tmp_path / "out")]) == 0
    first = results_of(tmp_path / "out")
    more = {"finetune_tasks": "jcommonsenseqa", "finetune_seeds": 0, "finetune_trainable": "last_block"}
    assert call_recipe(monkeypatch, RECIPE, arguments(models / "neox-tiny", jglue_dir, tmp_path / "out", **more)) == 0
    second = results_of(tmp_path / "out")
    assert second["perplexity"] == first["perplexity"]
    assert second["weights_sha256"] == first["weights_sha256"]
    assert call_recipe(monkeypatch, RECIPE, arguments(models / "neox-tiny", jglue_dir, tmp_path / "out", **more)) == 0
    assert len(commands) == 1
    (row,) = second["jglue_finetuned"]
    assert results_of(tmp_path / "out")["jglue_finetuned"] == [row]
    assert (row["trainable"], row["max_row_tokens"], row["standard_deviation"]) == ("last_block", 128, None)


def test_without_a_training_file(models, commands, monkeypatch, tmp_path, capsys):
    """The validation file is cut 7 : 1 : 2. A learning rate that diverges is there, and is not chosen."""
    data = write_jglue(tmp_path / "jglue", num_items=40, with_train=False)
    more = {"finetune_tasks": "jnli", "finetune_seeds": 0, "finetune_split_validation": "true"}
    more |= {"finetune_gradient_accumulation_steps": 2, "finetune_activation_checkpointing": "true"}
    argv = arguments(models / "neox-tiny", data, tmp_path / "out", **more)
    argv.insert(argv.index("--finetune_learning_rates") + 1, "1e38")
    assert call_recipe(monkeypatch, RECIPE, argv) == 0
    (row,) = results_of(tmp_path / "out")["jglue_finetuned"]
    run = tmp_path / "out" / "finetuned" / "jnli" / "lr0.001_seed0"
    own = json.loads((run / "results.json").read_text())
    assert (own["validation"]["num_rows"], own["test"]["num_rows"], own["num_cut"]["test"]) == (4, 8, 0)
    assert (row["n"], row["num_cut"], row["scored"]) == (8, 0, "a fifth of the validation file")
    assert (row["value"], row["learning_rate"]) == (own["test"]["accuracy"], 1e-3)
    assert row["standard_error"] == pytest.approx(
        own["test"]["standard_error"]
    )  # no two of the rows are about one text
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert (settings["per_device_train_batch_size"], settings["gradient_accumulation_steps"]) == (4, 2)
    assert settings["activation_checkpointing"] is True
    assert [(run["learning_rate"], run["value"] is None) for run in row["runs"]] == [(1e-3, False), (1e38, True)]
    assert "scored on a fifth of the validation file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finetune_tasks": "jsquad"}, "--finetune_tasks[0]: write one of jnli, jsts"),
        ({"finetune_epochs": 0}, "--finetune_epochs: must be above 0"),
        ({"parts": "jglue"}, "finetune_epochs: acts only on the part jglue_finetuned"),
        ({"jglue_dir": "nowhere"}, "jglue_dir: nowhere: no such folder"),
        ({"any_jglue_content": "false"}, "40 items, not the file that was published"),
        ({"limit": 5}, "limit: acts only on the part jglue"),
    ],
)
def test_bad_input(models, jglue_dir, commands, monkeypatch, tmp_path, capsys, changes, message):
    argv = arguments(models / "neox-tiny", jglue_dir, tmp_path / "out", **changes)
    assert call_recipe(monkeypatch, RECIPE, argv) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not commands


def test_without_an_output_folder(models, jglue_dir, monkeypatch, capsys):
    argv = arguments(models / "neox-tiny", jglue_dir, "out")
    del argv[argv.index("--output_dir") : argv.index("--output_dir") + 2]
    assert call_recipe(monkeypatch, RECIPE, argv) == 2
    assert "output_dir: name it: each fine-tuning has a folder in it" in capsys.readouterr().err


@pytest.mark.slow
def test_stopped_and_gone_on_with(models, jglue_dir, tmp_path):
    """SIGTERM to the evaluation stops the run in it with a checkpoint; the same command goes on from there."""
    changes = {"finetune_tasks": "jsts", "finetune_seeds": 0, "finetune_epochs": 60, "finetune_batch_size": 4}
    command = [sys.executable, str(RECIPE), *arguments(models / "neox-tiny", jglue_dir, tmp_path, **changes)]
    run_dir = tmp_path / "finetuned" / "jsts" / "lr0.001_seed0"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        metrics = run_dir / "metrics.jsonl"
        deadline = time.monotonic() + 240
        while not (metrics.exists() and '"step": 20,' in metrics.read_text()):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "stopped; the same command goes on with it" in errors
    assert not (run_dir / "results.json").exists()
    assert list((run_dir / "checkpoints").glob("checkpoint-*"))

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "going on from" in done.stderr
    assert "| jsts | pearson |" in done.stdout
    assert not (run_dir / "checkpoints").exists()
    assert not (run_dir / "model").exists()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.stdout == done.stdout.replace("jsts, run 1 of 1: learning rate 0.001, seed 0\n", "")
