"""Training on Trainer: the loss is the right mean, batches are equivalent, the saved model is the trained one."""

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from jpllm.data.blocks.dataset import BlockDataset
from jpllm.data.corpus import DataConfig, EncodedText, write_documents
from jpllm.runtime import InputError
from jpllm.tracking.metrics import read_rows
from jpllm.training import causal, run, run_folder
from jpllm.training import trainer as training_trainer
from jpllm.training.arguments import training_arguments
from jpllm.training.callbacks import MetricsRecorder
from jpllm.training.causal import CausalLMTrainer
from jpllm.training.config import TrainingConfig
from jpllm.training.facts import Facts
from jpllm.training.run_data import Clock
from tests.models.test_build import tiny_model

LENGTH = 16
DATA = "data"


class Blocks:
    """A stand-in for token shards: random ids below 50."""

    label, directory, content_hash, eos_token_id, bos_token_id = "random ids", Path("shards"), None, 0, None

    def __init__(self, num_tokens: int = 16 * LENGTH) -> None:
        self.ids = np.random.default_rng(0).integers(1, 50, num_tokens)
        self.size = type("Size", (), {"num_tokens": num_tokens})

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return self.ids[start:stop].copy()


def make_trainer(
    output_dir: Path,
    preset: str = "gpt2-tiny",
    num_steps: int = 2,
    dropout: float = 0,
    embedding_warmup_steps: int = 0,
    callbacks: Sequence[TrainerCallback] = (),
    **settings,
) -> CausalLMTrainer:
    defaults = {"tokens": 1, "learning_rate": 1e-2, "logging_steps": 1, "precision": "fp32", "warmup_steps": 0}
    config = TrainingConfig(output_dir=output_dir, **(defaults | {"save_steps": 0} | settings))
    blocks_per_step = config.blocks_per_step(1)
    blocks = BlockDataset([Blocks()], LENGTH, num_positions=num_steps * blocks_per_step)
    clock = Clock(blocks_per_step * LENGTH, blocks.num_blocks * LENGTH)
    held_out = [EncodedText("text", ["あ" * 20], np.random.default_rng(1).integers(1, 50, 40))]
    run_folder.prepare(output_dir, [config], partial(write_documents, held_out))
    return CausalLMTrainer(
        config=config,
        facts=Facts(DATA, "tokenizer", {"learning_rate": 1e-2}),
        model=tiny_model(preset, dropout=dropout),
        args=training_arguments(config, num_steps, config.precision),
        train_dataset=blocks,
        held_out=held_out,
        eos_token_id=0,
        context_length=LENGTH,
        embedding_warmup_steps=embedding_warmup_steps,
        callbacks=[*callbacks, MetricsRecorder(output_dir, clock)],
    )


