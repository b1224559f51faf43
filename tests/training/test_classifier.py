"""Training a classifier on Trainer: the right mean, kept layers that change nothing, and a run that can be trusted."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from jpllm.config.parse import ConfigError, parse
from jpllm.data.labels.encoding import EncodedChoices, EncodedRow, EncodedSplits, sequences_of
from jpllm.data.labels.rows import LabelledDataConfig, LabelledRow
from jpllm.models.classifier import build_classifier, choose_trainable
from jpllm.planning import of_run
from jpllm.runtime import Diverged, InputError
from jpllm.tracking.metrics import read_rows
from jpllm.training import classifier, engine, run
from jpllm.training.config import ClassifierTrainingConfig
from tests.models.test_build import tiny_model
from tests.training.test_resume import Interrupt, result_of

PAD, NAMES = 1, ["few", "many"]


def save_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def make_rows(count: int, first: int = 0, is_number: bool = False) -> list[EncodedRow]:
    """Rows whose label is whether a token of the upper half ends them; or a number that depends on it."""
    rng = np.random.default_rng(first)
    rows = []
    for number in range(first, first + count):
        ids = rng.integers(5, 50, rng.integers(1, 9)).astype(np.int32)
        target = float(ids[-1]) / 10 if is_number else int(ids[-1] > 27)
        label = target if is_number else NAMES[target]
        rows.append(EncodedRow(LabelledRow(f"f:{number}", f"text {number}", None, label), ids, None, target, number))
    return rows


def make_questions(count: int, first: int = 0) -> list[EncodedChoices]:
    """Three choices each; the tokens of the right one are of the upper half, those of the others of the lower."""
    rng = np.random.default_rng(first)
    rows = []
    for number in range(first, first + count):
        target, sequences = int(rng.integers(3)), []
        row = LabelledRow(f"f:{number}", f"text {number}", None, target, ("a", "b", "c"))
        for place in range(3):
            half = (28, 50) if place == target else (5, 28)
            ids = rng.integers(*half, rng.integers(1, 9)).astype(np.int32)
            sequences.append(EncodedRow(row, ids, None, target, 3 * number + place))
        rows.append(EncodedChoices(row, sequences, target))
    return rows


def splits_of(is_number: bool = False, has_choices: bool = False) -> EncodedSplits:
    if has_choices:
        parts = [make_questions(40), make_questions(12, 40), make_questions(10, 52)]
        return EncodedSplits(*parts, ["a", "b", "c"], max_tokens=8, num_cut={})
    parts = [make_rows(40, 0, is_number), make_rows(12, 40, is_number), make_rows(10, 52, is_number)]
    return EncodedSplits(*parts, None if is_number else NAMES, max_tokens=8, num_cut={})


def train(
    folder: Path,
    preset: str = "gpt2-tiny",
    trainable: str = "last_block",
    keeps: bool = True,
    is_number: bool = False,
    pads_to_longest: bool = False,
    dropout: float = 0.0,
    metric: str | None = None,
    has_choices: bool = False,
    **settings,
) -> dict:
    defaults = {"epochs": 2.0, "learning_rate": 1e-2, "logging_steps": 1, "warmup_steps": 0, "precision": "fp32"}
    training = ClassifierTrainingConfig(output_dir=folder / "run", **(defaults | {"save_steps": 0} | settings))
    if not (folder / preset).exists():
        tiny_model(preset, dropout=dropout).save_pretrained(folder / preset)
    names = ["choice"] if has_choices else NAMES
    model = build_classifier(folder / preset, None if is_number else names, seed=0)
    model.config.pad_token_id = PAD
    frozen = choose_trainable(model, trainable)
    splits, kept = splits_of(is_number, has_choices), frozen if keeps else []
    data = LabelledDataConfig(train_file=Path("x.csv"), choice_columns=["a", "b", "c"] if has_choices else None)
    plan = of_run.of_labelled_rows(model.config, data, training, splits, 8, trainable, bool(kept), engine.requested())
    make_trainer = partial(
        classifier.ClassifierTrainer,
        model=model,
        splits=splits,
        metric=metric or ("pearson" if is_number else "accuracy"),
        pad_token_id=PAD,
        pads_to_longest=pads_to_longest,
        frozen_layers=kept,
    )
    with classifier.divergence_noted(training.output_dir):
        return run.train(
            make_trainer,
            classifier.run_data(splits, training),
            [training],
            tokenizer_fingerprint="fingerprint",
            save_tokenizer=save_tokenizer,
            plan=plan,
        )


def rows_of(folder: Path, key: str) -> list[float]:
    return [row[key] for row in read_rows(folder / "run" / "metrics.jsonl") if key in row]


@pytest.mark.parametrize("is_number", [False, True])
def test_loss_is_the_mean_over_the_rows_of_a_step(tmp_path, is_number):
    """Also where a step has several micro-batches, which transformers' own GPT-2 would add up."""
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 5, "epochs": 0.25}
    train(tmp_path, trainable="all", is_number=is_number, **settings)
    exact = build_classifier(tmp_path / "gpt2-tiny", None if is_number else NAMES, seed=0).double()
    dataset = classifier.LabelledDataset(splits_of(is_number).train, 10, seed=0)
    rows = [dataset[n] for n in range(10)]
    outputs = torch.cat([exact(torch.tensor(row.ids[None].tolist())).logits for row in rows])
    targets = torch.tensor([row.target for row in rows])
    if is_number:
        expected = ((outputs[:, 0] - targets) ** 2).mean()
    else:
        expected = -outputs.log_softmax(-1)[torch.arange(10), targets].mean()
    expected.backward()
    norm = torch.stack([p.grad.norm() for p in exact.parameters() if p.grad is not None]).norm().item()
    assert rows_of(tmp_path, "loss") == pytest.approx([expected.item()], rel=1e-5)
    assert rows_of(tmp_path, "grad_norm") == pytest.approx([norm], rel=1e-4)


