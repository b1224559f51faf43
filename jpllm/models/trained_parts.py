"""What of a model learns, how its weights are held, and the model as it is trained, without memory for weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jpllm.models import quantising
from jpllm.models.classifier import Trainable, choose_trainable
from jpllm.models.dtypes import DtypeName
from jpllm.models.lora import FullPart, add_lora
from jpllm.models.pretrained import whole_models

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass


@dataclass(frozen=True)
class TrainedParts:
    """What is put on a model, and what of it learns; by default all of a language model.

    Attributes:
        classifier: the part of a classifier that learns; None for a language model.
        lora_rank: of the matrices beside the weights, which alone learn then; 0 without them.
        lora_dropout: in front of them.
        lora_targets: the layers that have them, as `jpllm.models.lora.add_lora` reads their names; by default all.
        lora_full: what learns as a whole beside them.
        frozen_dtype: number format of frozen weights, see `jpllm.models.dtypes.bytes_per_parameter`; of nf4 it is that
            of the quantised layers.
        learning_dtype: number format of weights that learn.
        saved_dtype: number format of the model that is saved at the end.
        saves_adapter: of a run with LoRA nothing but what learned is saved.
    """

    classifier: Trainable | None = None
    lora_rank: int = 0
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = ()
    lora_full: tuple[FullPart, ...] = ()
    frozen_dtype: DtypeName | Literal["nf4"] = "float32"
    learning_dtype: DtypeName = "float32"
    saved_dtype: DtypeName = "float32"
    saves_adapter: bool = False

    @property
    def is_all(self) -> bool:
        """No weight is frozen."""
        return self.classifier in (None, "all") and not self.lora_rank


ALL_PARTS = TrainedParts()


def meta_model(
    config: PretrainedConfig,
    *,
    is_masked: bool = False,
    trained_parts: TrainedParts = ALL_PARTS,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """Return the model of a configuration on the device "meta", with LoRA or a head, and frozen where nothing learns.

    `dtype` is that of all weights but LoRA's, by default float32; 4-bit layers compute in it.
    """
    import torch

    with torch.device("meta"), whole_models():
        model = model_class(is_masked, trained_parts).from_config(config, dtype=dtype or torch.float32)
    if trained_parts.frozen_dtype == "nf4":
        quantising.replace_layers(model, dtype or torch.float32)
    freeze(model, trained_parts)
    return model


def model_class(is_masked: bool, trained_parts: TrainedParts) -> type[_BaseAutoModelClass]:
    """Return the class of transformers that makes the model of a configuration."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

    if trained_parts.classifier:
        return AutoModelForSequenceClassification
    return AutoModelForMaskedLM if is_masked else AutoModelForCausalLM


def freeze(model: PreTrainedModel, trained_parts: TrainedParts) -> list[torch.nn.Module]:
    """Put LoRA's matrices on the model, or freeze a part of a classifier; returns the layers before what learns."""
    if trained_parts.lora_rank:
        add_lora(
            model,
            trained_parts.lora_rank,
            alpha=2.0 * trained_parts.lora_rank,
            dropout=trained_parts.lora_dropout,
            targets=trained_parts.lora_targets,
            full=trained_parts.lora_full,
        )
    return choose_trainable(model, trained_parts.classifier) if trained_parts.classifier else []
