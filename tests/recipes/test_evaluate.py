"""The part jglue of the recipe as typed: what it writes, what it leaves as it was, and bad input."""

import hashlib
import json
import os
import subprocess
import sys
import time

import pytest

from jpllm import cli
from jpllm.evaluation import leaderboard
from jpllm.evaluation.jglue.continuations import PromptReader
from jpllm.models.build import build_from_scratch
from jpllm.models.presets import ModelConfig
from jpllm.tokenizer.load import load, save
from tests.configs.test_configs import ROOT
from tests.evaluation.jglue.jglue_files import write_jglue
from tests.recipes.test_pretrain_scratch import call_recipe

pytest.importorskip("lm_eval", reason="pip install 'jpllm[eval]'")
RECIPE = ROOT / "recipes" / "evaluate.py"


@pytest.fixture(scope="module")
def jglue_dir(tmp_path_factory):
    return write_jglue(tmp_path_factory.mktemp("jglue"))


@pytest.fixture(scope="module")
def model_dir(tokenizer_dir, tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("model"), load(tokenizer_dir)
    shape = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "max_positions": 512}
    build_from_scratch(ModelConfig(model="neox-tiny", **shape), tokenizer, seed=0).save_pretrained(folder)
    save(tokenizer, tokenizer_dir, folder)
    return folder


def arguments(model_dir, jglue_dir, *more):
    return ["--model", str(model_dir), "--parts", "jglue", "--jglue_dir", str(jglue_dir), *more]


