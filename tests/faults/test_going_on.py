"""What a run goes on with: nothing is changed before it is allowed, and what the configuration says is what trains."""

import json
import shutil

import pytest
import torch

from tests.faults import small_runs
from tests.faults.small_runs import COMMON, OF_TEXTS, SCRATCH, digests, log, outcome, results, rows
from tests.recipes.test_engines import launch, operators_are_compiled  # noqa: F401 — a fixture

SETTINGS = SCRATCH | {"output_dir": "run", "learning_rate": 0.01}
CHANGED = {"resume_changed": "true"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The inputs, a finished run `base`, and a run that was ended behind its checkpoint 6 of 12."""
    folder = small_runs.inputs_and_run(tmp_path_factory.mktemp("inputs"), output_dir="base", save_steps=0)
    assert small_runs.run(folder, SETTINGS, "8") == -9
    return folder


@pytest.fixture
def folder(inputs, tmp_path):
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    return tmp_path


def refused(folder, settings, recipe="pretrain_scratch") -> str:
    """The message of a refused command, which has changed nothing."""
    before = digests(folder / "run")
    assert small_runs.run(folder, settings, recipe=recipe) == 2, log(folder)
    assert digests(folder / "run") == before
    return log(folder)


def test_the_optimizer_learns_as_the_configuration_says(folder):
    settings = SETTINGS | CHANGED | {"learning_rate": 0.002, "lr_scheduler_type": "constant_with_warmup"}
    settings |= {"weight_decay": 0.25, "adam_beta1": 0.8, "adam_beta2": 0.99, "save_steps": 4, "eval_steps": 5}
    assert small_runs.run(folder, settings) == 0, log(folder)
    found = rows(folder / "run")
    assert [row["learning_rate"] for row in found if row["step"] > 6 and "loss" in row] == [0.002] * 6
    assert [row["step"] for row in found if row["step"] > 6 and "eval_loss" in row] == [10, 12]
    kept = folder / "run" / "checkpoints"
    assert sorted(path.name for path in kept.iterdir()) == ["checkpoint-12", "checkpoint-8"]
    groups = torch.load(kept / "checkpoint-12" / "optimizer.pt", weights_only=True)["param_groups"]
    assert [(group["initial_lr"], group["weight_decay"]) for group in groups] == [(0.002, 0.25), (0.002, 0.0)]
    assert [tuple(group["betas"]) for group in groups] == [(0.8, 0.99)] * 2
    schedule = torch.load(kept / "checkpoint-12" / "scheduler.pt", weights_only=True)
    assert schedule["base_lrs"] == [0.002, 0.002]


def test_a_lower_peak_keeps_the_place_in_the_schedule(folder):
    """A cosine that ends at 0 after 12 steps, one of them warm-up."""
    import math

    assert small_runs.run(folder, SETTINGS | CHANGED | {"learning_rate": 0.004}) == 0, log(folder)
    rates = {row["step"]: row["learning_rate"] for row in rows(folder / "run") if "loss" in row}
    for step in range(7, 13):
        assert rates[step] == pytest.approx(0.004 * (1 + math.cos(math.pi * (step - 2) / 11)) / 2, rel=1e-9), step


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimizer": "muon"}, "optimizer: adamw, not muon"),
        ({"hidden_size": 32, "num_heads": 4}, "hidden_size: 16, not 32\n  num_heads: 2, not 4"),
        ({"model": "neox-tiny"}, "model: gpt2-tiny, not neox-tiny"),
        ({"max_positions": 16}, "max_positions: 32, not 16"),
        ({"vocab_size": 60}, "vocab_size: None, not 60"),
    ],
)
def test_what_cannot_change_is_refused_by_name(folder, changes, named):
    message = refused(folder, SETTINGS | CHANGED | changes)
    assert f"run/checkpoints/checkpoint-6: what was changed cannot be changed on the way:\n  {named}\n" in message
    assert "set it back, or name a new output_dir" in message
    assert "resume_changed: true" not in refused(folder, SETTINGS | changes)


def test_another_vocabulary_is_refused(folder):
    file = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["vocab"]["ア"] = len(content["model"]["vocab"])
    file.write_text(json.dumps(content), encoding="utf-8")
    message = refused(folder, SETTINGS | CHANGED)
    assert "another model or vocabulary cannot go on from it; set it back, or name a new output_dir" in message


def test_a_refused_command_changes_nothing(folder):
    message = refused(folder, SETTINGS | {"learning_rate": 0.004, "held_out_fraction": 0.3, "eval_steps": 1})
    assert "data: another one\n  eval_steps: 2 when it was written, 1 now\n  learning_rate: 0.01 when" in message
    assert "or go on with resume_changed: true" in message


def test_another_recipe_is_refused(folder):
    other = OF_TEXTS | {"output_dir": "run", "model": "base/model", "tokens": 768, "sample_prompts": "むかし"}
    assert "this is another run now" in refused(folder, other, "cpt")
    assert "it is a run of another recipe" in refused(folder, other | CHANGED, "cpt")


@pytest.mark.parametrize("has_facts", [True, False])
def test_a_run_without_a_checkpoint_is_not_taken_over(folder, has_facts):
    """jpllm 0.1.0 left only the configuration; the content of texts cannot be compared with that."""
    shutil.rmtree(folder / "run")
    assert small_runs.run(folder, SETTINGS, "2") == -9
    run = folder / "run"
    assert not list(run.glob("checkpoints/checkpoint-*"))
    assert (run / "run.json").exists()
    if not has_facts:
        (run / "run.json").unlink()
    changed = SETTINGS | {"learning_rate": 0.004}
    message = refused(folder, changed)
    assert "run: it holds rows of another run, which has no checkpoint yet:\n  learning_rate: 0.01 when it" in message
    cpt = OF_TEXTS | {"output_dir": "run", "model": "base/model", "tokens": 768, "sample_prompts": "むかし"}
    assert "it holds rows of another run" in refused(folder, cpt, "cpt")
    if has_facts:
        text = (folder / "corpus.jsonl").read_text(encoding="utf-8")
        (folder / "corpus.jsonl").write_text(text + text.replace("あ", "い"), encoding="utf-8")
        assert "data: another one" in refused(folder, SETTINGS)
        (folder / "corpus.jsonl").write_text(text, encoding="utf-8")
    assert small_runs.run(folder, SETTINGS | {"save_steps": 5}, "1") == -9  # the same run begins anew
    assert [row["step"] for row in rows(run)] == [0]
    assert small_runs.run(folder, changed | CHANGED) == 0
    assert results(run)["step"] == 12


def test_tokens_are_counted_on_with_smaller_steps(folder):
    smaller = SETTINGS | {"per_device_train_batch_size": 2}
    assert small_runs.run(folder, smaller | CHANGED, "10") == -9
    assert "384 tokens were trained on in 6 steps of another size; with the steps from here on they will be 960" in log(
        folder
    )
    assert small_runs.run(folder, smaller) == 0, log(folder)  # from checkpoint 9, of the same settings
    run = folder / "run"
    tokens = {row["step"]: row["tokens"] for row in rows(run)}
    assert tokens == {step: 64 * step for step in range(7)} | {step: 384 + 32 * (step - 6) for step in range(7, 25)}
    assert (results(run)["step"], results(run)["tokens"]) == (24, 384 + 18 * 32)
    epochs = [row["epoch"] for row in rows(run)]
    assert epochs == sorted(epochs)
    assert json.loads((run / "plan.json").read_text())["num_tokens"] == 960


def test_a_budget_that_is_spent_already_ends_the_run(folder):
    assert small_runs.run(folder, SETTINGS | CHANGED | {"per_device_train_batch_size": 16}) == 0, log(folder)
    assert (results(folder / "run")["step"], results(folder / "run")["tokens"]) == (6, 384)


def test_tokens_of_rows_are_counted_on_too(folder):
    settings = COMMON | {"output_dir": "taught", "model": "base/model", "sources": "rows.jsonl", "epochs": 2}
    settings |= {"sequence_length": 32, "held_out_rows": 10, "template": "chat", "sample_prompts": "むかし"}
    settings |= {"answered_rows": 0, "max_new_tokens": 4}
    assert small_runs.run(folder, settings, "7", "sft") == -9
    before = {row["step"]: row["tokens"] for row in rows(folder / "taught") if row["step"] <= 6}
    smaller = settings | CHANGED | {"per_device_train_batch_size": 2}
    assert small_runs.run(folder, smaller, recipe="sft") == 0, log(folder)
    tokens = {row["step"]: row["tokens"] for row in rows(folder / "taught")}
    assert {step: tokens[step] for step in before} == before
    steps = [later - earlier for earlier, later in zip(tokens.values(), list(tokens.values())[1:], strict=False)]
    assert min(steps) > 0
    assert max(steps[6:]) <= 0.7 * min(steps[:6])
    assert results(folder / "taught")["tokens"] == list(tokens.values())[-1]


def test_a_finished_run_asked_again_with_keys_that_may_change(folder):
    free = {"save_steps": 5, "save_total_limit": 1, "dataloader_num_workers": 1, "shards_dir": "elsewhere"}
    free |= {"processes": 1, "max_hours": 3, "sample_prompts": "これ", "resume_changed": "true"}
    before = digests(folder / "base")
    assert small_runs.run(folder, SCRATCH | {"output_dir": "base"} | free) == 0
    assert "base is finished" in log(folder)
    assert small_runs.run(folder, SCRATCH | {"output_dir": "base", "seed": 3, "eval_steps": 5} | free) == 2
    assert "base holds a finished run with another eval_steps, seed; name a new folder" in log(folder)
    assert digests(folder / "base") == before
    assert not (folder / "elsewhere").exists()


@pytest.mark.parametrize("num_steps", [12, 100])
def test_a_warm_up_as_long_as_the_run_is_refused(folder, num_steps):
    assert small_runs.run(folder, SETTINGS | {"warmup_steps": num_steps, "output_dir": "warm"}) == 2
    assert f"warmup_steps: {num_steps} are not fewer than the run's 12 steps, so that learning_rate is never" in log(
        folder
    )
    assert not (folder / "warm").exists()


@pytest.mark.parametrize(("share", "tokens", "rates"), [(0.02, 64, [0.01]), (0.9, 192, [0.0, 0.005, 0.01])])
def test_a_share_of_warm_up_leaves_a_step_to_learn_in(folder, share, tokens, rates):
    settings = SETTINGS | {"output_dir": "one", "tokens": tokens, "warmup_steps": share}
    assert small_runs.run(folder, settings) == 0, log(folder)
    found = rows(folder / "one")
    assert [row["learning_rate"] for row in found if "loss" in row] == pytest.approx(rates)
    first, *_, last = (row["eval_loss"] for row in found if "eval_loss" in row)
    assert last != first


def test_a_source_that_is_not_evaluated_on_is_named(folder):
    small_runs.write_rows(folder / "few.jsonl", [{"text": "あいうえおかきくけこ" * 4}])
    sources = ["{path: corpus.jsonl, weight: 0.9}", "{path: few.jsonl, weight: 0.1}"]
    assert small_runs.run(folder, SETTINGS | {"output_dir": "two", "sources": sources}) == 0, log(folder)
    assert "nothing of few is evaluated on: none of its documents was held out; raise held_out_fraction" in log(folder)


def words_of(folder, output_dir: str, **changes) -> list[str]:
    """The recipe and its arguments, for a launch from another folder."""
    settings = SETTINGS | {"per_device_train_batch_size": 2, "output_dir": folder / output_dir} | changes
    settings |= {key: folder / str(settings[key]) for key in ("tokenizer", "sources", "shards_dir")}
    return [
        "recipes/pretrain_scratch.py",
        *(str(word) for pair in settings.items() for word in (f"--{pair[0]}", pair[1])),
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_below_deepspeed_settings_act_and_shares_that_do_not_fit_are_refused(folder, operators_are_compiled):  # noqa: F811
    with pytest.raises(AssertionError, match=r"stopped at step 1 of 12 \(max_hours"):
        launch("zero2", 2, words_of(folder, "zero", max_hours="1e-6"))
    run = folder / "zero"
    before = digests(run)
    for engine, num_processes, changes, named in [
        ("zero3", 2, {}, "engine: DeepSpeed ZeRO-2, not DeepSpeed ZeRO-3"),
        ("multi_gpu", 2, {}, "engine: DeepSpeed ZeRO-2, not DDP"),
        ("zero2", 1, {"per_device_train_batch_size": 4}, "world_size: 2 processes, not 1"),
        ("zero2", 2, {"precision": "bf16"}, "precision: fp32, not bf16"),
    ]:
        with pytest.raises(AssertionError, match=f"{named}\n  set it back|  {named}\nset it back"):
            launch(engine, num_processes, words_of(folder, "zero", **CHANGED, **changes))
        assert digests(run) == before
    lower = {"learning_rate": 0.002, "lr_scheduler_type": "constant_with_warmup", "weight_decay": 0.25}
    launch("zero2", 2, words_of(folder, "zero", **CHANGED, **lower))
    rates = {row["step"]: row["learning_rate"] for row in rows(run) if "loss" in row}
    assert rates == {1: 0.0} | dict.fromkeys(range(2, 13), 0.002)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_best_model_of_two_processes(folder):
    """Stopped after each of the first steps, and so at, before and behind evaluations that were the best."""
    stopping = {"early_stopping_evals": 3, "learning_rate": 0.05}
    launch("multi_gpu", 2, words_of(folder, "whole", **stopping))
    for _ in range(5):
        with pytest.raises(AssertionError, match=r"\(max_hours: 1e-06 hours are over\)"):
            launch("multi_gpu", 2, words_of(folder, "stopped", max_hours="1e-6", **stopping))
    launch("multi_gpu", 2, words_of(folder, "stopped", **stopping))
    assert outcome(folder / "stopped") == outcome(folder / "whole")
