"""LoRA: train small matrices beside the large ones, and add them up at the end.

Hu et al. 2021, https://arxiv.org/abs/2106.09685, by the peft library. Beside 4-bit weights it is QLoRA (Dettmers et al.
2023, https://arxiv.org/abs/2305.14314).
"""

from __future__ import annotations

import importlib.util
import logging
import math
import zlib
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jpllm.runtime import InputError, hide_kernels

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

FullPart = Literal["embeddings", "head"]
ADAPTER = "default"
_WHOLE = "_names_of_whole_parts"
_ALMOST_ONE = 0.999  # chance by which a number that the format has would be halfway to the next one
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """What LoRA adds to a weight: `scale` × the product of two matrices, or for a stack of experts of each pair.

    Attributes:
        name: of the weight in a model without LoRA.
        layer: peft's layer (`LoraLayer`) around the one that holds the weight.
    """

    name: str
    layer: Any

    def added_to(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the sum with a weight (as the model has it), computed in float32, on the CPU and in its dtype.

        In 16 bits it is rounded up or down by chance, with the probability that makes the mean right, and the same for
        each name. Rounded to the nearest number, all that is less than half a step of a weight would be lost: of
        SmolLM2-135M in bf16 that was up to 3e-3 nats, and is less than 1e-3 so.
        """
        import torch

        with torch.no_grad():
            added = self.layer.get_delta_weight(ADAPTER).float().cpu()
            if self._is_transposed():
                added = added.T
            return _rounded_by_chance(weight.float().cpu() + added, weight.dtype, zlib.crc32(self.name.encode()))

    def _is_transposed(self) -> bool:
        """Return whether the layer holds in 4 bits what the files of the model have the other way round, as GPT-2's."""
        from transformers.pytorch_utils import Conv1D

        original = getattr(self.layer.get_base_layer(), "source_cls", None)
        return original is not None and issubclass(original, Conv1D)


def _rounded_by_chance(numbers: torch.Tensor, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Return float32 numbers in another dtype; those that it has stay, others become one of their two neighbours."""
    import torch

    if dtype not in (torch.bfloat16, torch.float16):
        return numbers.to(dtype)
    limits = torch.finfo(dtype)
    exponents = torch.frexp(numbers).exponent - 1 + round(math.log2(limits.eps))
    steps = torch.ldexp(torch.ones_like(numbers), exponents).clamp(min=limits.smallest_normal * limits.eps)
    chance = torch.rand(numbers.shape, generator=torch.Generator().manual_seed(seed)).sub_(0.5).mul_(_ALMOST_ONE)
    return (numbers + chance * steps).to(dtype)


def add_lora(
    model: PreTrainedModel,
    rank: int,
    alpha: float,
    dropout: float,
    seed: int = 0,
    targets: Sequence[str] = (),
    full: Sequence[FullPart] = (),
) -> None:
    """Freeze the weights and put matrices of `rank` beside them, whose product is scaled by alpha / rank.

    The model computes what it did before until it is trained. Random numbers depend on `seed` alone. The matrices are
    float32 whatever the weights are held in, and so is what learns as a whole, see `learn_whole`.

    Args:
        targets: the layers that get matrices, see `targets_of`.
        full: parts that learn as a whole.

    Raises:
        InputError: peft is not installed, or see `targets_of` and `learn_whole`.
    """
    import torch

    require_peft()
    layers, experts = targets_of(model, targets)
    if experts and dropout:
        raise InputError(f"lora_dropout: experts ({experts[0]}) have none in front of their matrices; write 0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject(model, layers, experts, r=rank, lora_alpha=alpha, lora_dropout=dropout)
    learn_whole(model, full)
    _say_what_is_left_out(model)


def inject(model: PreTrainedModel, layers: Sequence[str], experts: Sequence[str], **settings: Any) -> None:
    """Freeze the weights and put LoRA's matrices, in float32, beside layers and stacks of experts of these names."""
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    are_transposed = any(isinstance(model.get_submodule(name), Conv1D) for name in layers)
    config = LoraConfig(
        target_modules=list(layers), target_parameters=list(experts) or None, fan_in_fan_out=are_transposed, **settings
    )
    model.add_adapter(config, ADAPTER)
    for parameter in model.parameters():
        if parameter.requires_grad:  # peft gives them the dtype of the weights; small updates would be lost in 16 bit
            parameter.data = parameter.data.float()


def targets_of(model: PreTrainedModel, wanted: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Return the names of the layers, and of the parameters with stacks of experts, that get LoRA's matrices.

    `wanted` are names or ends of names at a dot; none are all linear layers but the output layer.

    Raises:
        InputError: a wanted name meets nothing.
    """
    layers, experts = _linear_layers(model), _expert_stacks(model)
    if not wanted:
        return layers, []
    found: dict[str, list[str]] = {name: [] for name in wanted}
    for name in (*layers, *experts):
        for end in wanted:
            if name == end or name.endswith(f".{end}"):
                found[end].append(name)
    if missing := [end for end in wanted if not found[end]]:
        there = dict.fromkeys(name.rpartition(".")[2] for name in layers)
        there |= dict.fromkeys(".".join(name.split(".")[-2:]) for name in experts)
        raise InputError(
            f"lora_targets: {missing[0]!r} is no linear layer of {model.config.model_type}; there are "
            f"{', '.join(there)} (the output layer learns with lora_full: [head])"
        )
    chosen = {name for names in found.values() for name in names}
    return [name for name in layers if name in chosen], [name for name in experts if name in chosen]


def learn_whole(model: PreTrainedModel, parts: Sequence[FullPart]) -> None:
    """Have embeddings or output layer learn, in float32; where they are one matrix, both do.

    What these layers take and give is converted, so that the layers between them compute in the dtype they had.

    Raises:
        InputError: the model has no output layer of its own.
    """
    if not parts:
        return
    inputs, output = model.get_input_embeddings(), model.get_output_embeddings()
    if "head" in parts and output is None:
        raise InputError(f"lora_full: {model.config.model_type} has no output layer; remove head")
    hidden_dtype = inputs.weight.dtype
    chosen = [layer for name, layer in (("embeddings", inputs), ("head", output)) if name in parts]
    for parameter in (parameter for layer in chosen for parameter in layer.parameters()):
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    if output is not None and output.weight is inputs.weight and len(parts) == 1:
        logger.warning(
            "lora_full: embeddings and output layer of %s are one matrix: both learn", model.config.model_type
        )
    inputs.register_forward_hook(lambda layer, args, given: given.to(hidden_dtype))
    if output is not None:
        output.register_forward_pre_hook(_to_own_dtype)


def _to_own_dtype(layer: torch.nn.Module, args: tuple) -> tuple:
    return (args[0].to(layer.weight.dtype), *args[1:])


def has_lora(model: PreTrainedModel) -> bool:
    """Return whether LoRA's matrices were put on the model."""
    return getattr(model, "_hf_peft_config_loaded", False)


def has_adapted_experts(model: PreTrainedModel) -> bool:
    """Return whether LoRA changes stacks of experts, which peft does by exchanging their weights in each pass."""
    return any(hasattr(module, "parameter_name") for module in model.modules())


def changes(model: PreTrainedModel) -> dict[str, Change]:
    """Return what LoRA adds to weights, by the names that these have in a model without LoRA."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            weight = layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"
            name = f"{plain_name(name)}.{weight}"
            found[name] = Change(name, layer)
    return found


def plain_name(name: str) -> str:
    """Return the name that a layer or a weight has in a model without LoRA."""
    return name.replace(".base_layer", "")


def note_whole(model: PreTrainedModel, names: Set[str]) -> None:
    """Note which weights learned as a whole in an adapter that was put on a model, where nothing learns any more."""
    vars(model)[_WHOLE] = names  # a module's own setter takes tensors and modules


def whole_parts(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return what learns, or has learned, of a model beside LoRA's matrices, by name; a shared matrix once."""
    noted = vars(model).get(_WHOLE, frozenset())
    weights = {name: weight for name, weight in model.named_parameters() if ".lora_" not in name}
    return {name: weight for name, weight in weights.items() if weight.requires_grad or name in noted}


def require_peft() -> None:
    if importlib.util.find_spec("peft") is None:
        raise InputError("lora_rank: needs the package peft: pip install 'jpllm[lora]'")
    hide_kernels()  # peft is imported next


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """Return the names of the linear layers but the output layer; where some are Conv1D as in GPT-2, of those alone."""
    import torch
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    layers = {name: layer for name, layer in model.named_modules() if layer is not output}
    transposed = [name for name, layer in layers.items() if isinstance(layer, Conv1D)]
    return transposed or [name for name, layer in layers.items() if isinstance(layer, torch.nn.Linear)]


def _expert_stacks(model: PreTrainedModel) -> list[str]:
    """Return the names of the parameters that hold the matrices of several experts, (experts, rows, columns)."""
    from torch.nn.modules.conv import _ConvNd

    stacks = (name for name, weight in model.named_parameters() if weight.ndim == 3 and ".lora_" not in name)
    return [name for name in stacks if not isinstance(model.get_submodule(name.rpartition(".")[0]), _ConvNd)]


def _say_what_is_left_out(model: PreTrainedModel) -> None:
    left = {name: model.get_parameter(name) for name in _expert_stacks(model)}
    adapted = changes(model)
    names = [name for name in left if plain_name(name) not in adapted]
    if names:
        ends = dict.fromkeys(".".join(plain_name(name).split(".")[-2:]) for name in names)
        count = sum(left[name].numel() for name in names)
        logger.warning(
            "LoRA leaves out %s parameters in stacks of experts, which do not learn; to have them learn, give "
            "lora_targets with %s beside the layers",
            *(f"{count:,}", ", ".join(ends)),
        )
