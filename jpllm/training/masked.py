"""Training a masked language model: what differs from one that predicts the next token."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from jpllm.data.blocks.masking import MaskedBlocks
from jpllm.data.corpus import DataConfig, EncodedText
from jpllm.evaluation import fill_mask
from jpllm.evaluation.generate import SamplingConfig
from jpllm.evaluation.token_scores import TokenScore
from jpllm.models.losses import use_masked_loss
from jpllm.training.config import TrainingConfig
from jpllm.training.trainer import BaseTrainer, autocast


class MaskedLMTrainer(BaseTrainer[list[TokenScore]]):
    """Trainer on `MaskedBlocks` that evaluates how well hidden words of the held-out texts are filled in.

    Each evaluation hides the same words. There are no bits per byte: no text has a probability here.
    """

    eval_dataset: Sequence[EncodedText]
    train_dataset: MaskedBlocks
    loss_unit = "nats per masked token"

    @staticmethod
    def prepare(model: PreTrainedModel, data: DataConfig, training: TrainingConfig) -> None:
        """Give the model the loss that the settings ask for."""
        use_masked_loss(model, training.label_smoothing, everywhere=not training.chunked_loss)

    @staticmethod
    def answer(
        model: PreTrainedModel,
        prompts: Sequence[str],
        tokenizer: PreTrainedTokenizerFast,
        sampling: SamplingConfig,
        seed: int,
    ) -> list[str]:
        """Return the prompts with their gaps filled in by the model; nothing is drawn by chance."""
        return fill_mask.fill_mask(model, tokenizer, prompts)

    def score(self, model: PreTrainedModel) -> list[TokenScore]:
        """Return the scores of `model` on the held-out texts, in the arithmetic that the training uses."""
        return fill_mask.score(
            model,
            self.eval_dataset,
            masking=self.train_dataset.masking,
            context_length=self.train_dataset.sequence_length,
            batch_size=self.args.per_device_eval_batch_size,
            autocast=autocast(self.args),
            rank=self.args.process_index,
            num_ranks=self.args.world_size,
        )

    def figures(self, scores: list[TokenScore]) -> dict[str, float]:
        """Return loss and accuracy over all texts; where there are several, the loss of each, and of each group."""
        total = fill_mask.total(scores)
        figures = {"loss": total.loss, "masked_accuracy": total.accuracy}
        if len(scores) > 1:
            figures |= {f"loss/{score.name}": score.loss for score in scores}
        return figures | {
            f"group_loss/{group}": fill_mask.total(members).loss for group, members in self.groups(scores).items()
        }

    def closing_figures(self, final: dict[str, float]) -> dict[str, float]:
        """Return what the results say beside the loss, of the evaluation that counts."""
        return {"masked_accuracy": final["eval_masked_accuracy"]}

    def closing_line(self, results: dict) -> str:
        """Return the result of the run in a line."""
        return f"held-out loss {results['loss']:.4f} {self.loss_unit}, {results['masked_accuracy']:.1%} filled in right"
