"""Bytes of tensors that are alive, counted while a model runs forward and backward."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class StepBytes:
    """Bytes alive at the peak of the forward and backward pass, beside the weights.

    Attributes:
        gradients: of the weights; most are not there yet when activations are at their peak.
        autocast: copies of the weights in the type of the products.
        activations: what the layers keep for the backward pass.
        temporary: all else: logits, their loss and its gradient, one layer's gradients of activations.
    """

    gradients: int
    autocast: int
    activations: int
    temporary: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.gradients + self.autocast + self.activations + self.temporary


class AliveBytes(TorchDispatchMode):
    """Adds up the storages that are alive, and keeps what they were when there were most.

    The weights are not counted: they are there all the time. A question about data, which fake tensors cannot answer
    ("does every label count?"), is answered yes.

    Attributes:
        is_backward: to be set when the backward pass begins.
        peaks: of the forward pass, of the backward pass through the upper half of the layers, and of the rest.
    """

    def __init__(self, model: PreTrainedModel, accumulates: bool) -> None:
        super().__init__()
        self.is_backward = False
        self.peaks = [StepBytes(0, 0, 0, 0)] * 3
        self._alive = {"gradients": 0, "autocast": 0, "other": 0}
        self._kept_bytes = 0
        self._is_lower_half = False
        self._kind_of = WeakIdKeyDictionary()  # storage → a list with its kind, which may change
        self._weights = {id(weight): weight.untyped_storage() for weight in model.parameters()}
        for weight in (*model.parameters(), *model.buffers()):
            self._kind_of[weight.untyped_storage()] = ["weights"]
        for weight in filter(_learns, model.parameters()):
            if accumulates:
                weight.grad = torch.empty_like(weight)
                self._add(weight.grad.untyped_storage(), "gradients")
            weight.register_post_accumulate_grad_hook(self._claim_gradient)
        layers = layers_of(model)
        for weight in filter(_learns, layers[: len(layers) // 2].parameters()):
            weight.register_post_accumulate_grad_hook(self._note_lower_half)
        model.base_model.register_forward_hook(self._note_kept)

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator is torch.ops.aten._local_scalar_dense.default:
            return True
        result = operator(*args, **(kwargs or {}))
        is_cast = operator is torch.ops.aten._to_copy.default and id(args[0]) in self._weights
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage(), "autocast" if is_cast else "other")
        return result

    def _add(self, storage: torch.UntypedStorage, kind: str) -> None:
        if storage in self._kind_of:
            return
        holder, num_bytes = [kind], storage.nbytes()
        self._kind_of[storage] = holder
        weakref.finalize(storage, self._remove, holder, num_bytes).atexit = False
        self._alive[kind] += num_bytes
        phase = 0 if not self.is_backward else 2 if self._is_lower_half else 1
        if sum(self._alive.values()) > self.peaks[phase].total:
            kept = min(self._kept_bytes, self._alive["other"])
            self.peaks[phase] = StepBytes(
                self._alive["gradients"], self._alive["autocast"], kept, self._alive["other"] - kept
            )

    def _remove(self, holder: list[str], num_bytes: int) -> None:
        self._alive[holder[0]] -= num_bytes

    def _claim_gradient(self, weight: torch.Tensor) -> None:
        storage = weight.grad.untyped_storage()
        holder, num_bytes = self._kind_of[storage], storage.nbytes()
        self._alive[holder[0]] -= num_bytes
        self._alive["gradients"] += num_bytes
        holder[0] = "gradients"

    def _note_lower_half(self, weight: torch.Tensor) -> None:
        self._is_lower_half = True

    def _note_kept(self, *_) -> None:
        """Called behind the last layer; where the peak was before, as beside small logits, it held them too."""
        self._kept_bytes, peak = self._alive["other"], self.peaks[0]
        kept = min(self._kept_bytes, peak.temporary)
        self.peaks[0] = replace(peak, activations=kept, temporary=peak.temporary - kept)


def _learns(weight: torch.nn.Parameter) -> bool:
    return weight.requires_grad


def layers_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The stack of layers."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    num_layers = model.config.get_text_config().num_hidden_layers
    return next((stack for stack in lists if len(stack) == num_layers), torch.nn.ModuleList())