def test_loss_of_choices_is_that_of_a_softmax_over_them(tmp_path):
    """Each choice is computed alone in float64, without padding; the mean is that over the questions of a step."""
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 5, "epochs": 0.25}
    train(tmp_path, trainable="all", has_choices=True, **settings)
    exact = build_classifier(tmp_path / "gpt2-tiny", ["choice"], seed=0).double()
    dataset = classifier.LabelledDataset(splits_of(has_choices=True).train, 10, seed=0)
    losses = []
    for row in (dataset[n] for n in range(10)):
        scores = [exact(torch.tensor(sequence.ids[None].tolist())).logits[0, 0] for sequence in row.sequences]
        losses.append(-(scores[row.target].exp() / sum(score.exp() for score in scores)).log())
    expected = torch.stack(losses).mean()
    expected.backward()
    norm = torch.stack([p.grad.norm() for p in exact.parameters() if p.grad is not None]).norm().item()
    assert rows_of(tmp_path, "loss") == pytest.approx([expected.item()], rel=1e-5)
    assert rows_of(tmp_path, "grad_norm") == pytest.approx([norm], rel=1e-4)


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "bert-tiny"])
@pytest.mark.parametrize(("trainable", "has_choices"), [("head", False), ("last_block", False), ("last_block", True)])
def test_kept_layers_change_no_loss(tmp_path, preset, trainable, has_choices):
    """Dropout acts in the last layer alone, alike in both."""
    losses = {}
    for keeps in (True, False):
        folder = tmp_path / str(keeps)
        folder.mkdir()
        results = train(folder, preset, trainable, keeps, dropout=0.2, has_choices=has_choices)
        losses[keeps] = rows_of(folder, "loss") + rows_of(folder, "eval_loss") + rows_of(folder, "grad_norm")
        assert results["reloaded_loss"] == pytest.approx(results["loss"], abs=1e-5)
        assert not list((folder / "run").glob("*.npy"))
    assert losses[True] == pytest.approx(losses[False], rel=1e-4, abs=1e-6)
    assert len(losses[True]) == 10 + 3 + 10


@pytest.mark.parametrize("settings", [{"logging_steps": 1}, {"logging_steps": 100, "save_steps": 2}])
def test_a_run_that_diverges_says_so_in_its_folder(tmp_path, settings):
    """Whether a row of the metrics or a checkpoint finds it; a later try that ends well takes it back."""
    with pytest.raises(Diverged, match="lower learning_rate") as error:
        train(tmp_path, trainable="all", learning_rate=1e38, max_grad_norm=1e30, weight_decay=1.0, **settings)
    assert (tmp_path / "run" / "diverged.txt").read_text() == f"{error.value}\n"
    train(tmp_path, trainable="all", resume_changed=True)
    assert not (tmp_path / "run" / "diverged.txt").exists()


