"""With early stopping the best model is never lost, whenever and however often the run is ended."""

import json
import shutil

import pytest

from tests.faults import small_runs
from tests.faults.small_runs import COMMON, OF_TEXTS, SCRATCH, digests, log, outcome, results, rows

STOPPING = {"early_stopping_evals": 3}
RECIPES = {
    "pretrain_scratch": SCRATCH | STOPPING,
    "mlm": SCRATCH
    | STOPPING
    | {"objective": "mlm", "model": "bert-tiny", "sample_prompts": "む[MASK]し", "max_new_tokens": []},
    "cpt": OF_TEXTS | STOPPING | {"model": "base/model", "tokens": 1024, "sample_prompts": "むかし"},
    "sft": COMMON
    | STOPPING
    | {"model": "base/model", "sources": "rows.jsonl", "sequence_length": 32, "epochs": 2, "held_out_rows": 10}
    | {"template": "chat", "sample_prompts": "むかし", "answered_rows": 1, "max_new_tokens": 4},
    "classify": COMMON | STOPPING | {"model": "base/model", "train_file": "labels.csv", "epochs": 3},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return small_runs.inputs_and_run(tmp_path_factory.mktemp("inputs"), output_dir="base", save_steps=0)


@pytest.fixture
def folder(inputs, tmp_path):
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    return tmp_path


def settings_of(recipe: str, **more) -> dict:
    found = {key: value for key, value in RECIPES[recipe].items() if value != []}
    return found | more


@pytest.mark.parametrize(
    "recipe",
    [
        "pretrain_scratch",
        *(pytest.param(name, marks=pytest.mark.slow) for name in RECIPES if name != "pretrain_scratch"),
    ],
)
def test_ended_at_any_moment_it_ends_as_if_it_had_not_been(folder, recipe):
    """Before and behind the best evaluation, while no checkpoint knows of it yet, and twice in the proof."""
    name = "pretrain_scratch" if recipe == "mlm" else recipe
    assert small_runs.run(folder, settings_of(recipe, output_dir="whole"), recipe=name) == 0, log(folder)
    expected = outcome(folder / "whole")
    last_step = expected[0][-1]["step"]
    assert not list((folder / "whole").glob("best*"))
    for end in ("1", "3s", "5", "6s", "7", "proof", "proof"):
        if not end[0].isdigit() or int(end[0]) < last_step:
            assert small_runs.run(folder, settings_of(recipe, output_dir="run"), end, name) == -9, log(folder)
        assert not (folder / "run" / "results.json").exists()
    assert small_runs.run(folder, settings_of(recipe, output_dir="run"), recipe=name) == 0, log(folder)
    assert outcome(folder / "run") == expected
    assert not list((folder / "run").glob("best*"))
    assert not (folder / "run" / "model.unproved").exists()


def best_by_the_metrics(run_dir, until_step: int) -> int:
    evaluations = [row for row in rows(run_dir) if "eval_loss" in row and row["step"] <= until_step]
    return min(evaluations, key=lambda row: (row["eval_bits_per_byte"], row["step"]))["step"]


def test_every_checkpoint_has_its_best_model(folder):
    """Learning slowly, each evaluation is better than the one before: the model of the last is not that of any."""
    settings = settings_of("pretrain_scratch", output_dir="run", learning_rate=0.005, save_total_limit=3, tokens=1024)
    assert small_runs.run(folder, settings, "11") == -9
    run = folder / "run"
    checkpoints = sorted(int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("checkpoint-*"))
    assert checkpoints == [3, 6, 9]
    needed = {best_by_the_metrics(run, step) for step in (*checkpoints, 11)}
    assert len(needed) > 2
    assert {path.name for path in run.glob("best-*")} == {f"best-{step}" for step in needed}
    for step in (9, 6):  # damaged, so that the oldest is gone on from
        file = run / "checkpoints" / f"checkpoint-{step}" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    assert small_runs.run(folder, settings, "4") == -9
    assert small_runs.run(folder, settings) == 0
    assert "going on from run/checkpoints/checkpoint-3" in log(folder)
    assert results(run)["best_step"] == best_by_the_metrics(run, 99)


def test_a_checkpoint_whose_best_model_is_damaged_is_passed_over(folder):
    settings = settings_of("pretrain_scratch", output_dir="run", learning_rate=0.005)
    assert small_runs.run(folder, settings, "8") == -9
    run = folder / "run"
    best = run / f"best-{best_by_the_metrics(run, 6)}"
    content = bytearray((best / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (best / "model.safetensors").write_bytes(content)
    assert small_runs.run(folder, settings, "4") == -9
    assert "passed over run/checkpoints/checkpoint-6: its best model until then is lost" in log(folder)
    shutil.rmtree(run / "checkpoints" / "checkpoint-3")
    before = digests(run)
    assert small_runs.run(folder, settings) == 2
    assert "go on as if the evaluations until then had not been, with resume_changed: true" in log(folder)
    assert digests(run) == before
    assert small_runs.run(folder, settings | {"resume_changed": "true"}) == 0
    assert results(run)["best_step"] >= 6


def test_a_run_that_had_stopped_already_makes_no_more_steps(folder):
    """The checkpoint of the very step at which it stopped is gone on from."""
    settings = settings_of("pretrain_scratch", output_dir="run", save_steps=2, learning_rate=0.5)
    assert small_runs.run(folder, settings, "proof") == -9
    stopped_at = rows(folder / "run")[-1]["step"]
    assert stopped_at < 12
    (checkpoint, *_) = sorted((folder / "run" / "checkpoints").glob("*-*"), key=lambda path: -int(path.name[11:]))
    assert json.loads((checkpoint / "manifest.json").read_text())["step"] == stopped_at
    assert small_runs.run(folder, settings) == 0
    assert rows(folder / "run")[-1]["step"] == results(folder / "run")["step"] == stopped_at


def test_early_stopping_that_is_switched_on_later_begins_to_look_there(folder):
    settings = settings_of("pretrain_scratch", output_dir="run", early_stopping_evals=0)
    assert small_runs.run(folder, settings, "7") == -9
    later = settings | {"early_stopping_evals": 5, "resume_changed": "true"}
    assert small_runs.run(folder, later) == 0, log(folder)
    evaluations = {row["step"]: row["eval_bits_per_byte"] for row in rows(folder / "run") if "eval_loss" in row}
    behind = {step: figure for step, figure in evaluations.items() if step > 6}
    assert results(folder / "run")["best_step"] == min(behind, key=behind.get)
