"""Frozen layers whose output is known are passed over.

What a frozen part makes of a text is the same in every epoch. It is computed once for each row and kept in a file, and
from then on a forward pass costs the embedding and the layers that learn. The model itself goes on making masks and
positions, so this works alike for every architecture whose layers take hidden states and return them.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np

from jpllm.runtime import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Trunk:
    """The frozen layers of a model, which from now on also takes `trunk_output=`.

    With it, (rows, tokens, width), the layers are not computed: the last one returns that instead. Without it nothing
    changes.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[torch.nn.Module]) -> None:
        self._model = model
        self._given: torch.Tensor | None = None
        self._is_watched = False
        self._seen: Any = None  # what the last layer returned, of which not every architecture makes a tensor alone
        for layer in layers:
            layer.forward = self._passed_over(layer.forward, is_last=layer is layers[-1])
        whole_forward = model.forward

        @functools.wraps(whole_forward)  # Trainer reads the signature
        def forward(_, *args, trunk_output=None, **kwargs):
            self._given = trunk_output
            try:
                return whole_forward(*args, **kwargs)
            finally:
                self._given = None

        model.forward = MethodType(forward, model)

    def output(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return what the frozen layers make of a batch, float32 (rows, tokens, width).

        Raises:
            InputError: the layers of this architecture return more than hidden states.
        """
        self._is_watched = True
        self._model(**batch)
        seen, self._seen, self._is_watched = self._seen, None, False
        if isinstance(seen, tuple):
            raise InputError(
                f"keep_trunk_output: the layers of {type(self._model).__name__} return more than hidden states; "
                "write false"
            )
        return seen.float()

    def _passed_over(self, whole_forward, is_last: bool):
        @functools.wraps(whole_forward)
        def forward(hidden_states, *args, **kwargs):
            if self._given is not None:
                return self._given.to(hidden_states.dtype) if is_last else hidden_states
            output = whole_forward(hidden_states, *args, **kwargs)
            if is_last and self._is_watched:
                self._seen = output
            return output

        return forward


def gives_hidden_states(model: PreTrainedModel, layer: torch.nn.Module) -> bool:
    """Return whether a layer returns hidden states alone; found by trying."""
    import torch

    from jpllm.models.evaluating import evaluating

    seen: list[object] = []
    watch = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        with evaluating(model):
            model.base_model(torch.tensor([[5, 6]], device=model.device))
    finally:
        watch.remove()
    return all(isinstance(output, torch.Tensor) for output in seen)


class KeptStates:
    """Hidden states of rows of different lengths, in a file that is read as memory.

    Args:
        lengths: tokens of each row.
        is_writer: makes the file; all others open what is there.

    Raises:
        InputError: the disk has no room for it.
    """

    def __init__(self, file: Path, lengths: Sequence[int], width: int, is_writer: bool = True) -> None:
        self.file = file
        self._starts = np.cumsum([0, *lengths])
        num_tokens = int(self._starts[-1])
        self.num_bytes = 4 * num_tokens * width
        if is_writer:
            free = shutil.disk_usage(file.parent).free
            if free < self.num_bytes:
                raise InputError(
                    f"keep_trunk_output: it needs {self.num_bytes / 1e9:.1f} GB, and {file.parent} has "
                    f"{free / 1e9:.1f} GB free; write false"
                )
            self._states = np.lib.format.open_memmap(file, "w+", np.float32, (num_tokens, width))
        else:
            self._states = np.lib.format.open_memmap(file, "r+")

    def put(self, number: int, states: torch.Tensor) -> None:
        """Keep those of a row, (its tokens or more, width); what is beyond its tokens is padding."""
        start, end = self._starts[number : number + 2]
        self._states[start:end] = states[: end - start].cpu().numpy()

    def batch(self, numbers: Sequence[int], length: int) -> torch.Tensor:
        """Return the outputs of some rows, float32 (rows, `length`, width), 0 at the padding."""
        import torch

        found = torch.zeros(len(numbers), length, self._states.shape[1])
        for index, number in enumerate(numbers):
            start, end = self._starts[number : number + 2]
            found[index, : end - start] = torch.from_numpy(np.array(self._states[start:end]))
        return found
