"""The main job as typed, on a small corpus; and every kind of bad input."""

import getpass
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jpllm import cli
from tests.configs.test_configs import ROOT, load_recipe

RECIPE = ROOT / "recipes" / "pretrain_scratch.py"
SMALL = ["--model", "gpt2-tiny", "--sequence_length", "64", "--tokens", "3000", "--per_device_train_batch_size", "4"]
SMALL += ["--held_out_fraction", "0.05", "--held_out_bytes", "5000", "--max_new_tokens", "8", "--eval_steps", "6"]
SMALL += ["--precision", "fp32", "--learning_rate", "3e-3", "--logging_steps", "2", "--sample_prompts", "むかし、"]


@pytest.fixture(scope="module")
def finished_run(corpus_file, tokenizer_dir, tmp_path_factory):
    """The command as a user types it, in its own process."""
    folder = tmp_path_factory.mktemp("runs")
    command = ["accelerate.commands.launch", str(RECIPE), *SMALL, "--sources", str(corpus_file)]
    command += [
        "--tokenizer",
        str(tokenizer_dir),
        "--shards_dir",
        str(folder / "shards"),
        "--output_dir",
        str(folder / "run"),
    ]
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_run_folder(finished_run):
    run, stdout = finished_run
    assert sorted(path.name for path in run.iterdir()) == [
        *(".lock", "checkpoints", "config.yaml", "environment.json", "held_out.jsonl", "loss.png"),
        *("metrics.jsonl", "model", "plan.json", "plan.md", "results.json", "run.json", "samples.jsonl"),
    ]
    results = json.loads((run / "results.json").read_text())
    assert (results["step"], results["tokens"]) == (12, 12 * 4 * 64)
    assert results["reloaded_loss"] == pytest.approx(results["loss"], abs=1e-6)
    assert f"held-out bits per byte {results['bits_per_byte']:.4f}" in stdout
    assert f"{results['num_parameters']:,} parameters" in stdout
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0] - 0.5
    assert results["peak_host_bytes"] >= max(row["peak_host_bytes"] for row in rows) > 100e6
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [(row["step"], row["prompt"]) for row in samples] == [(0, "むかし、"), (6, "むかし、"), (12, "むかし、")]


def test_the_plan_is_that_of_jpllm_plan_and_of_what_happened(finished_run, capsys):
    run, _ = finished_run
    planned, results = (json.loads((run / name).read_text()) for name in ("plan.json", "results.json"))
    same = ("num_tokens", "num_steps", "num_parameters")
    assert [planned[key] for key in same] == [results["tokens"], results["step"], results["num_parameters"]]
    assert planned["fits"] is True
    text = (run / "plan.md").read_text()
    verdict = text.splitlines()[-2]
    assert cli.main(["plan", "--config", str(run / "config.yaml")]) == 0
    output = capsys.readouterr().out
    assert verdict in output
    memory = planned["memory"]
    assert sum(memory["parts"].values()) == memory["peak_bytes"]
    assert f"{memory['peak_bytes'] / 2**20:.0f} MiB" in verdict


def test_the_environment_says_where_it_ran_and_no_more(finished_run):
    run, _ = finished_run
    text = (run / "environment.json").read_text()
    (session,) = json.loads(text)["sessions"]
    assert session["program"] == "pretrain_scratch.py"
    assert session["keys"][:2] == ["model", "sequence_length"]
    assert session["versions"]["torch"] == torch.__version__
    assert session["engine"] == "one process"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", session["started"])
    for private in (str(run.parent), platform.node(), getpass.getuser() + "/", "むかし"):
        assert private not in text


