"""A run that was interrupted ends in the same rows and the same weights as one that was not, bit for bit."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from jpllm.evaluation import perplexity
from jpllm.runtime import InputError, StoppedEarly
from jpllm.training import trainer as trainer_module
from tests.training.test_run import LENGTH, make_trainer, train_and_prove

NUM_STEPS = 14  # 7 epochs of 2 blocks
SETTINGS = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "eval_steps": 5, "save_steps": 3}
SETTINGS["logging_steps"] = 2  # so that checkpoints come between logged rows
TIMES = ("training_seconds", "tokens_per_second", "peak_host_bytes", "peak_gpu_bytes")


class Interrupt(TrainerCallback):
    """Ends training as an error would, in the middle of things."""

    def __init__(self, step: int, event: str) -> None:
        self.step = step
        setattr(self, event, self.stop)

    def stop(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise RuntimeError("interrupted")


def trainer_of(folder, preset, *callbacks, logging_steps=2, **settings):
    trainer = make_trainer(
        folder, preset, NUM_STEPS, dropout=0.1, **SETTINGS | {"logging_steps": logging_steps} | settings
    )
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


def result_of(folder) -> tuple:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
    return rows, {name: weight.tolist() for name, weight in load_file(folder / "model" / "model.safetensors").items()}


@pytest.fixture(scope="module", params=["gpt2-tiny", "neox-tiny"])
def uninterrupted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train_and_prove(trainer_of(folder, request.param))
    return request.param, result_of(folder)


@pytest.mark.parametrize(
    "interruptions",
    [
        [(2, "on_step_end")],  # before the first checkpoint
        [(4, "on_step_end"), (10, "on_step_end")],
        [(3, "on_save"), (11, "on_step_begin"), (14, "on_save")],
        [(14, "on_train_end")],
    ],
)
def test_interrupted_run_equals_the_whole_one(tmp_path, uninterrupted, interruptions):
    preset, expected = uninterrupted
    for step, event in interruptions:
        with pytest.raises(RuntimeError, match="interrupted"):
            train_and_prove(trainer_of(tmp_path, preset, Interrupt(step, event)))
    train_and_prove(trainer_of(tmp_path, preset))
    rows, weights = result_of(tmp_path)
    assert rows == expected[0]
    assert weights == expected[1]


def test_what_the_bos_is_worth_is_measured_once_and_kept(tmp_path, monkeypatch):
    """Before the first step; a run that goes on has it in its results all the same."""
    monkeypatch.setattr(perplexity, "_TOLD_DIFFERENCE", 0.0)

    def trainer(*callbacks):
        found = trainer_of(tmp_path, "llama-tiny", *callbacks)
        found.eval_dataset = [text.with_bos(49) for text in found.eval_dataset]
        return found

    with pytest.raises(RuntimeError, match="interrupted"):
        train_and_prove(trainer(Interrupt(8, "on_step_end")))
    results = train_and_prove(trainer())
    (row,) = [row for row in result_of(tmp_path)[0] if "eval_without_bos/bits_per_byte" in row]
    assert row["step"] == 0
    both = {"with_bos": row["eval_bits_per_byte"], "without_bos": row["eval_without_bos/bits_per_byte"]}
    assert results["bits_per_byte_before"] == both
    (text,), model = trainer().eval_dataset, trainer().plain_model()
    settings = {"eos_token_id": 0, "context_length": LENGTH, "batch_size": 8}
    (plain,) = perplexity.score(model, [text.with_bos(None)], **settings)
    assert both["without_bos"] == pytest.approx(plain.bits_per_byte, rel=1e-6)


def test_interrupted_while_a_checkpoint_is_written(tmp_path, uninterrupted, monkeypatch):
    preset, expected = uninterrupted
    finish = trainer_module.checkpoint.finish
    for num_written in (0, 1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(trainer_module.checkpoint, "finish", failing_after(num_written, finish))
            with pytest.raises(RuntimeError, match="interrupted"):
                train_and_prove(trainer_of(tmp_path, preset))
        assert list((tmp_path / "checkpoints" / "partial").iterdir())
    train_and_prove(trainer_of(tmp_path, preset))
    assert result_of(tmp_path) == expected
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-12", "checkpoint-14"]


def failing_after(num_written, finish):
    written = []

    def finish_or_fail(partial, *args, **more):
        if len(written) == num_written:
            (partial / "model.safetensors").write_bytes(b"torn")
            raise RuntimeError("interrupted")
        written.append(partial)
        return finish(partial, *args, **more)

    return finish_or_fail


def test_a_damaged_checkpoint_costs_steps_and_nothing_else(tmp_path, uninterrupted, caplog):
    preset, expected = uninterrupted
    with pytest.raises(RuntimeError, match="interrupted"):
        train_and_prove(trainer_of(tmp_path, preset, Interrupt(8, "on_step_end")))
    weights = tmp_path / "checkpoints" / "checkpoint-6" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    train_and_prove(trainer_of(tmp_path, preset))
    assert "passed over" in caplog.text
    assert result_of(tmp_path) == expected


class Tell(TrainerCallback):
    """Sends this process a signal in the middle of a step."""

    def on_substep_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == 7:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_and_stops(tmp_path, uninterrupted):
    preset, expected = uninterrupted
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedEarly, match=r"stopped at step 8 of 14 \(SIGTERM received\).*checkpoint-8; the same"):
        train_and_prove(trainer_of(tmp_path, preset, Tell()))
    assert signal.getsignal(signal.SIGTERM) == handler
    assert not (tmp_path / "results.json").exists()
    train_and_prove(trainer_of(tmp_path, preset))
    assert result_of(tmp_path) == expected


def test_max_hours(tmp_path, uninterrupted):
    preset, expected = uninterrupted
    for step in (1, 2):
        with pytest.raises(StoppedEarly, match=rf"step {step} of 14 \(max_hours: 1e-06 hours are over"):
            train_and_prove(trainer_of(tmp_path, preset), max_hours=1e-6)
    train_and_prove(trainer_of(tmp_path, preset))
    assert result_of(tmp_path) == expected


def test_another_run_is_refused_or_gone_on_with_on_request(tmp_path, uninterrupted, monkeypatch):
    preset, _ = uninterrupted
    with pytest.raises(RuntimeError, match="interrupted"):
        train_and_prove(trainer_of(tmp_path, preset, Interrupt(4, "on_step_end")))
    monkeypatch.setattr("tests.training.test_run.DATA", "other data")
    changed = trainer_of(tmp_path, preset)
    with pytest.raises(
        InputError, match=r"(?s)checkpoint-3: this is another run now:.*data: another one.*resume_changed"
    ):
        train_and_prove(changed)
    assert train_and_prove(trainer_of(tmp_path, preset), resume_changed=True)["step"] == NUM_STEPS


def test_no_checkpoint_takes_weights_that_are_not_finite(tmp_path, uninterrupted):
    preset, _ = uninterrupted

    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
            if state.global_step == 6:
                with torch.no_grad():
                    list(model.parameters())[-1].view(-1)[0] = float("nan")

    with pytest.raises(
        InputError, match=r"step 6: the loss or a weight is not finite.*checkpoint-3; lower learning_rate"
    ):
        train_and_prove(trainer_of(tmp_path, preset, Poison()))
    assert [path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")] == ["checkpoint-3"]


def test_without_room_on_the_disk_training_goes_on(tmp_path, uninterrupted, monkeypatch, caplog):
    preset, expected = uninterrupted
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(trainer_module.shutil, "disk_usage", lambda _: usage)
    train_and_prove(trainer_of(tmp_path, preset))
    assert "step 3: no checkpoint written: it needs" in caplog.text
    assert result_of(tmp_path) == expected
