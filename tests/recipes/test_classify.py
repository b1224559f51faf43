"""Classification as typed, from a table to a pipeline; and every kind of bad input."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from jpllm.demo.builtin import labelled_sentences
from jpllm.training import machine
from tests.configs.test_configs import ROOT
from tests.recipes.test_pretrain_scratch import call_recipe

RECIPE = ROOT / "recipes" / "classify.py"
SMALL = {
    "--epochs": "4",
    "--learning_rate": "3e-3",
    "--warmup_steps": "0",
    "--per_device_train_batch_size": "16",
    "--save_steps": "0",
    "--precision": "fp32",
}


@pytest.fixture(scope="module")
def model_dir(tokenizer_dir, tmp_path_factory):
    """Small models with random weights beside their tokenizer."""
    from jpllm.models.build import build_from_scratch
    from jpllm.models.presets import ModelConfig
    from jpllm.tokenizer.load import load, save

    folder = tmp_path_factory.mktemp("models")
    tokenizer = load(tokenizer_dir)
    for preset in ("gpt2-tiny", "bert-tiny"):
        config = ModelConfig(model=preset, hidden_size=64, num_layers=2, num_heads=2, intermediate_size=128)
        build_from_scratch(config, tokenizer, seed=0).save_pretrained(folder / preset)
        save(tokenizer, tokenizer_dir, folder / preset)
    return folder


def write(file, rows):
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def train_file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "labels.jsonl", labelled_sentences(seed=0, count=600))


def arguments(**settings) -> list[str]:
    named = SMALL | {f"--{key}": str(value) for key, value in settings.items()}
    return [word for pair in named.items() for word in pair]


@pytest.fixture(scope="module")
def finished_run(model_dir, train_file, tmp_path_factory):
    """The command as a user types it, in its own process."""
    run = tmp_path_factory.mktemp("runs") / "run"
    words = arguments(
        model=model_dir / "gpt2-tiny", train_file=train_file, output_dir=run, trainable="all", early_stopping_evals=4
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", str(RECIPE), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return run, done.stdout


@pytest.fixture(autouse=True)
def own_peak():
    """The memory that tests before took is not that of the run."""
    machine.forget_peak()


def assert_planned(run, learned):
    """The plan is in the folder, with the parameters that learned, and of about the memory that it took."""
    plan, results = (json.loads((run / name).read_text()) for name in ("plan.json", "results.json"))
    assert (run / "plan.md").read_text(encoding="utf-8").startswith(f"# Plan of {run.name}\n")
    for key in ("num_parameters", "num_trainable"):
        assert plan[key] == results[key]
    assert (plan["num_trainable"] == plan["num_parameters"]) == (learned == "all")
    assert plan["memory"]["peak_bytes"] == pytest.approx(results["peak_host_bytes"], rel=0.5)
    assert ("kept output" in plan["disk"]) == (learned != "all")
    return plan


def test_it_learns_and_says_how_well(finished_run):
    run, stdout = finished_run
    results = json.loads((run / "results.json").read_text())
    plan = assert_planned(run, "all")
    assert plan["num_steps"] == 4 * 420 // 16
    assert results["test"]["accuracy"] > 0.6
    assert results["test"]["majority"] == 0.5
    assert results["reloaded_loss"] == pytest.approx(results["loss"], abs=1e-6)
    assert results["best_step"] <= results["step"]
    assert "train: 420 rows (negative 210, positive 210)" in stdout
    assert "test: 120 rows (negative 60, positive 60)" in stdout
    assert f"test: accuracy {results['test']['accuracy']:.2%}" in stdout
    assert " parameters are trained (100.00%)" in stdout
    held_out = [json.loads(line) for line in (run / "held_out.jsonl").open(encoding="utf-8")]
    assert len(held_out) == 60


def test_pipeline_gives_the_same_numbers(finished_run):
    from transformers import pipeline

    run, _ = finished_run
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["split"] == "test"]
    classify = pipeline("text-classification", model=str(run / "model"), device="cpu")
    for row, found in zip(rows, classify([row["text"] for row in rows], truncation=True, batch_size=7), strict=True):
        assert found["label"] == row["predicted"]
        assert found["score"] == pytest.approx(row["probabilities"][row["predicted"]], abs=1e-5)


def test_a_finished_command_again_does_nothing(finished_run, monkeypatch, capsys):
    run, _ = finished_run
    assert call_recipe(monkeypatch, RECIPE, ["--config", str(run / "config.yaml")]) == 0
    assert f"{run} is finished" in capsys.readouterr().out
    assert call_recipe(monkeypatch, RECIPE, ["--config", str(run / "config.yaml"), "--balance", "true"]) == 2


def test_pairs_in_a_table_with_an_encoder(model_dir, monkeypatch, tmp_path, capsys):
    """A CSV file, and a label that needs both texts: whether they are equal."""
    from transformers import pipeline

    words = ["猫が鳴いた", "雨が降る", "花が咲いた", "空は青い"]
    lines = [f"{a},{b},{'same' if a == b else 'other'}" for a in words for b in words for _ in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["一つ目,二つ目,label", *lines]) + "\n", encoding="utf-8")
    columns = {"text_column": "一つ目", "pair_column": "二つ目", "label_column": "label"}
    run = tmp_path / "run"
    settings = columns | {"validation_share": 0.2, "test_share": 0, "epochs": 2}
    argv = arguments(
        model=model_dir / "bert-tiny", train_file=tmp_path / "t.csv", output_dir=run, trainable="last_block", **settings
    )
    assert call_recipe(monkeypatch, RECIPE, argv) == 0
    assert "last_block: " in capsys.readouterr().out
    assert_planned(run, "last_block")
    results = json.loads((run / "results.json").read_text())
    assert "test" not in results
    row = json.loads((run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    classify = pipeline("text-classification", model=str(run / "model"), device="cpu")
    (found,) = [classify({"text": row["text"], "text_pair": row["text_pair"]})]
    assert found["score"] == pytest.approx(row["probabilities"][found["label"]], abs=1e-5)
    ids = classify.tokenizer("猫", "雨")["input_ids"]
    assert ids[0] == classify.tokenizer.eos_token_id
    assert ids.count(classify.tokenizer.eos_token_id) == 2


def test_numbers_by_default_with_the_last_block(model_dir, monkeypatch, tmp_path, capsys):
    from transformers import pipeline

    rows = [{"text": "良い" * (n % 5) + "です。", "label": n % 5 / 2} for n in range(100)]
    rows += [{"text": "良いです" * 40, "label": 2.5}]
    write(tmp_path / "valid.jsonl", rows[95:])
    argv = arguments(
        model=model_dir / "gpt2-tiny",
        train_file=write(tmp_path / "train.jsonl", rows[:95]),
        validation_file=tmp_path / "valid.jsonl",
        output_dir=tmp_path / "run",
        task="regression",
    )
    assert call_recipe(monkeypatch, RECIPE, argv) == 0
    printed = capsys.readouterr().out
    assert "last_block: " in printed
    assert "validation: 1 rows were cut to" in printed
    assert "validation: Pearson" in printed
    assert_planned(tmp_path / "run", "last_block")
    row = json.loads((tmp_path / "run" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    classify = pipeline("text-classification", model=str(tmp_path / "run" / "model"), device="cpu")
    (found,) = classify(row["text"], truncation=True)
    assert found["score"] == pytest.approx(row["predicted"], abs=1e-5)
    assert found["label"] == "score"


def questions(count: int) -> list[dict]:
    """Which of four is an animal?"""
    draw, rows = random.Random(0), []
    for number in range(count):
        choices = draw.sample(["机", "雨", "本", "空", "道", "花"], 3)
        label = draw.randrange(4)
        choices.insert(label, draw.choice(["犬", "猫", "馬", "鳥"]))
        named = {f"choice{place}": choice for place, choice in enumerate(choices)}
        rows.append({"question": f"{number}番目の問い。動物はどれですか?", **named, "label": label})
    return rows


@pytest.mark.parametrize("preset", ["gpt2-tiny", "bert-tiny"])
def test_questions_with_choices(model_dir, monkeypatch, tmp_path, capsys, preset):
    """The saved model scores each pair of question and choice, in plain transformers as in the run."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    run, columns = tmp_path / "run", [f"choice{place}" for place in range(4)]
    argv = arguments(
        model=model_dir / preset,
        train_file=write(tmp_path / "t.jsonl", questions(200)),
        output_dir=run,
        task="multiple_choice",
        text_column="question",
        trainable="all",
        epochs=6,
    )
    assert call_recipe(monkeypatch, RECIPE, [*argv, "--choice_columns", *columns]) == 0
    results = json.loads((run / "results.json").read_text())
    assert (results["test"]["accuracy"], results["test"]["chance"], results["test"]["num_rows"]) == (1.0, 0.25, 40)
    assert "train: 140 rows (choice0 " in capsys.readouterr().out
    assert_planned(run, "all")

    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["split"] == "test"]
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForSequenceClassification.from_pretrained(run / "model").eval()
    pipe = pipeline("text-classification", model=str(run / "model"), device="cpu")
    for row in rows[:10]:
        texts = [row["text"]] * 4
        batch = tokenizer(texts, row["choices"], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            scores = model(**batch).logits[:, 0]
        assert [row["probabilities"][name] for name in columns] == pytest.approx(scores.softmax(0).tolist(), abs=1e-5)
        assert row["predicted"] == row["label"] == scores.argmax()
        pairs = [{"text": row["text"], "text_pair": choice} for choice in row["choices"]]
        found = pipe(pairs, truncation=True)
        assert [own["score"] for own in found] == pytest.approx(scores.tolist(), abs=1e-5)


@pytest.mark.slow
def test_two_processes_equal_one(model_dir, train_file, tmp_path):
    """Two processes of half the batch share the computing of the frozen layers, and learn the same."""
    rows = {}
    for count in (1, 2):
        settings = {"per_device_train_batch_size": 16 // count, "output_dir": tmp_path / str(count)}
        words = arguments(model=model_dir / "gpt2-tiny", train_file=train_file, **settings)
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            str(count),
            str(RECIPE),
            *words,
        ]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        rows[count] = [json.loads(line) for line in (tmp_path / str(count) / "metrics.jsonl").read_text().splitlines()]
    for key in ("loss", "eval_loss", "eval_accuracy", "grad_norm", "step", "tokens"):
        values = [[row[key] for row in rows[count] if key in row] for count in (1, 2)]
        assert values[1] == pytest.approx(values[0], rel=1e-4), key
    reports = [json.loads((tmp_path / str(count) / "results.json").read_text())["test"] for count in (1, 2)]
    assert reports[0]["confusion"] == reports[1]["confusion"]


TO_CHOOSE = {"task": "multiple_choice", "text_column": "question", "keep_trunk_output": "false"}


def rows_with(**changed):
    return [{"text": f"文{n}", "label": "ab"[n % 2]} for n in range(40)] + ([changed] if changed else [])


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (rows_with(text="", label="a"), {}, "labels.jsonl:41: column 'text' is empty"),
        (rows_with(text="x", label=0.5), {}, "labels.jsonl:41: the label is 0.5, a number with a fraction"),
        (rows_with(), {"text_column": "body"}, "no column 'body'; the row has text, label (set text_column)"),
        ([{"text": "x", "label": "a"}] * 9, {}, "all 9 rows have the label 'a'"),
        (rows_with(), {"train_file": "gone.csv"}, "gone.csv: no such file"),
        (rows_with(), {"max_row_tokens": 1000}, "max_row_tokens: 1,000 are more than the 128 that the model can"),
        (rows_with(), {"metric": "pearson", "early_stopping_evals": 1}, "metric: classification has accuracy and mac"),
        (rows_with(), {"metric": "accuracy"}, "metric: acts with early_stopping_evals only"),
        (rows_with(), {"keep_trunk_output": "true", "trainable": "all"}, "keep_trunk_output: nothing is frozen with"),
        (rows_with(), {"per_device_train_batch_size": 64}, "a step takes 64 rows, and there are 28 to train on"),
        (rows_with(), {"model": "gone/nothing/here"}, "no such folder"),
        (rows_with(), {"tokens": 5}, "--tokens: unknown key; write epochs"),
        (rows_with(), TO_CHOOSE, "choice_columns: task: multiple_choice needs two or more of them"),
        (rows_with(), TO_CHOOSE | {"choice_columns": "label"}, "choice_columns: task: multiple_choice needs two or"),
    ],
)
def test_bad_input(model_dir, monkeypatch, capsys, tmp_path, rows, changes, message):
    file = write(tmp_path / "labels.jsonl", rows)
    settings = {"model": model_dir / "gpt2-tiny", "train_file": file, "output_dir": tmp_path / "run"} | changes
    assert call_recipe(monkeypatch, RECIPE, arguments(**settings)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_unknown_label_in_the_test_file(model_dir, train_file, monkeypatch, capsys, tmp_path):
    test_file = write(tmp_path / "test.jsonl", [{"text": "x", "label": "Positive"}])
    argv = arguments(
        model=model_dir / "gpt2-tiny", train_file=train_file, test_file=test_file, output_dir=tmp_path / "run"
    )
    assert call_recipe(monkeypatch, RECIPE, argv) == 2
    printed = capsys.readouterr().err
    assert "1 of 1 rows have a label that no training row has; known are negative, positive" in printed
    assert "test.jsonl:1: 'Positive'" in printed