def test_evaluate_gives_the_same_number(finished_run, tmp_path, capsys, monkeypatch):
    """The second command, from the saved folder alone, measures what the run measured."""
    run, _ = finished_run
    argv = ["--model", str(run / "model"), "--texts", str(run / "held_out.jsonl")]
    argv += ["--output_dir", str(tmp_path), "--max_new_tokens", "5"]
    assert call_recipe(monkeypatch, ROOT / "recipes" / "evaluate.py", argv) == 0
    (row,) = json.loads((tmp_path / "evaluation.json").read_text())["perplexity"]
    results = json.loads((run / "results.json").read_text())
    for key in ("bits_per_byte", "xz_bits_per_byte", "loss"):
        assert row[key] == pytest.approx(results[key], rel=1e-5)
    texts = [json.loads(line)["text"] for line in (run / "held_out.jsonl").open(encoding="utf-8")]
    assert row["num_bytes"] == sum(len(text.encode()) for text in texts)
    assert "| held_out |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "evaluation.json").read_text())["samples"]) == 3


def test_what_was_forgotten_of_each_group(finished_run, tmp_path, capsys, monkeypatch):
    """A model beside itself has forgotten nothing; texts of a group are added up."""
    run, _ = finished_run
    model = str(run / "model")
    texts = [json.dumps({"path": str(run / "held_out.jsonl"), "name": name, "group": "stories"}) for name in "ab"]
    argv = ["--model", model, "--parts", "forgetting", "samples", "--texts", *texts, "--earlier_models", f"{model}/."]
    argv += ["--output_dir", str(tmp_path), "--max_new_tokens", "5"]
    assert call_recipe(monkeypatch, ROOT / "recipes" / "evaluate.py", argv) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    bits = json.loads((run / "results.json").read_text())["bits_per_byte"]
    assert found["forgetting"]["models"] == [f"{model}/.", model]
    assert found["forgetting"]["bits_per_byte"] == {"stories": pytest.approx([bits, bits], rel=1e-5)}
    assert found["forgetting"]["earlier_models"][0]["weights_sha256"] == found["weights_sha256"]
    assert set(found["sample_quality"]) >= {"japanese", "repeated", "distinct_2", "ended"}
    assert "| stories |" in capsys.readouterr().out
    assert (
        call_recipe(monkeypatch, ROOT / "recipes" / "evaluate.py", ["--model", model, "--earlier_models", model]) == 2
    )


