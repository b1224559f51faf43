"""Runs that begin with somebody's model: how its weights are held, what of it learns, and what is saved of that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from jpllm import runtime
from jpllm.models import adapters, merging, pretrained
from jpllm.models.build import load_to_continue, load_trained
from jpllm.models.dtypes import DtypeName, Quantization, dtype_name
from jpllm.models.lora import add_lora
from jpllm.runtime import InputError
from jpllm.training import optimizer
from jpllm.training.arguments import choose_precision
from jpllm.training.config import Precision, TrainingConfig
from jpllm.training.recipe_configs import ContinuedPretrainingConfig, InstructionConfig, WeightsConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WHOLE_ENGINES = ("", "DDP")  # in which each process has all weights


@dataclass(frozen=True)
class Published:
    """The model that a run began with, and what of a run with LoRA is saved.

    Attributes:
        name: its folder, or its name on the Hub.
        held: what its weights are held in while it is trained.
        saved: number format of merged weights, by default that of the published ones.
        quantization: how its linear layers are held.
        saves_adapter: LoRA's matrices are saved alone.
    """

    name: str
    held: DtypeName
    saved: DtypeName
    quantization: Quantization = "none"
    saves_adapter: bool = False

    @property
    def is_saved_as_held(self) -> bool:
        """What is saved is computed as in training: an adapter beside the same weights, or a model in float32."""
        return self.saves_adapter or (self.quantization == "none" and self.saved == "float32")

    def save(self, model: PreTrainedModel, directory: Path) -> None:
        """Write what was trained beside the published weights: the adapter, or a model with both added up."""
        if self.saves_adapter:
            adapters.save(model, directory)
        else:
            merging.write_merged(model, self.name, directory, self.saved)

    def load(self, directory: Path, model_class: type[PreTrainedModel]) -> PreTrainedModel:
        """Read back what `save` wrote, held as in training; an adapter on the weights that it was trained on.

        What has to equal the unquantised model stays in host memory: a GPU may have no room for it.
        """
        quantization = self.quantization if self.saves_adapter else "none"
        return load_trained(
            *(directory, model_class),
            dtype=self.held,
            base_model=self._base_of(directory),
            quantization=quantization,
            on_host=not self.is_saved_as_held,
        )

    def load_unquantised(self, directory: Path, model_class: type[PreTrainedModel]) -> PreTrainedModel:
        """Return the published model in 16 bits with the adapter of a folder on it, in host memory."""
        base_model = self._base_of(directory)
        return load_trained(directory, model_class, dtype=self.held, base_model=base_model, on_host=True)

    def _base_of(self, directory: Path) -> str | None:
        return self.name if adapters.is_adapter(directory) else None


def load(
    recipe: ContinuedPretrainingConfig | InstructionConfig,
    tokenizer: PreTrainedTokenizerBase,
    sequence_length: int,
    weights: WeightsConfig,
    precision: Precision,
) -> tuple[PreTrainedModel, Published]:
    """Load the model that a run begins with, see `jpllm.models.build.load_to_continue`, as its keys say."""
    dtype = weights.load_dtype(precision, choose_precision(precision))
    model = load_to_continue(
        *(recipe.model, tokenizer, sequence_length, recipe.dropout, dtype), quantization=weights.quantization
    )
    held = cast("DtypeName", dtype_name(model.dtype))
    published = pretrained.saved_dtype(pretrained.folder_of(recipe.model), model.config)
    saved = weights.merged_dtype(held, published)
    return model, Published(recipe.model, held, saved, weights.quantization, weights.save == "adapter")


def adapt(model: PreTrainedModel, weights: WeightsConfig, seed: int) -> None:
    """Put LoRA on a model where its keys ask for it; attention and loss are prepared before."""
    if weights.lora_rank:
        alpha = weights.lora_alpha or 2 * weights.lora_rank
        targets, full = weights.lora_targets, weights.lora_full
        add_lora(model, weights.lora_rank, alpha, weights.lora_dropout, seed, targets, full)
        learning = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        frozen = dtype_name(next(w.dtype for w in model.parameters() if w.is_floating_point() and not w.requires_grad))
        layers = ", linear layers in 4 bits" if weights.quantization != "none" else ""
        runtime.announce(f"LoRA: {learning:,} parameters learn beside weights held in {frozen}{layers}")


def refuse_impossible(
    weights: WeightsConfig, training: TrainingConfig, engine_name: str, embedding_warmup_steps: int = 0
) -> None:
    """Raise InputError for keys of weights and optimizer that could not act, or not rightly, below this engine."""
    optimizer.refuse_impossible(training, engine_name, embedding_warmup_steps, weights.lora_rank > 0)
    is_cut_up = "ZeRO-3" in engine_name or "FSDP" in engine_name
    if weights.lora_rank and is_cut_up:
        raise InputError(
            f"lora_rank: {engine_name} cuts up weights, and LoRA's are merged whole; launch with "
            "accelerate_configs/single_gpu.yaml, multi_gpu.yaml or zero2_offload.yaml"
        )
    if weights.quantization != "none" and engine_name not in _WHOLE_ENGINES:
        raise InputError(
            f"quantization: 4-bit weights are for one process or DDP, not for {engine_name}; launch with "
            "accelerate_configs/single_gpu.yaml or multi_gpu.yaml"
        )
    if weights.quantization != "none" and training.torch_compile:
        raise InputError("torch_compile: 4-bit layers are not compiled; remove it")
    if not weights.lora_rank and weights.dtype == "bfloat16" and engine_name not in _WHOLE_ENGINES:
        raise InputError(f"dtype: {engine_name} keeps weights that learn in float32; remove it")
    if weights.lora_rank and embedding_warmup_steps and not weights.lora_full:
        raise InputError(
            "embedding_warmup_steps: beside LoRA no embedding learns; write lora_full: [embeddings, head], or remove it"
        )


def refuse_lost_pad_row(weights: WeightsConfig) -> None:
    """Raise InputError where the model gets a row for a padding token that an adapter would not hold."""
    if weights.save == "adapter" and "embeddings" not in weights.lora_full:
        raise InputError(
            "save: the tokenizer has no padding token of its own, and the row that the model gets for one is in no "
            "adapter; write save: merged, or lora_full: [embeddings]"
        )