def rows_of(output_dir: Path, key: str) -> list[float]:
    return [row[key] for row in read_rows(output_dir / "metrics.jsonl") if key in row]


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
def test_loss_is_the_mean_over_predicted_tokens(tmp_path, preset):
    """Trainer alone is off by (S − 1)/S for GPT-2: it divides by all labels, of which the first is never predicted."""
    trainer = make_trainer(tmp_path, preset, num_steps=1, per_device_train_batch_size=4)
    exact = tiny_model(preset).double()
    ids = torch.stack([torch.from_numpy(trainer.train_dataset[n]["input_ids"]) for n in range(4)])
    log_probabilities = exact(ids).logits[:, :-1].log_softmax(-1)
    expected = -log_probabilities.gather(-1, ids[:, 1:, None]).mean()
    expected.backward()
    gradient_norm = torch.stack([p.grad.norm() for p in exact.parameters()]).norm().item()

    trainer.train()
    assert rows_of(tmp_path, "loss")[0] == pytest.approx(expected.item(), rel=1e-5)
    assert rows_of(tmp_path, "grad_norm")[0] == pytest.approx(gradient_norm, rel=1e-4)


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny"])
def test_accumulation_equals_the_big_batch(tmp_path, preset):
    losses = {}
    for batch_size, accumulation in ((8, 1), (2, 4), (1, 8)):
        folder = tmp_path / str(batch_size)
        trainer = make_trainer(
            folder,
            preset,
            num_steps=3,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        losses[batch_size] = rows_of(folder, "loss") + rows_of(folder, "grad_norm")
    assert losses[2] == pytest.approx(losses[8], rel=1e-5)
    assert losses[1] == pytest.approx(losses[8], rel=1e-5)
    assert losses[8][0] > losses[8][2]  # it learns


def test_metrics_rows(tmp_path):
    trainer = make_trainer(tmp_path, num_steps=4, per_device_train_batch_size=2, eval_steps=2)
    trainer.train()
    rows = read_rows(tmp_path / "metrics.jsonl")
    places = [(row["step"], "eval_loss" in row) for row in rows]
    assert places == [(0, True), (1, False), (2, False), (2, True), (3, False), (4, False), (4, True)]
    last = rows[-2]
    assert (last["tokens"], last["epoch"]) == (4 * 2 * LENGTH, 0.5)
    assert set(last) == {
        *("step", "epoch", "tokens", "loss", "grad_norm", "learning_rate", "training_seconds", "tokens_per_second"),
        "peak_host_bytes",
    }
    first = rows[0]
    assert first["eval_loss"] == pytest.approx(math.log(50), abs=0.1)  # random weights know nothing
    assert first["eval_bits_per_byte"] == pytest.approx(first["eval_loss"] * 40 / math.log(2) / 60)


def train_and_prove(trainer: CausalLMTrainer, **settings) -> dict:
    trainer.config = replace(trainer.config, **settings)
    return run.train_and_prove(trainer, Clock(8 * LENGTH, 16 * LENGTH), save_tokenizer)


def save_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
def test_saved_model_is_proved_to_be_the_trained_one(tmp_path, preset):
    trainer = make_trainer(tmp_path, preset, num_steps=3)
    results = train_and_prove(trainer)
    assert results["reloaded_loss"] == pytest.approx(results["loss"], abs=1e-6)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert json.loads((tmp_path / "model" / "config.json").read_text())["use_cache"] is True
    assert (results["step"], results["tokens"], results["epoch"]) == (3, 3 * 8 * LENGTH, 1.5)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
    ]
    assert trainer.lr_scheduler is trainer.callback_handler.optimizer is None  # nothing holds the optimizer's memory
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_saved_model_that_is_not_the_trained_one_is_an_error(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, "neox-tiny", num_steps=1)
    monkeypatch.setattr(training_trainer, "load_trained", lambda *_, **__: tiny_model("neox-tiny"))  # untrained
    with pytest.raises(
        InputError, match=r"the saved model is not the trained one: held-out loss \d\.\d+ after loading"
    ):
        train_and_prove(trainer)
    assert not (tmp_path / "model").exists()


def test_divergence_stops_the_run(tmp_path):
    trainer = make_trainer(tmp_path, num_steps=5)
    with torch.no_grad():
        next(trainer.model.parameters())[:] = math.nan
    with pytest.raises(InputError, match=r"step 0: eval_loss is nan, training has diverged; lower learning_rate"):
        trainer.train()


def test_a_run_stops_before_a_source_repeats(caplog):
    assert causal.stop_before_repeats(10, 12) == 10
    assert caplog.text == ""
    assert causal.stop_before_repeats(10, 7) == 7
    assert "runs out after 7 of 10 steps" in caplog.text
    with pytest.raises(InputError, match="runs out in the first step"):
        causal.stop_before_repeats(10, 0)


def test_a_script_of_somebodys_own_passes_callbacks(tmp_path):
    """They hear each event before the row of it is written, in the order in which they are passed."""
    heard = []

    class Listener(TrainerCallback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_log(self, args, state, control, **kwargs) -> None:
            num_rows = len(read_rows(tmp_path / "metrics.jsonl")) if state.global_step else 0
            heard.append((self.name, state.global_step, num_rows))

    class Plan:
        written = None

        def write(self, *given) -> None:
            self.written = given

        def explained(self):
            return nullcontext()

    config = TrainingConfig(
        output_dir=tmp_path, tokens=2 * 8 * LENGTH, logging_steps=1, precision="fp32", save_steps=0, eval_steps=2
    )
    data = DataConfig(sources=[], sequence_length=LENGTH)
    held_out = [EncodedText("text", ["あ" * 20], np.random.default_rng(1).integers(1, 50, 40))]
    run_data = causal.run_data(BlockDataset([Blocks()], LENGTH), held_out, data, config)
    plan = Plan()
    results = run.train(
        partial(CausalLMTrainer, model=tiny_model("gpt2-tiny"), eos_token_id=0, context_length=LENGTH),
        run_data,
        [config, data],
        tokenizer_fingerprint="tokenizer",
        save_tokenizer=save_tokenizer,
        plan=plan,
        callbacks=[Listener("first"), Listener("second")],
    )
    assert heard == [
        *(("first", 0, 0), ("second", 0, 0), ("first", 1, 1), ("second", 1, 1)),
        *(("first", 2, 2), ("second", 2, 2), ("first", 2, 3), ("second", 2, 3)),
        *(("first", 2, 4), ("second", 2, 4)),  # Trainer's times, which are no row
    ]
    assert plan.written == (run_data.mixture, 2 * 8 * LENGTH, None, data.shards_dir)
    assert (results["step"], results["tokens"]) == (2, 2 * 8 * LENGTH)
