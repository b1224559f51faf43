"""Training a causal language model: the objective and its evaluation in bits per byte."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from jpllm import runtime
from jpllm.data.blocks import blend as mix
from jpllm.data.blocks.blend import SourceUse
from jpllm.data.blocks.dataset import BlockDataset
from jpllm.data.corpus import DataConfig, EncodedText, write_documents
from jpllm.evaluation import perplexity
from jpllm.evaluation.generate import SamplingConfig, generate
from jpllm.evaluation.perplexity import TextScore
from jpllm.models.isolation import isolate_documents
from jpllm.models.losses import use_chunked_loss
from jpllm.runtime import InputError
from jpllm.tracking.metrics import GROUP_PREFIX
from jpllm.training.arguments import choose_precision, num_steps
from jpllm.training.config import TrainingConfig
from jpllm.training.run_data import Clock, RunData
from jpllm.training.trainer import BaseTrainer, autocast

_WITHOUT_BOS = "without_bos/bits_per_byte"  # the slash keeps it out of the pictures that `jpllm compare` shows at first
logger = logging.getLogger(__name__)


def run_data(
    blocks: BlockDataset, held_out: Sequence[EncodedText], data: DataConfig, training: TrainingConfig
) -> RunData:
    """Cut blocks of text into the steps that spend the budget, and say how many these are.

    Raises InputError if a source that must not repeat runs out in the first step.
    """
    blocks_per_step = training.blocks_per_step(runtime.num_processes())
    clock = Clock(blocks_per_step * data.sequence_length, blocks.num_blocks * data.sequence_length)
    max_steps = num_steps(training, clock.tokens_per_step, clock.tokens_per_epoch)
    if data.when_exhausted == "stop":
        max_steps = stop_before_repeats(max_steps, blocks.num_positions_without_repeats // blocks_per_step)
    blocks.num_positions = max_steps * blocks_per_step
    mixture = blocks.uses()
    runtime.announce(_summary(clock, max_steps, choose_precision(training.precision), held_out, mixture))
    digest = hashlib.sha256(blocks.fingerprint.encode())
    for text in held_out:
        digest.update(f"{text.name}\n".encode())
        digest.update(text.token_ids.tobytes())
    return RunData(
        train_dataset=blocks,
        held_out=held_out,
        fingerprint=digest.hexdigest(),
        clock=clock,
        max_steps=max_steps,
        write_held_out=partial(write_documents, held_out),
        mixture=mixture,
        shards_dir=data.shards_dir,
        shards_hash=blocks.shards_hash,
    )


def stop_before_repeats(max_steps: int, steps_without_repeats: int) -> int:
    """Return the fewer of both, and say so when the budget is cut. Raises InputError when nothing is left."""
    if steps_without_repeats == 0:
        raise InputError("when_exhausted: stop, and a source runs out in the first step; write repeat, or add text")
    if steps_without_repeats < max_steps:
        logger.warning(
            "a source runs out after %d of %d steps: training stops there (when_exhausted)",
            steps_without_repeats,
            max_steps,
        )
    return min(max_steps, steps_without_repeats)


def _summary(
    clock: Clock, max_steps: int, precision: str, held_out: Sequence[EncodedText], mixture: Sequence[SourceUse]
) -> str:
    """Say what the run will do in one line, and in another for each source where there are several."""
    tokens = max_steps * clock.tokens_per_step
    line = (
        f"{tokens:,} tokens in {max_steps:,} steps of {clock.tokens_per_step:,}: {tokens / clock.tokens_per_epoch:.2f} "
        f"epochs of {clock.tokens_per_epoch:,} tokens, {precision}; evaluation on "
        + ", ".join(f"{text.name} ({len(text.documents)} documents, {text.num_bytes:,} bytes)" for text in held_out)
    )
    return line if len(mixture) == 1 else f"{line}\n{mix.table(mixture)}"


class CausalLMTrainer(BaseTrainer[list[TextScore]]):
    """Trainer that evaluates bits per byte, each token of each held-out text exactly once."""

    eval_dataset: Sequence[EncodedText]
    best_figure = "bits_per_byte"

    def __init__(self, *, eos_token_id: int, context_length: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self._eos_token_id, self._context_length = eos_token_id, context_length

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
        prompts: Sequence[str],
        tokenizer: PreTrainedTokenizerFast,
        sampling: SamplingConfig,
        seed: int,
    ) -> list[str]:
        """Return what the model makes of the prompts, one text for each."""
        return generate(model, tokenizer, prompts, sampling, seed)

    def score(self, model: PreTrainedModel) -> list[TextScore]:
        """Return the scores of `model` on the held-out texts, in the arithmetic that the training uses."""
        return self._score_texts(model, self.eval_dataset)

    def _score_texts(self, model: PreTrainedModel, texts: Sequence[EncodedText]) -> list[TextScore]:
        return perplexity.score(
            model,
            texts,
            eos_token_id=self._eos_token_id,
            context_length=self._context_length,
            batch_size=self.args.per_device_eval_batch_size,
            autocast=autocast(self.args),
            rank=self.args.process_index,
            num_ranks=self.args.world_size,
        )

    def more_figures(self, model: PreTrainedModel, scores: list[TextScore]) -> dict[str, float]:
        """Return, before the first step, the bits per byte without BOS where they are others than those with it."""
        bos_token_id = self.eval_dataset[0].bos_token_id
        if self.state.global_step or bos_token_id is None:
            return {}
        score_texts = partial(self._score_texts, model)
        effect = perplexity.bos_effect(score_texts, self.eval_dataset, bos_token_id, scores)
        if not effect.is_worth_telling:
            return {}
        runtime.announce(f"held-out texts before training: {effect}")
        return {_WITHOUT_BOS: effect.without_bos}

    def figures(self, scores: list[TextScore]) -> dict[str, float]:
        """Return loss and bits per byte over all texts; where there are several, those of each, and of each group."""
        total = perplexity.total(scores)
        figures = {"loss": total.loss, "bits_per_byte": total.bits_per_byte}
        if len(scores) > 1:
            figures |= {f"bits_per_byte/{score.name}": score.bits_per_byte for score in scores}
        return figures | {
            f"{GROUP_PREFIX}{group}": perplexity.total(members).bits_per_byte
            for group, members in self.groups(scores).items()
        }

    def closing_figures(self, final: dict[str, float]) -> dict:
        """Return what the results say beside the loss: of the evaluation that counts, and of the BOS before."""
        documents = [document for text in self.eval_dataset for document in text.documents]
        figures = {
            "bits_per_byte": final["eval_bits_per_byte"],
            "xz_bits_per_byte": perplexity.xz_bits_per_byte(documents),
        }
        for row in self.state.log_history:
            if f"eval_{_WITHOUT_BOS}" in row:
                both = {"with_bos": row["eval_bits_per_byte"], "without_bos": row[f"eval_{_WITHOUT_BOS}"]}
                figures["bits_per_byte_before"] = both
        return figures

    def closing_line(self, results: dict) -> str:
        """Return the result of the run in a line."""
        return (
            f"held-out bits per byte {results['bits_per_byte']:.4f}, "
            f"xz -9 on the same text {results['xz_bits_per_byte']:.4f}"
        )
