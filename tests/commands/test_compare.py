import json
import os
import resource
import subprocess
import sys

import pytest
import torch

from jpllm import cli, markdown
from jpllm.commands import compare as comparing
from jpllm.evaluation import comparison
from jpllm.evaluation.comparison import cut_mark
from jpllm.evaluation.generate import SamplingConfig, answers
from jpllm.models.build import load_trained
from jpllm.runtime import InputError
from jpllm.tokenizer import load as tokenizer_loading
from jpllm.tokenizer.load import load
from jpllm.tracking import runs as run_folders
from tests.models.test_build import tiny_model
from tests.tracking.compare.test_page import data_of
from tests.tracking.run_folders import place, write_run

PROMPTS = ["吾輩は猫である", "今日はどんな一日でしたか?"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with two runs, and what is none."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "a")
    write_run(tmp_path / "runs" / "b", settings={"seed": 7}, results=None)
    (tmp_path / "runs" / "empty").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def save_model(tokenizer_dir):
    """A function that puts a small model and its tokenizer into a folder."""

    def save(folder, preset):
        tokenizer = load(tokenizer_dir)
        tiny_model(preset, num_ids=len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


def test_a_page(folder, capsys):
    assert cli.main(["compare", "runs/a", "runs/b", "runs/empty", "--output", "new/report.html"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("new/report.html: a, b, 0.0 MB")
    reason = "no config.yaml, so it is no run, and no config.json, so it is no model"
    assert f"empty: not compared: {reason}" in shown.err
    data = data_of((folder / "new" / "report.html").read_text(encoding="utf-8"))
    assert [(run["name"], run["state"]) for run in data["runs"]] == [("a", "finished"), ("b", "unfinished")]
    assert data["refused"] == [{"name": "empty", "reason": reason}]
    assert [path.name for path in (folder / "new").iterdir()] == ["report.html"]


def test_runs_may_stand_behind_the_output_and_a_report_is_replaced(folder):
    for names in (["runs/a"], ["runs/a", "runs/b"]):
        assert cli.main(["compare", "--output", "r.html", *names]) == 0
        data = data_of((folder / "r.html").read_text(encoding="utf-8"))
        assert [f"runs/{run['name']}" for run in data["runs"]] == names


def test_markdown_and_the_terminal(folder, capsys, monkeypatch):
    assert cli.main(["compare", "runs/a", "runs/b", "--output", "r.md"]) == 0
    text = (folder / "r.md").read_text(encoding="utf-8")
    assert "| seed | 0 | 7 |\n" in text
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.main(["compare", "runs/a", "runs/b"]) == 0
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in capsys.readouterr().out.splitlines()]
    assert ["bits per byte", "0.7500", "0.7500"] in lines
    assert ["state", "finished", "unfinished, step 4"] in lines


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "runs: name run folders, or result folders behind --leaderboard"),
        (["gone", "runs/empty"], "runs: none can be compared\ngone: no such folder\nempty: no config.yaml"),
        (["runs/a", "runs/../runs/a"], "--runs: runs/../runs/a is named twice; remove one"),
        (["runs/a", "--output", "r.pdf"], "--output: write a file name that ends with .html or .md, not r.pdf"),
        (["runs/a", "--temperature", "0"], "--temperature: acts with prompts only; give them, or remove it"),
        (["runs/a", "--seed", "1", "--template", "none"], "--seed: acts with prompts only"),
        (["runs/a", "--prompts", "x"], "prompts: no model can answer\na: answers nothing: no model yet"),
    ],
)
def test_bad_input(argv, message, folder, capsys):
    before = sorted(folder.rglob("*"))
    assert cli.main(["compare", *argv]) == 2
    assert message in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--output", "runs/a/config.yaml/r.html"], "output: runs/a/config.yaml/r.html cannot be written: "),
        (["--output", "folder.html"], "output: folder.html cannot be written: a folder; name another file"),
        (["--wandb", "a/b/c"], "wandb: write ENTITY/PROJECT, not a/b/c"),
        (["--wandb", "a/b"], "wandb: "),  # no package, or no mirrored run
        (
            ["--wandb", "a/b", "--wandb_dry_run", "folder.html"],
            "wandb_dry_run: folder.html cannot be written: a folder",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_model_answers(argv, message, folder, capsys, monkeypatch):
    (folder / "folder.html").mkdir()
    monkeypatch.setattr(comparing, "ask", lambda *_: pytest.fail("a model was asked"))
    before = sorted(folder.rglob("*"))
    assert cli.main(["compare", "runs/a", "--prompts", "x", *argv]) == 2
    assert message in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def test_the_folder_of_a_report_for_wandb_is_made(folder):
    pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")
    (folder / "runs" / "a" / "wandb_run_id").write_text("id-of-a")
    assert cli.main(["compare", "runs/a", "--wandb", "team/project", "--wandb_dry_run", "new/r.json"]) == 0
    assert json.loads((folder / "new" / "r.json").read_text())["entity"] == "team"


@pytest.mark.parametrize(
    ("error", "remark"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "answers nothing: memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "answers nothing: memory ran out"),
        (MemoryError(), "answers nothing: memory ran out"),
        (InputError("no file /mnt/home/alice/m"), "answers nothing: no file ~/m"),
    ],
)
def test_a_model_that_fails_leaves_the_others_their_answers(error, remark, folder, save_model, monkeypatch):
    names = [save_model(folder / name, "gpt2-tiny") for name in ("large", "small")]
    real = comparison.ask

    def ask(name, *others):
        if name == "large":
            raise error
        return real(name, *others)

    monkeypatch.setattr(comparison, "ask", ask)
    argv = ["compare", "large", "small", "--prompts", PROMPTS[0], "--max_new_tokens", "4", "--output", "r.html"]
    assert cli.main(argv) == 0
    data = data_of((folder / "r.html").read_text(encoding="utf-8"))
    assert data["runs"][0]["remarks"][-1] == remark
    (expected,) = answers(load_trained(names[1]), load(names[1]), PROMPTS[:1], SamplingConfig(max_new_tokens=4))
    assert [len(own) for own in data["asked"]["prompts"][0]["texts"]] == [0, 1]
    assert data["asked"]["prompts"][0]["texts"][1][0]["text"] == expected.text


def test_other_errors_are_no_remarks(folder, save_model, monkeypatch):
    save_model(folder / "m", "gpt2-tiny")

    def fail(*_):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(comparison, "ask", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        cli.main(["compare", "m", "--prompts", "x"])


def test_parameters_that_cannot_be_counted_lose_no_answer(folder, save_model, monkeypatch):
    local = save_model(folder / "cache", "gpt2-tiny")

    def fail(_):
        raise AttributeError("no such class")

    for module, name in ((tokenizer_loading, "load"), (comparison, "load_trained")):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda given, real=real, **more: real(local if given == "owner/gpt2" else given, **more)
        )
    monkeypatch.setattr(run_folders, "num_parameters", fail)
    argv = ["compare", "owner/gpt2", "--prompts", PROMPTS[0], "--max_new_tokens", "4", "--output", "r.html"]
    assert cli.main(argv) == 0
    data = data_of((folder / "r.html").read_text(encoding="utf-8"))
    assert data["runs"][0]["remarks"] == ["its parameters cannot be counted: AttributeError"]
    assert len(data["asked"]["prompts"][0]["texts"][0]) == 1


def test_an_evaluation_of_another_model_is_not_shown(folder, save_model):
    save_model(folder / "runs" / "a" / "model", "llama-tiny")
    scores = {"jglue": [{"task": "jnli", "metric": "acc", "value": 0.41, "n": 200}], "weights_sha256": "0"}
    (folder / "runs" / "a" / "evaluation.json").write_text(json.dumps(scores))
    assert cli.main(["compare", "runs/a", "--output", "r.md"]) == 0
    text = (folder / "r.md").read_text(encoding="utf-8")
    assert "JNLI" not in text
    assert "| a | 1 of 1 evaluations are left out: of other weights |" in text


def test_three_checkpoints_answer_the_same_prompts(folder, save_model, capsys):
    """The published comparison: a model as it is, one from scratch and one that was trained on, in one command."""
    base = save_model(folder / "gpt2", "gpt2-tiny")
    models = [base, save_model(folder / "runs" / "a" / "model", "llama-tiny")]
    write_run(folder / "runs" / "masked")
    save_model(folder / "runs" / "masked" / "model", "bert-tiny")
    argv = ["compare", "gpt2", "runs/a", "runs/masked", "runs/b", "--prompts", *PROMPTS]
    sampling = ["--max_new_tokens", "6", "--temperature", "0.3", "--repetition_penalty", "1.2", "--seed", "5"]
    assert cli.main([*argv, *sampling, "--output", "r.html"]) == 0
    data = data_of((folder / "r.html").read_text(encoding="utf-8"))
    settings = SamplingConfig(max_new_tokens=6, temperature=0.3, repetition_penalty=1.2)
    expected = [answers(load_trained(name), load(name), PROMPTS, settings, seed=5) for name in models]
    found = data["asked"]["prompts"]
    assert [prompt["prompt"] for prompt in found] == PROMPTS
    for index, prompt in enumerate(found):
        own = [{"text": one[index].text, "step": None, "tokens": None, "ended": one[index].ended} for one in expected]
        assert prompt["texts"] == [[own[0]], [own[1]], [], []]
    assert data["asked"]["note"].startswith("seed 5, template auto, max_new_tokens 6, temperature 0.3")
    remarks = {run["name"]: run["remarks"] for run in data["runs"]}
    assert remarks["gpt2"] == ["a model without a record of its training"]
    assert remarks["masked"] == [
        "answers nothing: a masked language model, which cannot predict the next token; take a decoder, such as a Llama"
    ]
    assert remarks["b"] == ["answers nothing: no model yet"]
    parameters = next(row for row in data["tables"]["summary"][0]["rows"] if row["title"] == "parameters")
    assert parameters["cells"][0]["value"] == load_trained(base).num_parameters()

    assert cli.main([*argv[:3], "--prompts", *PROMPTS, *sampling, "--output", "r.md"]) == 0
    columns = [[one.text.strip() + cut_mark(one) for one in own] for own in expected]
    table = markdown.table(["prompt", "gpt2", "a"], zip(PROMPTS, *columns, strict=True))
    assert f"## Answers\n\n{table}" in (folder / "r.md").read_text(encoding="utf-8")


def test_a_name_on_the_hub_is_a_column(folder, save_model, monkeypatch):
    """The Hub is not reached here: the folder below stands for what it would give."""
    local = save_model(folder / "cache", "gpt2-tiny")
    for module, name in ((tokenizer_loading, "load"), (comparison, "load_trained"), (run_folders, "num_parameters")):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda given, real=real, **more: real(local if given == "owner/gpt2" else given, **more)
        )
    argv = ["compare", "owner/gpt2", "runs/a", "--prompts", PROMPTS[0], "--max_new_tokens", "4", "--output", "r.html"]
    assert cli.main(argv) == 0
    data = data_of((folder / "r.html").read_text(encoding="utf-8"))
    assert [(run["name"], run["state"]) for run in data["runs"]] == [("owner/gpt2", "model"), ("a", "finished")]
    parameters = next(row for row in data["tables"]["summary"][0]["rows"] if row["title"] == "parameters")
    assert parameters["cells"][0]["value"] == load_trained(local).num_parameters()
    (expected,) = answers(load_trained(local), load(local), PROMPTS[:1], SamplingConfig(max_new_tokens=4))
    assert data["asked"]["prompts"][0]["texts"][0][0]["text"] == expected.text