def test_padding_to_the_longest_training_row(tmp_path, monkeypatch):
    """Not to `max_tokens`, to which rows to evaluate on may go."""
    widths = set()
    make_batch = classifier.ClassifierTrainer._training_batch

    def noting(trainer, rows):
        batch = make_batch(trainer, rows)
        widths.add(batch["input_ids"].shape[1])
        return batch

    monkeypatch.setattr(classifier.ClassifierTrainer, "_training_batch", noting)
    parts = splits_of()
    wide = EncodedSplits(parts.train, parts.validation, parts.test, NAMES, max_tokens=20, num_cut={"test": 3})
    monkeypatch.setitem(globals(), "splits_of", lambda *_: wide)
    results = train(tmp_path, pads_to_longest=True)
    assert widths == {max(map(len, parts.train))} == {8}
    assert results["num_cut"] == {"test": 3}


def test_padding_changes_no_loss(tmp_path):
    losses = []
    for pads_to_longest in (True, False):
        folder = tmp_path / str(pads_to_longest)
        folder.mkdir()
        train(folder, "llama-tiny", pads_to_longest=pads_to_longest)
        losses.append(rows_of(folder, "loss") + rows_of(folder, "eval_loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_frozen_layers_stay_and_the_rest_learns(tmp_path):
    train(tmp_path)
    before = build_classifier(tmp_path / "gpt2-tiny", NAMES, seed=0).state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("transformer.h.1.", "transformer.ln_f", "score"))}


def test_run_folder_and_results(tmp_path, capsys):
    results = train(tmp_path, epochs=15.0)
    run_dir = tmp_path / "run"
    assert results == json.loads((run_dir / "results.json").read_text())
    assert sorted(path.name for path in run_dir.iterdir()) == [
        *(".lock", "config.yaml", "environment.json", "held_out.jsonl", "loss.png", "metrics.jsonl", "model"),
        *("plan.json", "plan.md", "predictions.jsonl", "results.json", "run.json", "scores.png"),
    ]
    assert results["validation"]["accuracy"] > results["before"]["accuracy"]
    steps = [row["step"] for row in read_rows(run_dir / "metrics.jsonl") if "eval_loss" in row]
    assert steps == [5 * epoch for epoch in range(16)]  # before, and after each epoch of 40 rows in steps of 8
    assert rows_of(tmp_path, "eval_accuracy")[-1] == results["validation"]["accuracy"]

    rows = [json.loads(line) for line in (run_dir / "predictions.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["validation"] * 12 + ["test"] * 10
    test_rows = rows[12:]
    right = [row["label"] == row["predicted"] for row in test_rows]
    assert results["test"]["accuracy"] == pytest.approx(sum(right) / 10)
    model = AutoModelForSequenceClassification.from_pretrained(run_dir / "model").eval()
    for row, encoded in zip(test_rows, splits_of().test, strict=True):
        own = model(torch.tensor(encoded.ids[None].tolist())).logits.softmax(-1)[0]
        assert [row["probabilities"][name] for name in NAMES] == pytest.approx(own.tolist(), abs=1e-5)
        assert row["predicted"] == model.config.id2label[own.argmax().item()]
    confusion = results["test"]["confusion"]
    for true in NAMES:
        for guessed in NAMES:
            hits = [row for row in test_rows if (row["label"], row["predicted"]) == (true, guessed)]
            assert confusion[true][guessed] == len(hits)
    printed = capsys.readouterr().out
    assert f"test: accuracy {results['test']['accuracy']:.2%} ±" in printed
    assert "true ↓ predicted →" in printed


def test_numbers(tmp_path, capsys):
    results = train(tmp_path, is_number=True, trainable="all", epochs=15.0)
    assert results["validation"]["pearson"] > results["before"]["pearson"] + 0.3
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()][12:]
    pairs = np.array([(row["label"], row["predicted"]) for row in rows])
    assert results["test"]["pearson"] == pytest.approx(np.corrcoef(pairs.T)[0, 1])
    assert results["test"]["loss"] == pytest.approx(((pairs[:, 0] - pairs[:, 1]) ** 2).mean())
    assert "test: Pearson" in capsys.readouterr().out


@pytest.mark.parametrize("preset", ["gpt2-tiny", "bert-tiny"])
def test_choices_that_can_be_told_apart_are(tmp_path, capsys, preset):
    """All questions are answered right, and the model that was read back gives each choice its probability."""
    results = train(tmp_path, preset, "all", has_choices=True, epochs=20.0, learning_rate=3e-3)
    assert results["before"]["accuracy"] < 0.7
    assert (results["validation"]["accuracy"], results["test"]["accuracy"]) == (1.0, 1.0)
    assert results["reloaded_loss"] == pytest.approx(results["loss"], abs=1e-6)
    assert results["test"]["chance"] == pytest.approx(1 / 3)
    keys = {"num_rows", "loss", "accuracy", "standard_error", "interval", "chance", "majority"}
    assert results["test"].keys() == keys
    labels = [row.target for row in splits_of(has_choices=True).test]
    assert results["test"]["majority"] == max(map(labels.count, labels)) / 10
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()][12:]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model").eval()
    for row, encoded in zip(rows, splits_of(has_choices=True).test, strict=True):
        scores = torch.cat([model(torch.tensor(one.ids[None].tolist())).logits[0] for one in sequences_of([encoded])])
        assert list(row["probabilities"].values()) == pytest.approx(scores.softmax(0).tolist(), abs=1e-5)
        assert row["predicted"] == row["label"] == encoded.target == scores.argmax()
        assert row["choices"] == ["a", "b", "c"]
    printed = capsys.readouterr().out
    accuracy = "accuracy 100.00% (95 % interval 72.25% to 100.00%)"
    assert f"test: {accuracy}; 10 rows, chance 33.33%, choosing always the same place" in printed
    assert "true ↓ predicted →" not in printed


