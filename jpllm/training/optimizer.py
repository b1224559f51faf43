"""The optimizers beyond Trainer's own: Muon for matrices, 8-bit AdamW, and embeddings that learn before the rest."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch.optim.lr_scheduler import LambdaLR

from jpllm.runtime import InputError, device
from jpllm.training.config import TrainingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MUON_MOMENTUM = 0.95


def refuse_impossible(
    config: TrainingConfig, engine_name: str, embedding_warmup_steps: int = 0, has_lora: bool = False
) -> None:
    """Raise InputError for an optimizer that cannot act on this hardware, or below this engine ("" or "DDP" …)."""
    if config.optimizer == "muon" and embedding_warmup_steps:
        raise InputError("optimizer: muon has no embedding_warmup_steps; remove them, or write adamw")
    if config.optimizer == "muon" and has_lora:
        raise InputError("optimizer: muon is for whole matrices, not for those of LoRA; write adamw")
    if config.optimizer == "muon" and engine_name == "XLA":
        raise InputError("optimizer: muon has steps that XLA compiles for minutes on end; write adamw")
    if config.optimizer == "muon" and engine_name not in ("", "DDP"):
        raise InputError(
            f"optimizer: muon needs whole matrices, and {engine_name} cuts them up; write adamw, or launch with "
            "accelerate_configs/single_gpu.yaml or multi_gpu.yaml"
        )
    if config.optimizer == "adamw_8bit":
        if device().type != "cuda":
            raise InputError("optimizer: adamw_8bit needs a GPU; write adamw")
        if "optimizer offload" in engine_name:
            raise InputError(f"optimizer: adamw_8bit stays on the GPU, and {engine_name} moves it off; write adamw")
        if importlib.util.find_spec("bitsandbytes") is None:
            raise InputError("optimizer: adamw_8bit needs the package bitsandbytes: pip install 'jpllm[8bit]'")


def build_muon(model: PreTrainedModel, config: TrainingConfig, decayed_names: Iterable[str]) -> MuonWithAdamW:
    """Muon for the weight matrices of the layers; AdamW for embeddings, output layer, norms and biases.

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

    def step(self, closure: Callable | None = None) -> None:
        """Make the step of both; what a scheduler wrote into `param_groups` holds for both."""
        for part in self._parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of both."""
        for part in self._parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict:
        """The states of both."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Take states that `state_dict` gave."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]


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
    """The parameter groups with the token embeddings (of input and output) in groups of their own, which come first."""
    tables = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    split: list[dict] = []
    for are_tables in (True, False):
        for group in groups:
            if chosen := [parameter for parameter in group["params"] if (id(parameter) in tables) == are_tables]:
                split.append({**group, "params": chosen, "are_tables": are_tables})
    return split


def delayed_for_the_rest(optimizer: torch.optim.Optimizer, scheduler: LambdaLR, num_steps: int) -> LambdaLR:
    """The scheduler with a learning rate of 0 for all but token embeddings in the first `num_steps` steps."""
    usual = scheduler.lr_lambdas[0]

    def later(step: int) -> float:
        return usual(step) if step >= num_steps else 0.0

    return LambdaLR(optimizer, [usual if group["are_tables"] else later for group in optimizer.param_groups])
