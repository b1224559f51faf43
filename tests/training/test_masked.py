"""Training on Trainer with hidden words: the right mean, the same after an interruption, proved like the others."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from jpllm.data.blocks.dataset import IGNORED_LABEL
from jpllm.data.blocks.masking import MaskedBlocks, Masking
from jpllm.data.corpus import EncodedText, write_documents
from jpllm.training import run_folder
from jpllm.training.arguments import training_arguments
from jpllm.training.callbacks import MetricsRecorder
from jpllm.training.config import TrainingConfig
from jpllm.training.facts import Facts
from jpllm.training.masked import MaskedLMTrainer
from jpllm.training.run_data import Clock
from tests.models.test_build import tiny_model
from tests.training.test_resume import Interrupt, result_of
from tests.training.test_run import LENGTH, Blocks, rows_of, train_and_prove

MASK = 50
MASKING = Masking({index: chr(0x4E00 + index).encode() for index in range(1, MASK)}, MASK, MASK)
RESUME = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "eval_steps": 4, "save_steps": 3}


def make_trainer(output_dir: Path, num_steps: int, dropout: float = 0.0, **settings) -> MaskedLMTrainer:
    defaults = {"tokens": 1, "learning_rate": 1e-2, "logging_steps": 1, "precision": "fp32", "warmup_steps": 0}
    config = TrainingConfig(output_dir=output_dir, **(defaults | {"save_steps": 0} | settings))
    blocks_per_step = config.blocks_per_step(1)
    blocks = MaskedBlocks([Blocks()], LENGTH, num_positions=num_steps * blocks_per_step, masking=MASKING)
    rng = np.random.default_rng(1)
    held_out = [EncodedText(name, ["あ"], rng.integers(1, MASK, 60), name) for name in ("one", "two")]
    model = tiny_model("bert-tiny", MASK + 1, dropout=dropout)
    MaskedLMTrainer.prepare(model, None, config)
    run_folder.prepare(output_dir, [config], partial(write_documents, held_out))
    return MaskedLMTrainer(
        config=config,
        facts=Facts("data", "tokenizer", {"learning_rate": 1e-2}),
        model=model,
        args=training_arguments(config, num_steps, "fp32"),
        train_dataset=blocks,
        held_out=held_out,
        callbacks=[MetricsRecorder(output_dir, Clock(blocks_per_step * LENGTH, blocks.num_blocks * LENGTH))],
    )


@pytest.mark.parametrize("chunked_loss", [True, False])
def test_loss_is_the_mean_over_hidden_tokens(tmp_path, chunked_loss):
    """Of the whole step: transformers' own BERT would add up the means of the micro-batches."""
    trainer = make_trainer(
        *(tmp_path, 1), per_device_train_batch_size=2, gradient_accumulation_steps=3, chunked_loss=chunked_loss
    )
    exact = tiny_model("bert-tiny", MASK + 1).double()
    items = [trainer.train_dataset[n] for n in range(6)]
    ids, labels = (torch.from_numpy(np.stack([item[key] for item in items])) for key in ("input_ids", "labels"))
    chosen = labels != IGNORED_LABEL
    expected = -exact(ids).logits[chosen].log_softmax(-1).gather(-1, labels[chosen][:, None]).mean()
    expected.backward()
    gradient_norm = torch.stack([p.grad.norm() for p in exact.parameters()]).norm().item()
    trainer.train()
    assert rows_of(tmp_path, "loss")[0] == pytest.approx(expected.item(), rel=1e-5)
    assert rows_of(tmp_path, "grad_norm")[0] == pytest.approx(gradient_norm, rel=1e-4)


def test_results_speak_of_hidden_tokens_and_not_of_bytes(tmp_path, capsys):
    results = train_and_prove(make_trainer(tmp_path, 3))
    assert results["reloaded_loss"] == pytest.approx(results["loss"], abs=1e-6)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert 0 <= results["masked_accuracy"] <= 1
    first = json.loads((tmp_path / "metrics.jsonl").read_text().split("\n")[0])
    figures = ["loss", "masked_accuracy", "loss/one", "loss/two", "group_loss/one", "group_loss/two"]
    assert [key for key in first if key.startswith("eval_")] == [f"eval_{name}" for name in figures]
    assert "bits_per_byte" not in (tmp_path / "metrics.jsonl").read_text() + json.dumps(results)
    printed = capsys.readouterr()
    assert f"held-out loss {results['loss']:.4f} nats per masked token" in printed.out
    assert "bits per byte" not in printed.out + printed.err


def test_interrupted_run_equals_the_whole_one(tmp_path):
    def trainer_of(folder: str) -> MaskedLMTrainer:
        return make_trainer(tmp_path / folder, 7, dropout=0.1, **RESUME)

    train_and_prove(trainer_of("whole"))
    for step, event in [(4, "on_step_end"), (6, "on_save")]:
        trainer = trainer_of("parts")
        trainer.add_callback(Interrupt(step, event))
        with pytest.raises(RuntimeError, match="interrupted"):
            train_and_prove(trainer)
    train_and_prove(trainer_of("parts"))
    assert result_of(tmp_path / "parts") == result_of(tmp_path / "whole")


def test_early_stopping_keeps_the_lowest_loss(tmp_path):
    settings = {"early_stopping_evals": 2, "eval_steps": 1, "learning_rate": 0.2}
    results = train_and_prove(make_trainer(tmp_path, 30, **settings), early_stopping_evals=2)
    losses = rows_of(tmp_path, "eval_loss")
    assert results["loss"] == min(losses)
    assert len(losses) < 31