def test_tasks_are_added_to_what_is_there(model_dir, jglue_dir, tmp_path, monkeypatch, capsys, tokenizer_dir):
    argv = arguments(model_dir, jglue_dir, "--any_jglue_content", "--limit", "4", "--output_dir", str(tmp_path))
    assert call_recipe(monkeypatch, RECIPE, [*argv, "--tasks", "jnli"]) == 0
    first = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    sums = {"weights_sha256", "config_sha256", "tokenizer_sha256"}
    assert {"model", *sums, "versions", "commit", "jglue"} == set(first)
    assert first["versions"]["lm_eval"]
    row = first["jglue"][0]
    assert (row["task"], row["style"], row["num_fewshot"], row["n"], row["limit"]) == ("jnli", "base", 3, 4, 4)
    assert (row["data_version"], set(row["data_sha256"])) == ("1.3", {"train", "valid"})
    text = tmp_path / "text.txt"
    text.write_text("吾輩は猫である。", encoding="utf-8")
    argv[2:3] = ["--texts", str(text), "--parts", "perplexity"]
    assert call_recipe(monkeypatch, RECIPE, [*argv, "--tasks", "jnli", "jsts"]) == 0
    second = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert [row["task"] for row in second["jglue"]] == ["jnli", "jnli", "jsts", "jsts"]
    assert second["jglue"][:2] == first["jglue"]
    assert second["perplexity"][0]["num_tokens"] > 0
    assert "| jsts | base | 4 | pearson |" in capsys.readouterr().out
    board = leaderboard.tables([tmp_path])[0]
    names = ["text, bits/byte", "JNLI accuracy", "JNLI balanced accuracy", "JSTS Pearson", "JSTS Spearman"]
    assert board.header == ["model", *names]
    assert board.rows[0][:2] == [str(model_dir), f"{second['perplexity'][0]['bits_per_byte']:.4f}"]

    other = build_from_scratch(ModelConfig(model="neox-tiny", num_layers=1), load(tokenizer_dir), seed=1)
    other.save_pretrained(model_dir)
    assert call_recipe(monkeypatch, RECIPE, [*argv, "--tasks", "jsts"]) == 2
    assert "other weights" in capsys.readouterr().err
    assert json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8")) == second  # nothing is lost


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--tasks": "jnlli"}, "--tasks"),
        ({"--jglue_dir": None}, "jglue_dir: name the folder with the official files"),
        ({"--parts": "samples"}, "jglue_dir: acts only on the part jglue"),
        ({"--parts": "samples", "--jglue_dir": None, "--style": "alpaca"}, "style: acts only on the part jglue"),
        ({"--jglue_dir": "nowhere"}, "jglue_dir: nowhere: no such folder"),
        ({"--any_jglue_content": "false"}, "12 items, not the file that was published"),
        ({"--num_fewshot": "9", "--tasks": "jnli"}, "num_fewshot: 9 examples; there are 8 of jnli"),
        ({"--contamination": "none.json"}, "contamination: none.json: no such file"),
    ],
)
def test_bad_input(model_dir, jglue_dir, tmp_path, monkeypatch, capsys, change, message):
    given = {"--model": str(model_dir), "--parts": "jglue", "--jglue_dir": str(jglue_dir)}
    given |= {"--any_jglue_content": "true", "--output_dir": str(tmp_path / "out"), **change}
    argv = [word for key, value in given.items() if value is not None for word in (key, value)]
    assert call_recipe(monkeypatch, RECIPE, argv) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda task: task.rename(task.with_name("jnli-v1.1")), "version 1.1 of jnli; scores are those of version 1.3"),
        (lambda task: os.truncate(task / "valid-v1.3.json", 900), "broken JSON, is the file whole?"),
        (lambda task: (task / "valid-v1.3.json").unlink(), "has no jnli-v*/valid-v*.json"),
    ],
)
def test_bad_files(tmp_path, monkeypatch, capsys, change, message):
    """Also where any content is taken, and before a model is loaded: here there is none."""
    folder = write_jglue(tmp_path / "jglue")
    change(folder / "jnli-v1.3")
    argv = arguments(tmp_path / "no_model", folder, "--any_jglue_content", "--output_dir", str(tmp_path / "out"))
    assert call_recipe(monkeypatch, RECIPE, [*argv, "--tasks", "jnli"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_scores_without_items_in_the_training_texts(model_dir, jglue_dir, tmp_path, monkeypatch, capsys):
    """Of four items two stand in the corpus; the model is not asked again."""
    rows = (jglue_dir / "jnli-v1.3" / "valid-v1.3.json").read_text(encoding="utf-8").splitlines()[:4]
    texts = [json.loads(row)["sentence1"] + json.loads(row)["sentence2"] for row in rows[1:3]]
    corpus, found, output_dir = tmp_path / "corpus.txt", tmp_path / "found.json", tmp_path / "out"
    corpus.write_text("".join(texts), encoding="utf-8")
    benchmark = str(jglue_dir / "jnli-v1.3" / "valid-v1.3.json")
    search = ["data", "contamination", "--sources", str(corpus), "--benchmarks", benchmark, "--output", str(found)]
    assert cli.main(search) == 0

    argv = arguments(model_dir, jglue_dir, "--any_jglue_content", "--limit", "4", "--output_dir", str(output_dir))
    argv += ["--tasks", "jnli"]
    assert call_recipe(monkeypatch, RECIPE, argv) == 0
    monkeypatch.setattr(PromptReader, "log_likelihoods", None)
    assert call_recipe(monkeypatch, RECIPE, [*argv, "--contamination", str(found)]) == 0
    accuracy = json.loads((output_dir / "evaluation.json").read_text(encoding="utf-8"))["jglue"][0]
    lines = (output_dir / "answers" / accuracy["answers"]).read_text(encoding="utf-8").splitlines()
    right = [row["gold"] == row["answer"] for row in map(json.loads, lines)]
    assert accuracy["value"] == sum(right) / 4
    (entry,) = accuracy["without_hits"]
    assert (entry["num_left_out"], entry["n"], entry["value"]) == (2, 2, (right[0] + right[3]) / 2)
    assert "without items in its training texts |" in capsys.readouterr().out

    assert call_recipe(monkeypatch, RECIPE, [*argv[:-4], *argv[-2:], "--contamination", str(found)]) == 2
    assert "contamination: the answers that it needs are in output_dir" in capsys.readouterr().err


def test_what_was_measured_is_kept_though_its_answers_cannot_be_used(
    model_dir, jglue_dir, tmp_path, monkeypatch, capsys
):
    """A report with names that no item has is refused; the scores of the same command are there by then."""
    valid = (jglue_dir / "jnli-v1.3" / "valid-v1.3.json").read_bytes()
    benchmark = {"name": "jnli", "sha256": hashlib.sha256(valid).hexdigest(), "id_column": "id", "context": None}
    benchmark |= {"num_items": 12, "leave_out": ["no such item"], "parts": {}}
    found, text = tmp_path / "found.json", tmp_path / "text.txt"
    found.write_text(json.dumps({"benchmarks": [benchmark]}), encoding="utf-8")
    text.write_text("吾輩は猫である。", encoding="utf-8")
    argv = arguments(model_dir, jglue_dir, "--any_jglue_content", "--tasks", "jnli", "--contamination", str(found))
    argv[2:3] = ["--texts", str(text), "--parts", "perplexity"]
    assert call_recipe(monkeypatch, RECIPE, [*argv, "--output_dir", str(tmp_path / "out")]) == 2
    assert "1 items found ('no such item', …) have no answer" in capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert [row["text"] for row in results["perplexity"]] == ["text"]
    assert [row["n"] for row in results["jglue"]] == [12, 12]


def test_texts_of_two_commands_stay(model_dir, tmp_path, monkeypatch, capsys):
    for name, content in (("a", "吾輩は猫である。"), ("b", "むかし、ある所に。")):
        (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
        argv = ["--model", str(model_dir), "--parts", "perplexity", "--texts", str(tmp_path / f"{name}.txt")]
        assert call_recipe(monkeypatch, RECIPE, [*argv, "--output_dir", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))["perplexity"]
    assert [row["text"] for row in rows] == ["a", "b"]
    assert "| average |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--texts", "a.txt", "b/a.txt"], "texts: a: named twice"),
        (["--texts", "a.txt", "--parts", "forgetting", "--earlier_models", "m", "m"], "earlier_models: m: named twice"),
        (["--texts", "a.txt", "--parts", "forgetting", "--earlier_models", "n", "me"], "earlier_models: me: named"),
    ],
)
def test_names_that_would_overwrite_each_other(monkeypatch, capsys, more, message):
    assert call_recipe(monkeypatch, RECIPE, ["--model", "me", *more]) == 2
    assert message in capsys.readouterr().err


