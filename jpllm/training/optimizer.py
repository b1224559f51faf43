"""The optimizers that `optimizer:` can name, one row of a table each, and embeddings that learn before the rest."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from jpllm.runtime import InputError, device
from jpllm.training.config import TrainingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MUON_MOMENTUM = 0.95
_CONFIGURED = ("lr", "betas", "weight_decay", "momentum")


@dataclass(frozen=True)
class Conditions:
    """What an optimizer would have to work with.

    Attributes:
        engine_name: see `jpllm.training.engine.Engine`.
        on_gpu: the model is on a CUDA device.
        has_lora: only LoRA's matrices learn.
        embedding_warmup_steps: steps in which only token embeddings learn.
    """

    engine_name: str
    on_gpu: bool = True
    has_lora: bool = False
    embedding_warmup_steps: int = 0


class ParameterCounts(Protocol):
    """The counts that the size of an optimizer's states depends on, see `jpllm.planning.size.ModelSize`."""

    @property
    def num_trainable(self) -> int: ...
    @property
    def num_trainable_lookups(self) -> int: ...
    @property
    def num_matrix_parameters(self) -> int: ...


@dataclass(frozen=True)
class Optimizer:
    """An optimizer: how it is built, what it cannot work with, and what it takes.

    Attributes:
        refusal: why it cannot work under these conditions, as the rest of a sentence that begins with its name; ""
            where it can.
        state_bytes: bytes of its states, of these parameters and so many bytes a number.
        time_factor: how much longer a whole training step takes than with AdamW; an estimate, to order plans.
        is_adamw: its updates are AdamW's, so a plan may propose it instead of AdamW.
        trainer_name: Trainer's name of it, on other devices than XLA's; Trainer builds it where `build` is None.
        build: makes it of a model, the settings and the names of parameters with weight decay.
        package: what has to be installed for it, and the extra of jpllm that installs it.
    """

    refusal: Callable[[Conditions], str]
    state_bytes: Callable[[ParameterCounts, int], int]
    time_factor: float = 1.0
    is_adamw: bool = False
    trainer_name: str = "adamw_torch_fused"
    build: Callable[[PreTrainedModel, TrainingConfig, Iterable[str]], torch.optim.Optimizer] | None = None
    package: tuple[str, str] | None = None


def refuse_impossible(
    config: TrainingConfig, engine_name: str, embedding_warmup_steps: int = 0, has_lora: bool = False
) -> None:
    """Raise InputError for an optimizer that cannot act on this hardware, or below this engine ("" or "DDP" …)."""
    optimizer = OPTIMIZERS[config.optimizer]
    here = Conditions(engine_name, device().type == "cuda", has_lora, embedding_warmup_steps)
    if reason := optimizer.refusal(here):
        raise InputError(f"optimizer: {config.optimizer} {reason}")
    if optimizer.package and importlib.util.find_spec(optimizer.package[0]) is None:
        package, extra = optimizer.package
        raise InputError(f"optimizer: {config.optimizer} needs the package {package}: pip install 'jpllm[{extra}]'")


def trainer_name(name: str, on_xla: bool) -> str:
    """Return Trainer's name of an optimizer; PyTorch refuses the fused AdamW on XLA tensors."""
    found = OPTIMIZERS[name].trainer_name
    return found.removesuffix("_fused") if on_xla else found


def _refusal_of_muon(conditions: Conditions) -> str:
    if conditions.embedding_warmup_steps:
        return "has no embedding_warmup_steps; remove them, or write adamw"
    if conditions.has_lora:
        return "is for whole matrices, not for those of LoRA; write adamw"
    if conditions.engine_name == "XLA":
        return "has steps that XLA compiles for minutes on end; write adamw"
    if conditions.engine_name not in ("", "DDP"):
        return (
            f"needs whole matrices, and {conditions.engine_name} cuts them up; write adamw, or launch with "
            "accelerate_configs/single_gpu.yaml or multi_gpu.yaml"
        )
    return ""


def _refusal_of_8bit(conditions: Conditions) -> str:
    if not conditions.on_gpu or conditions.engine_name == "XLA":
        return "needs a GPU; write adamw"
    if "optimizer offload" in conditions.engine_name:
        return f"stays on the GPU, and {conditions.engine_name} moves it off; write adamw"
    return ""


def _bytes_of_8bit(counts: ParameterCounts, number_bytes: int) -> int:
    """Return the bytes of two 8-bit moments with a float32 scale for 256 of them; embeddings keep theirs in float32."""
    return int(2 * (1 + 4 / 256) * counts.num_trainable) + 6 * counts.num_trainable_lookups


def _bytes_of_muon(counts: ParameterCounts, number_bytes: int) -> int:
    """Return the bytes of one momentum for the matrices of the layers and AdamW's two moments for the rest."""
    return number_bytes * (2 * counts.num_trainable - counts.num_matrix_parameters)


