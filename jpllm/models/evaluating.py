"""A model in evaluation mode for as long as something is computed with it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch


@contextmanager
def evaluating(model: torch.nn.Module, autocast: AbstractContextManager | None = None) -> Generator[None]:
    """Switch dropout and gradients off; afterwards the model is in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast or nullcontext():
            yield
    finally:
        model.train(was_training)


@contextmanager
def in_float32(model: torch.nn.Module, device: torch.device) -> Generator[None]:
    """Have a model whose weights are held in 16 bits compute in float32 on a device, where gradients are off.

    The weights of a layer are converted, and copied to the device, while that layer computes, so that there has to be
    room for one layer more. Weights in host memory stay there, so a GPU need not have room for the model: all but the
    first, which says where inputs go.
    """
    first = next(model.parameters())
    first.data = first.data.to(device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    widen = partial(_widen, device)
    handles = []
    for module in model.modules():
        if any(weight.is_floating_point() for weight in module.parameters(recurse=False)):
            handles.append(module.register_forward_pre_hook(widen, with_kwargs=True))
            handles.append(module.register_forward_hook(_narrow, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _widen(device: torch.device, module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    module.__dict__["_held_weights"] = [(weight, weight.data) for weight in module.parameters(recurse=False)]
    for weight in module.parameters(recurse=False):
        weight.data = _float32(weight.data.to(device))
    return tuple(map(_float32, args)), {name: _float32(value) for name, value in kwargs.items()}


def _narrow(module: torch.nn.Module, args: tuple, given: object) -> None:
    for weight, held in module.__dict__.pop("_held_weights", ()):
        weight.data = held


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