def test_model_without_a_tokenizer(model_dir, jglue_dir, tmp_path, monkeypatch, capsys):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model_dir / name).read_bytes())
    assert call_recipe(monkeypatch, RECIPE, arguments(tmp_path, jglue_dir, "--any_jglue_content")) == 2
    assert f"{tmp_path}: no tokenizer can be loaded from it: it holds no tokenizer file" in capsys.readouterr().err


def launch(num_processes, script, *argv):
    """The recipe as `torchrun` starts it."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(num_processes),
        *script,
        *argv,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_score_as_one(model_dir, jglue_dir, corpus_file, tmp_path):
    """Choices, texts and numbers: 12 prompts in batches of 5, so that one process has two batches and one has one."""
    found = {}
    for number in (1, 2):
        output_dir = tmp_path / str(number)
        argv = arguments(model_dir, jglue_dir, "--any_jglue_content", "--limit", "12", "--batch_size", "5")
        argv[2:3] = ["--texts", str(corpus_file), "--max_bytes", "20000", "--parts", "perplexity"]
        tasks = ["--tasks", "jnli", "jcommonsenseqa", "jsquad", "jsts"]
        done = launch(number, [str(RECIPE)], *argv, *tasks, "--output_dir", str(output_dir))
        assert done.returncode == 0, done.stderr[-5000:]
        results = json.loads((output_dir / "evaluation.json").read_text(encoding="utf-8"))
        answers = {file.name: file.read_text(encoding="utf-8") for file in (output_dir / "answers").iterdir()}
        found[number] = results, answers, done.stdout
    (one, one_answers, one_shown), (two, two_answers, two_shown) = found[1], found[2]
    assert len(one_answers) == 4
    assert two_answers == one_answers
    assert two["jglue"] == one["jglue"]
    assert two_shown == one_shown  # one process speaks
    (alone,), (shared,) = one["perplexity"], two["perplexity"]
    numbers = {key for key, value in alone.items() if isinstance(value, float)}
    assert {key: shared[key] for key in numbers} == pytest.approx({key: alone[key] for key in numbers}, rel=1e-6)
    assert all(shared[key] == alone[key] for key in alone.keys() - numbers)
    assert {"loss", "bits_per_byte"} < numbers


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_that_fails_stops_the_other(model_dir, corpus_file, tmp_path):
    script = [str(ROOT / "tests" / "recipes" / "failing_process.py"), str(RECIPE)]
    argv = ["--model", str(model_dir), "--texts", str(corpus_file), "--max_bytes", "20000", "--parts", "perplexity"]
    started = time.monotonic()
    done = launch(2, script, *argv, "--output_dir", str(tmp_path / "out"))
    assert done.returncode
    assert "error: text.txt: this process cannot read it" in done.stderr
    assert time.monotonic() - started < 200  # gloo would wait for half an hour
    assert not (tmp_path / "out").exists()
