"""Muon beside AdamW, embeddings that learn first, and optimizers that are refused where they cannot act."""

import typing

import pytest
import torch

from jpllm.runtime import InputError
from jpllm.training.config import ClassifierTrainingConfig, TrainingConfig
from jpllm.training.optimizer import OPTIMIZERS, build_muon, refuse_impossible, trainer_name
from tests.models.test_build import tiny_model
from tests.training.test_resume import Interrupt, result_of
from tests.training.test_run import make_trainer, train_and_prove

CONFIGURATIONS = (TrainingConfig, ClassifierTrainingConfig)


def names_of(model, parameters) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in parameters}


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
def test_muon_takes_the_matrices_of_the_layers(tmp_path, preset):
    model = tiny_model(preset)
    trainer = make_trainer(tmp_path, preset)
    config = TrainingConfig(output_dir=tmp_path, tokens=1, optimizer="muon", weight_decay=0.2)
    optimizer = build_muon(model, config, trainer.get_decay_parameter_names(model))
    muon, decayed, undecayed = (names_of(model, group["params"]) for group in optimizer.param_groups)
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim == 2}
    tables = {name for name in matrices if any(word in name for word in ("wte", "wpe", "embed", "lm_head"))}
    assert muon == matrices - tables
    assert decayed == tables
    assert undecayed == dict(model.named_parameters()).keys() - matrices
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.2, 0.0]


def test_muon_steps_are_those_of_its_two_parts(tmp_path):
    """Against the two optimizers of PyTorch, used by hand."""
    model, expected = tiny_model("neox-tiny"), tiny_model("neox-tiny")
    config = TrainingConfig(output_dir=tmp_path, tokens=1, optimizer="muon", learning_rate=1e-2)
    ours = build_muon(model, config, [])
    split = {True: [], False: []}
    for name, parameter in expected.named_parameters():
        split[parameter.ndim == 2 and "embed" not in name and "lm_head" not in name].append(parameter)
    muon = torch.optim.Muon(split[True], lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(split[False], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    ids = torch.arange(24).view(2, 12)
    for optimizers, trained in (([ours], model), ([muon, adamw], expected)):
        for _ in range(3):
            trained(input_ids=ids, labels=ids).loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_with_muon_goes_on_exactly(tmp_path):
    settings = {"num_steps": 6, "optimizer": "muon", "save_steps": 2, "per_device_train_batch_size": 4}
    for name, callbacks in (("whole", []), ("interrupted", [Interrupt(5, "on_step_end")])):
        trainer = make_trainer(tmp_path / name, "neox-tiny", **settings)
        for callback in callbacks:
            trainer.add_callback(callback)
            with pytest.raises(RuntimeError, match="interrupted"):
                train_and_prove(trainer)
            trainer = make_trainer(tmp_path / name, "neox-tiny", **settings)
        train_and_prove(trainer)
    whole, interrupted = result_of(tmp_path / "whole"), result_of(tmp_path / "interrupted")
    assert interrupted == whole
    losses = [row["loss"] for row in whole[0] if "loss" in row]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny"])
def test_embeddings_learn_first(tmp_path, preset):
    before = dict(tiny_model(preset).named_parameters())
    for num_steps, tables_only in ((3, True), (4, False)):
        folder = tmp_path / str(num_steps)
        trainer = make_trainer(
            folder, preset, num_steps, embedding_warmup_steps=3, lr_scheduler_type="constant_with_warmup"
        )
        trainer.train()
        changed = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
        tables = {name for name in before if "wte" in name or "embed" in name or "lm_head" in name}
        assert changed == (tables if tables_only else before.keys())


@pytest.mark.parametrize(
    ("settings", "engine", "warmup", "message"),
    [
        ({"optimizer": "muon"}, "DeepSpeed ZeRO-2", 0, "muon needs whole matrices, and DeepSpeed ZeRO-2 cuts them up"),
        ({"optimizer": "muon"}, "", 10, "muon has no embedding_warmup_steps"),
        ({"optimizer": "adamw_8bit"}, "", 0, "adamw_8bit needs a GPU; write adamw"),
    ],
)
def test_refused(tmp_path, monkeypatch, settings, engine, warmup, message):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    config = TrainingConfig(output_dir=tmp_path, tokens=1, **settings)
    with pytest.raises(InputError, match=message):
        refuse_impossible(config, engine, warmup)
    refuse_impossible(TrainingConfig(output_dir=tmp_path, tokens=1), engine, warmup)


def test_early_stopping_keeps_the_best_model(tmp_path):
    """Training blocks say nothing about the held-out text, so it gets worse at once."""
    trainer = make_trainer(tmp_path, num_steps=40, eval_steps=2, learning_rate=0.1, per_device_train_batch_size=4)
    results = train_and_prove(trainer, early_stopping_evals=3)
    values = {row["step"]: row["eval_bits_per_byte"] for row in trainer.state.log_history if "eval_loss" in row}
    best = min(values, key=values.get)
    assert results["best_step"] == best
    assert results["bits_per_byte"] == values[best]
    assert results["step"] == best + 6 < 40
    assert results["reloaded_loss"] == pytest.approx(results["loss"], abs=1e-6)
    assert not list(tmp_path.glob("best*"))


def test_configurations_name_the_rows_of_the_table():
    names = {cls: typing.get_args(typing.get_type_hints(cls)["optimizer"]) for cls in CONFIGURATIONS}
    assert names == {TrainingConfig: tuple(OPTIMIZERS), ClassifierTrainingConfig: ("adamw", "adamw_8bit")}


def test_the_names_of_trainer_are_trainer_s():
    from transformers.training_args import OptimizerNames

    names = {"adamw_torch_fused", "adamw_bnb_8bit", "paged_adamw_8bit"}
    assert {trainer_name(name, False) for name in OPTIMIZERS} == names
    assert trainer_name("adamw", on_xla=True) == "adamw_torch"
    assert {*names, "adamw_torch"} <= {name.value for name in OptimizerNames}
