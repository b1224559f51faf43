"""Training a causal language model: the objective and its evaluation in bits per byte."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from jpllm.data.corpus import DataConfig
from jpllm.evaluation import perplexity
from jpllm.evaluation.generate import SamplingConfig, generate
from jpllm.models.chunked_loss import use_chunked_loss
from jpllm.models.isolation import isolate_documents
from jpllm.tracking.metrics import GROUP_PREFIX
from jpllm.training.arguments import TrainingConfig
from jpllm.training.trainer import BaseTrainer, autocast


class CausalLMTrainer(BaseTrainer):
    """Trainer that evaluates bits per byte, each token of each held-out text exactly once."""

    best_figure = "bits_per_byte"

    def __init__(self, *, eos_token_id: int, context_length: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self._score_arguments = {"eos_token_id": eos_token_id, "context_length": context_length}

    @staticmethod
    def prepare(model: PreTrainedModel, data: DataConfig, training: TrainingConfig) -> None:
        """Give the model the attention and the loss that the settings ask for, before a trainer is made of it."""
        if data.isolate_documents:
            isolate_documents(model)
        if training.chunked_loss:
            use_chunked_loss(model, training.label_smoothing)

    @staticmethod
    def answer(
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        prompts: Sequence[str],
        sampling: SamplingConfig,
        seed: int,
    ) -> list[str]:
        """What the model makes of the prompts, one text for each."""
        return generate(model, tokenizer, prompts, sampling, seed)

    def score(self, model: torch.nn.Module) -> list[perplexity.TextScore]:
        """Scores of `model` on the held-out texts, in the arithmetic that the training uses."""
        return perplexity.score(
            model,
            self.eval_dataset,
            **self._score_arguments,
            batch_size=self.args.per_device_eval_batch_size,
            autocast=autocast(self.args),
            rank=self.args.process_index,
            num_ranks=self.args.world_size,
        )

    def figures(self, scores: Sequence[perplexity.TextScore]) -> dict[str, float]:
        """Loss and bits per byte over all texts; where there are several, those of each, and of each group."""
        total = perplexity.total(scores)
        figures = {"loss": total.loss, "bits_per_byte": total.bits_per_byte}
        if len(scores) > 1:
            figures |= {f"bits_per_byte/{score.name}": score.bits_per_byte for score in scores}
        return figures | {
            f"{GROUP_PREFIX}{group}": perplexity.total(members).bits_per_byte
            for group, members in self.groups(scores).items()
        }

    def closing_figures(self, final: dict[str, float]) -> dict[str, float]:
        """What the results say beside the loss, of the evaluation that counts."""
        documents = [document for text in self.eval_dataset for document in text.documents]
        bits_per_byte = final["eval_bits_per_byte"]
        return {"bits_per_byte": bits_per_byte, "xz_bits_per_byte": perplexity.xz_bits_per_byte(documents)}

    def closing_line(self, results: dict) -> str:
        """The result in a line."""
        return (
            f"held-out bits per byte {results['bits_per_byte']:.4f}, "
            f"xz -9 on the same text {results['xz_bits_per_byte']:.4f}"
        )