def build_muon(model: PreTrainedModel, config: TrainingConfig, decayed_names: Iterable[str]) -> MuonWithAdamW:
    """Build Muon for the weight matrices of the layers, and AdamW for embeddings, output layer, norms and biases.

    Muon's update is scaled to AdamW's size, so both take the same learning rate. Sources: Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon; Liu et al. 2025, https://arxiv.org/abs/2502.16982 (the scale).
    """
    decayed = set(decayed_names)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    tables.add(id(model.get_output_embeddings().weight))
    matrices, others, undecayed = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim == 2 and id(parameter) not in tables
            (matrices if is_matrix else others if name in decayed else undecayed).append(parameter)
    muon = torch.optim.Muon(
        matrices,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=_MUON_MOMENTUM,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [{"params": others, "weight_decay": config.weight_decay}, {"params": undecayed, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        fused=True,
    )
    return MuonWithAdamW(muon, adamw)


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers for different parameters of one model that step, save and load as one."""

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self._parts = (muon, adamw)
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Make the step of both; what a scheduler wrote into `param_groups` holds for both."""
        for part in self._parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of both."""
        for part in self._parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict:
        """Return the states of Muon and of AdamW."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Take states that `state_dict` gave."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer(
        refusal=lambda conditions: "",
        state_bytes=lambda counts, number_bytes: 2 * number_bytes * counts.num_trainable,
        is_adamw=True,
    ),
    "adamw_8bit": Optimizer(
        refusal=_refusal_of_8bit,
        state_bytes=_bytes_of_8bit,
        time_factor=1.05,
        is_adamw=True,
        trainer_name="adamw_bnb_8bit",
        package=("bitsandbytes", "8bit"),
    ),
    "paged_adamw_8bit": Optimizer(  # no plan proposes it: it takes what adamw_8bit takes, and moves that out if need be
        refusal=_refusal_of_8bit,
        state_bytes=_bytes_of_8bit,
        time_factor=1.05,
        trainer_name="paged_adamw_8bit",
        package=("bitsandbytes", "8bit"),
    ),
    "muon": Optimizer(refusal=_refusal_of_muon, state_bytes=_bytes_of_muon, build=build_muon),
}


def group_settings(optimizer: torch.optim.Optimizer) -> list[dict]:
    """Return the settings of each parameter group that a configuration decides."""
    return [{key: group[key] for key in _CONFIGURED if key in group} for group in optimizer.param_groups]


def set_groups(optimizer: torch.optim.Optimizer, scheduler: LambdaLR, settings: Sequence[dict]) -> None:
    """Give the parameter groups these settings, and the learning rates that the scheduler has for its step of them.

    Trainer restores the settings of a checkpoint with its states, so that a changed configuration would not act. Where
    nothing was changed, this changes nothing.
    """
    scheduler.base_lrs = [own["lr"] for own in settings]
    rates = [own["lr"] * rate(scheduler.last_epoch) for own, rate in zip(settings, scheduler.lr_lambdas, strict=True)]
    for group, own, rate in zip(optimizer.param_groups, settings, rates, strict=True):
        group.update(own, initial_lr=own["lr"], lr=rate)
    scheduler._last_lr = rates


def keep_steps_on_host(optimizer: torch.optim.Optimizer) -> None:
    """Have the optimizer's counts of steps in host memory whenever states are loaded.

    accelerate sends all that it loads to the XLA device, and AdamW reads the count of each parameter in each step: each
    would be a graph of its own, and a wait.
    """

    def to_host(loaded: torch.optim.Optimizer) -> None:
        for state in loaded.state.values():
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].cpu()

    optimizer.register_load_state_dict_post_hook(to_host)


def embeddings_apart(model: PreTrainedModel, groups: Sequence[dict]) -> list[dict]:
    """Return the parameter groups, with the token embeddings (input and output) in groups of their own, first."""
    tables = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    split: list[dict] = []
    for are_tables in (True, False):
        for group in groups:
            if chosen := [parameter for parameter in group["params"] if (id(parameter) in tables) == are_tables]:
                split.append({**group, "params": chosen, "are_tables": are_tables})
    return split


def delayed_for_the_rest(scheduler: LRScheduler, num_steps: int) -> LambdaLR:
    """Return the scheduler with a learning rate of 0 for all but token embeddings in the first `num_steps` steps.

    Raises TypeError for a schedule that is no function of the step, as all are that `lr_scheduler_type` can name.
    """
    if not isinstance(scheduler, LambdaLR):
        raise TypeError(f"{type(scheduler).__name__} is no LambdaLR")
    usual = scheduler.lr_lambdas[0]

    def later(step: int) -> float:
        return usual(step) if step >= num_steps else 0.0

    optimizer = scheduler.optimizer
    return LambdaLR(optimizer, [usual if group["are_tables"] else later for group in optimizer.param_groups])