@pytest.mark.parametrize(("keeps", "has_choices"), [(True, False), (False, False), (True, True)])
def test_interrupted_run_equals_the_whole_one(tmp_path, monkeypatch, keeps, has_choices):
    settings = {"dropout": 0.1, "keeps": keeps, "save_steps": 3, "logging_steps": 2, "eval_steps": 4}
    settings["has_choices"] = has_choices
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    train(whole, **settings)
    train_and_prove = run.train_and_prove
    for step, event in [(2, "on_step_end"), (5, "on_step_end"), (9, "on_save")]:

        def interrupted(trainer, *args, interrupt=(step, event)):
            trainer.add_callback(Interrupt(*interrupt))
            return train_and_prove(trainer, *args)

        with monkeypatch.context() as patch:
            patch.setattr(run, "train_and_prove", interrupted)
            with pytest.raises(RuntimeError, match="interrupted"):
                train(parts, **settings)
        assert not list((parts / "run").glob("*.npy"))
    train(parts, **settings)
    assert result_of(parts / "run") == result_of(whole / "run")
    results = [json.loads((folder / "run" / "results.json").read_text())["test"] for folder in (whole, parts)]
    assert results[0] == results[1]


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_early_stopping_keeps_the_best_metric(tmp_path, metric):
    settings = {"early_stopping_evals": 2, "eval_steps": 1, "learning_rate": 0.05, "epochs": 8.0}
    results = train(tmp_path, metric=metric, **settings)
    values = rows_of(tmp_path, f"eval_{metric}")
    assert results["validation"][metric] == max(values)
    assert len(values) < 41


def test_fewer_rows_than_a_step_takes(tmp_path):
    with pytest.raises(InputError, match="a step takes 64 rows, and there are 40 to train on; lower it"):
        train(tmp_path, per_device_train_batch_size=64)


def test_keys_of_language_models_are_no_keys_here(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("output_dir: x\nchunked_loss: false\ntokens: 5\noptimizer: muon\n")
    with pytest.raises(ConfigError) as error:
        parse([ClassifierTrainingConfig], ["--config", str(file)], prog="x", description="x")
    assert [problem.split(": ", 1)[1] for problem in error.value.problems] == [
        "chunked_loss: unknown key; the output of a classifier is small; remove it",
        "tokens: unknown key; write epochs: rows differ in length",
        "optimizer: write one of adamw, adamw_8bit, not 'muon'",
    ]