def test_saved_model_loads_like_any_other(finished_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, _ = finished_run
    model, tokenizer = (kind.from_pretrained(run / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert model.config.eos_token_id == tokenizer.eos_token_id == 3
    assert (run / "model" / "tokenizer.model").exists()


def test_a_finished_command_again_does_nothing(finished_run, monkeypatch, capsys):
    """The resolved configuration is a configuration, of the same run."""
    run, _ = finished_run
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert call_recipe(monkeypatch, RECIPE, ["--config", str(run / "config.yaml")]) == 0
    assert f"{run} is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert call_recipe(monkeypatch, RECIPE, ["--config", str(run / "config.yaml"), "--seed", "1"]) == 2
    assert "holds a finished run with another seed; name a new folder" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_equal_one(finished_run, corpus_file, tokenizer_dir, tmp_path):
    """Two processes of half the batch: the same losses, shards built once, metrics and model written once."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(RECIPE)),
        *SMALL,
    ]
    command += ["--per_device_eval_batch_size", "4", "--sources", str(corpus_file), "--tokenizer", str(tokenizer_dir)]
    command += ["--shards_dir", str(tmp_path / "shards"), "--output_dir", str(tmp_path / "run")]
    command[command.index("--per_device_train_batch_size") + 1] = "2"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    rows, expected = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "run", finished_run[0])
    )
    assert json.loads((tmp_path / "run" / "results.json").read_text())["device"].startswith("2 × cpu")
    for key in ("loss", "eval_loss", "grad_norm", "learning_rate", "tokens", "step"):
        values, wanted = ([row[key] for row in table if key in row] for table in (rows, expected))
        assert values == pytest.approx(wanted, rel=1e-4), key


def call_recipe(monkeypatch, recipe, argv):
    """Run a recipe's main in this process; returns its exit code."""
    from jpllm import runtime

    monkeypatch.setattr(sys, "argv", [str(recipe), *argv])
    monkeypatch.setattr(runtime, "use_all_cores", lambda: None)
    return runtime.run_command(load_recipe(recipe).main)


@pytest.fixture
def bad_input(monkeypatch, capsys, corpus_file, tokenizer_dir, tmp_path):
    """Call the recipe with some settings replaced; returns the message, after checking code and leftovers."""

    def call(**changes):
        settings = {"tokenizer": tokenizer_dir, "sources": corpus_file, "output_dir": tmp_path / "run"}
        settings |= {"shards_dir": tmp_path / "shards"} | changes
        argv = [*SMALL]
        for key, value in settings.items():
            if f"--{key}" in argv:
                at = argv.index(f"--{key}")
                del argv[at : at + 2]
            argv += [f"--{key}", str(value)]
        assert call_recipe(monkeypatch, RECIPE, argv) == 2
        if changes.get("output_dir") is None:
            assert not (tmp_path / "run").exists()
        partial = list(tmp_path.rglob("*.partial"))
        assert partial == []
        return capsys.readouterr().err

    return call


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", r"empty.jsonl: the source holds no text"),
        ("short.jsonl", b'{"text": "\xe7\x8c\xab"}\n' * 40, r"no document was held out|fewer than one block"),
        ("column.jsonl", b'{"body": "a"}\n', r"column.jsonl:1: no column 'text'; the row has body"),
        ("utf8.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"utf8.jsonl:2: invalid UTF-8: byte 0xff"),
        ("text.docx", b"PK", r"text.docx: unknown file type"),
        ("text.csv", b"a,b\n", r"text.csv: the source holds no text"),
    ],
)
def test_bad_sources(bad_input, tmp_path, name, content, message):
    assert re.search(message, bad_input(sources=write(tmp_path / name, content)))


def test_corpus_smaller_than_a_block(bad_input, tmp_path):
    texts = "".join(json.dumps({"text": f"文{n}"}, ensure_ascii=False) + "\n" for n in range(30))
    small = write(tmp_path / "small.jsonl", texts.encode())
    message = bad_input(sources=small, held_out_fraction="0.3", sequence_length="128")
    assert "fewer than one block: lower sequence_length (128) or add text" in message


def test_missing_source(bad_input, tmp_path):
    assert "gone.jsonl: no such file or folder" in bad_input(sources=tmp_path / "gone.jsonl")


def test_unknown_key_wrong_type_and_old_name_in_one_message(bad_input, tmp_path):
    file = write(tmp_path / "bad.yaml", b"learnin_rate: 1e-3\nlogging_steps: 1.5\nwarmup_ratio: 0.1\n")
    message = bad_input(config=file)
    assert f"{file}:1: learnin_rate: unknown key; did you mean 'learning_rate'?" in message
    assert f"{file}:2: logging_steps: write an integer, not 1.5" in message or "logging_steps" in message
    assert f"{file}:3: warmup_ratio: unknown key; write warmup_steps: a value below 1 is the share" in message


def test_sequence_longer_than_the_model(bad_input):
    assert "sequence_length: 129 tokens are more than the model's 128 positions" in bad_input(sequence_length="129")


def test_vocabulary_larger_than_the_model(bad_input):
    assert "vocab_size: the tokenizer has 1,200 ids, the model only 1,000" in bad_input(vocab_size="1000")


def test_prompt_longer_than_the_model(bad_input):
    assert "tokens; the model reads at most 64 together with the answer" in bad_input(sample_prompts="漢字" * 100)


def test_used_output_dir(bad_input, tmp_path):
    (tmp_path / "used").mkdir()
    write(tmp_path / "used" / "thesis.docx", b"")
    assert "already holds thesis.docx; name a new folder" in bad_input(output_dir=tmp_path / "used")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["thesis.docx"]


def test_missing_tokenizer(bad_input, tmp_path):
    assert "no such folder" in bad_input(tokenizer=tmp_path / "gone")
