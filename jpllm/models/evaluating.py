"""A model in evaluation mode for as long as something is computed with it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
def in_float32(model: torch.nn.Module) -> Generator[None]:
    """Have a model whose weights are held in 16 bits compute in float32, where gradients are off.

    The weights of a layer are converted while that layer computes, so that there has to be room for one layer more.
    """
    handles = []
    for module in model.modules():
        if any(weight.is_floating_point() for weight in module.parameters(recurse=False)):
            handles.append(module.register_forward_pre_hook(_widen, with_kwargs=True))
            handles.append(module.register_forward_hook(_narrow, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _widen(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    module.__dict__["_held_weights"] = [(weight, weight.data) for weight in module.parameters(recurse=False)]
    for weight in module.parameters(recurse=False):
        weight.data = _float32(weight.data)
    return tuple(map(_float32, args)), {name: _float32(value) for name, value in kwargs.items()}


def _narrow(module: torch.nn.Module, args: tuple, given: object) -> None:
    for weight, held in module.__dict__.pop("_held_weights", ()):
        weight.data = held


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
