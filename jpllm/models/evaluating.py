"""A model in evaluation mode for as long as something is computed with it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

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