@pytest.mark.slow
def test_twenty_runs_of_100_000_points(tmp_path):
    """A page under 10 MB in under 20 seconds of one core; each run has 12 prompts and 200 evaluations."""
    names = [f"run-{index:02d}" for index in range(20)]
    first = write_run(tmp_path / names[0], texts=[])
    figures = {"grad_norm": 1.0123456789, "learning_rate": 0.00029998363355848096, "tokens_per_second": 4042.7}
    with (first / "metrics.jsonl").open("w") as metrics, (first / "samples.jsonl").open("w") as texts:
        for step in range(1, 100_001):
            noise = (step * 7919 % 1009) / 1009
            row = {
                "loss": 2 + 6 / step**0.5 + noise / 10,
                **{key: value * (1 + noise) for key, value in figures.items()},
            }
            metrics.write(json.dumps({**place(step), **row, "kwh": step / 1e5}) + "\n")
            if step % 500 == 0:
                scores = {"eval_loss": 2.0, "eval_bits_per_byte": 0.6, "eval_group_bits_per_byte/old": noise}
                metrics.write(json.dumps({**place(step), **scores}) + "\n")
                for prompt in range(12):
                    sample = {"prompt": f"{PROMPTS[0]} {prompt}", "text": "名前はまだ無い。" * 75}
                    texts.write(json.dumps({**place(step), **sample}, ensure_ascii=False) + "\n")
    for name in names[1:]:
        write_run(tmp_path / name, texts=[])
        for file in ("metrics.jsonl", "samples.jsonl"):
            (tmp_path / name / file).unlink()
            os.link(first / file, tmp_path / name / file)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "jpllm.cli", "compare", *names, "--output", "report.html"]
    subprocess.run(command, cwd=tmp_path, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    page = tmp_path / "report.html"
    print(f"{seconds:.1f} s, {page.stat().st_size / 1e6:.1f} MB")
    assert page.stat().st_size < 10_000_000
    assert seconds < 20
    run = data_of(page.read_text(encoding="utf-8"))["runs"][19]
    assert (sum(run["curves"]["loss"]["step"]), len(run["curves"]["loss"]["mean"])) == (99_959, 1200)
