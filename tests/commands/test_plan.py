import importlib.util
import re
import sys
from pathlib import Path

import pytest

from jpllm import cli, config
from jpllm.commands import plan
from jpllm.config_types import keys_of
from jpllm.training import machine

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPES = ["pretrain_scratch", "cpt"]
YAMLS = [file for recipe in RECIPES for file in sorted((ROOT / "recipes" / "configs" / recipe).glob("*.yaml"))]
TINY = ["--model", "gpt2-tiny", "--vocab_size", "500", "--sequence_length", "64", "--tokens", "10_000"]
NEOX = ["--model", "neox-1b", "--vocab_size", "32000", "--tokens", "15_565_271_040"]


def load_recipe(name):
    specification = importlib.util.spec_from_file_location(f"planned_{name}", ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def run(*argv):
    """Exit code of `jpllm plan …`."""
    try:
        return cli.main(["plan", *argv])
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a source, on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "gpus", lambda: [])
    (tmp_path / "x.txt").write_text("吾輩は猫である。" * 200, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_of_a_recipe_can_be_planned(name):
    planned = {key for cls in plan.CONFIGURATION for key in keys_of(cls)}
    assert keys_of(load_recipe(name).RecipeConfig).keys() <= planned


@pytest.mark.parametrize("file", YAMLS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_shipped_configuration_parses(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    config.parse(plan.CONFIGURATION, ["--config", str(file)], prog="", description="")


def test_a_small_model_fits_this_machine(here, capsys):
    assert run("--sources", "x.txt", "--output_dir", "run", *TINY) == 0
    output = capsys.readouterr().out
    assert "gpt2-tiny (gpt2): 140,288 parameters, vocabulary 500, 2 layers" in output
    assert (
        "10,240 tokens in 20 steps of 512: 0.07 a parameter; 20 a parameter (Hoffmann et al. 2022) would be" in output
    )
    assert re.search(r"x +≈ 864 .* 100\.0% +10,240 +≈ 11\.85", output)
    assert "time: the speed of this hardware is not known" in output
    lines = output.splitlines()
    assert re.fullmatch(
        r"fits: \d+ MiB of [\d.]+ GiB on CPU, micro-batch 8 × 1, accelerate_configs/cpu.yaml", lines[-2]
    )
    assert lines[-1] == (
        "accelerate launch --config_file accelerate_configs/cpu.yaml recipes/pretrain_scratch.py --config CONFIG.yaml"
    )
    assert [file.name for file in here.iterdir()] == ["x.txt"]


def test_the_large_model_on_a_gpu_of_12_gb(here, capsys):
    """One process is too much; with the optimizer in the host a smaller micro-batch fits."""
    (here / "c.yaml").write_text(
        "sources: [x.txt]\noutput_dir: run\ngradient_accumulation_steps: 16\n", encoding="utf-8"
    )
    assert run("--config", "c.yaml", *NEOX, "--gpu", "rtx3060", "--host_memory_gib", "32") == 1
    output = capsys.readouterr().out
    assert "778,263,552 parameters" in output
    assert "15,565,324,288 tokens in 118,754 steps of 131,072: 20.00 a parameter" in output
    verdict, command = output.splitlines()[-2:]
    assert re.fullmatch(r"does not fit: it needs \d\d\.\d\d GiB on rtx3060, and there are 12\.00 GiB", verdict)
    assert command == (
        "accelerate launch --config_file accelerate_configs/zero2_offload.yaml --num_processes 1 "
        "recipes/pretrain_scratch.py --config c.yaml --per_device_train_batch_size 4 --gradient_accumulation_steps 32"
    )


def test_a_full_disk_does_not_fit(here, capsys, monkeypatch):
    monkeypatch.setattr(machine, "free_disk_bytes", lambda folder: 1000)
    assert run("--sources", "x.txt", "--output_dir", "run", *TINY) == 1
    assert "does not fit: it needs 0.0 GB of disk for token shards and checkpoints and model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--gpu", "rtx9"], "--gpu: unknown GPU 'rtx9'"),
        (["--tokenizer", "gone/tok/x"], "plan with --vocab_size N"),
        ([], "tokenizer: required, but not set; before there is one, plan with --vocab_size N"),
        (["--vocab_size", "500", "--sequence_length", "4096"], "4,096 tokens are more than the model's 512 positions"),
        (["--model", "runs/gone/model"], "before there is one"),
        (["--model", "llama-tin", "--vocab_size", "5"], "no preset; did you mean 'llama-tiny'?"),
        (["--model", "own/model", "--num_layers", "2"], "own/model is no preset and has its own shape; remove it"),
        (["--vocab_size", "5", "--sequence_length", "9", "--gpu", "t4", "--calibrate"], "calibrate: runs on this"),
    ],
)
@pytest.mark.usefixtures("here")
def test_bad_input(argv, message, capsys):
    assert run("--sources", "x.txt", "--output_dir", "run", "--tokens", "1000", *argv) == 2
    assert message in capsys.readouterr().err


def test_a_trained_model_has_its_own_shape(here, capsys):
    """As recipes/cpt.py takes it, with its own keys."""
    from transformers import GPT2Config

    GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=128).save_pretrained("model")
    argv = ["--sources", "x.txt", "--output_dir", "run", "--model", "model", "--sequence_length", "64", "--epochs", "2"]
    argv += ["--replay", "0.25", "--replay_sources", "{path: x.txt, name: old}", "--vocab_size", "300"]
    assert run(*argv) == 0
    output = capsys.readouterr().out
    assert "model (gpt2): 39,168 parameters" in output
    assert re.search(r"old .* 25\.0%", output)
    assert output.splitlines()[-1].endswith("recipes/cpt.py --config CONFIG.yaml")


@pytest.mark.usefixtures("here")
def test_an_encoder(capsys):
    argv = ["--sources", "x.txt", "--output_dir", "run", *TINY, "--model", "bert-tiny", "--objective", "mlm"]
    argv.remove("gpt2-tiny")
    argv.remove("--model")
    assert run(*argv) == 0
    assert "bert-tiny (bert)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_calibrate_agrees_with_the_plan(capsys):
    argv = ["--model", "gpt2-small", "--num_layers", "2", "--vocab_size", "4000", "--sequence_length", "128"]
    assert (
        run("--sources", "x.txt", "--output_dir", "run", "--tokens", "9", "--precision", "fp32", *argv, "--calibrate")
        == 0
    )
    output = capsys.readouterr().out
    assert 0.9 < float(re.search(r"predicted / measured +([\d.]+)", output)[1]) < 1.1
    assert "tokens/s measured in 5 steps" in output
