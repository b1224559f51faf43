"""What a model makes of the products of its output layer before they are logits: a factor, a cap, both or nothing.

Gemma-2 caps its logits, Cohere multiplies and Granite divides them, MiniCPM-3 divides the hidden states instead, and
each names the key of its configuration differently. So the model is asked: it is handed hidden states and products of
every size, and what it makes of them says which function it is. A cap is seen even where real logits are far below it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from jpllm.models.evaluating import evaluating
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SMALLEST, _LARGEST = -3, 6  # powers of ten that the products reach
_TOLERANCE = 1e-4  # of a value; what is found is rounded to seven digits, and some models cast to float32
_WAY_OUT = "set chunked_loss: false"


@dataclass(frozen=True)
class LogitFunction:
    """Logits as a function of the products of the output layer, with its bias: cap · tanh(scale · product / cap).

    Attributes:
        scale: factor, which is also that of hidden states which are scaled before the output layer.
        cap: bound that the logits approach; without one they are scale · product.
    """

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, products: torch.Tensor) -> torch.Tensor:
        """Return the logits of products."""
        scaled = products * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)


def logit_function(model: PreTrainedModel) -> LogitFunction:
    """Return what `model` makes of the products of its output layer, proved on two rows of products over all ids.

    Raises:
        InputError: it is no such function, or the output layer reads something else than the last hidden states.
    """
    head, body = model.get_output_embeddings(), model.base_model
    if body is model or head is None:
        raise InputError(f"chunked_loss: {type(model).__name__} has no layers apart from its output layer; {_WAY_OUT}")
    num_ids, width = head.weight.shape
    exponents = torch.linspace(_SMALLEST, _LARGEST, num_ids, dtype=torch.float64, device=model.device)
    products = torch.stack([10**exponents, -(10**exponents)])[None]
    whole_numbers = torch.arange(width, dtype=torch.float64, device=model.device) % 7 + 1  # bf16 has them, too
    hidden = torch.stack([whole_numbers, -whole_numbers])[None]
    read, logits = _answers(model, head, hidden, products)
    factor = 0.0 if read is None else _seven_digits(read.flatten()[-1] / hidden[0, -1, -1])
    if read is None or read.shape != hidden.shape or not _agree(read, factor * hidden):
        raise InputError(
            f"chunked_loss: the output layer of {type(model).__name__} reads something else than the hidden states of "
            f"its last layer; {_WAY_OUT}"
        )
    if logits.shape != products.shape:
        raise InputError(
            f"chunked_loss: {type(model).__name__} does not have one logit for each row of its output layer; {_WAY_OUT}"
        )
    found = _fitting(products[0, 0], logits[0, 0])
    if not _agree(logits, found(products)):
        raise InputError(
            f"chunked_loss: {type(model).__name__} does more with its logits than to scale and cap them; {_WAY_OUT}"
        )
    if factor != 1 and getattr(head, "bias", None) is not None:
        raise InputError(f"chunked_loss: {type(model).__name__} scales hidden states, but not the bias; {_WAY_OUT}")
    return LogitFunction(found.scale * factor, found.cap)


def _answers(
    model: PreTrainedModel, head: torch.nn.Module, hidden: torch.Tensor, products: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Return what the output layer is given for these hidden states, and the logits for these products; in float64."""
    seen: list[torch.Tensor] = []

    def give_products(given, *_, **__):
        seen.append(given.double())
        return products

    def give_hidden(module, inputs, output):
        output.last_hidden_state = hidden
        return output

    ids = torch.arange(2, device=model.device)[None]
    bodies = {id(body): body for body in (model.base_model, model.get_decoder())}  # OPT calls its decoder itself
    watches = [body.register_forward_hook(give_hidden) for body in bodies.values()]
    try:
        with evaluating(model), _forward_of(head, give_products):
            logits = model(input_ids=ids, use_cache=False).logits.double()
    except RuntimeError:  # weights that are not float64 lie between the two
        return None, products
    finally:
        for watch in watches:
            watch.remove()
    return (seen[0] if len(seen) == 1 else None), logits


@contextmanager
def _forward_of(module: torch.nn.Module, forward) -> Generator[None]:
    """Give a module another forward pass for the time of the body."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _fitting(products: torch.Tensor, logits: torch.Tensor) -> LogitFunction:
    """Return the function that the smallest and the largest product speak for."""
    slope, last_slope = float(logits[0] / products[0]), float(logits[-1] / products[-1])
    if abs(last_slope - slope) <= _TOLERANCE * abs(slope):
        return LogitFunction(_seven_digits(slope))
    cap = _seven_digits(abs(logits[-1]))
    return LogitFunction(_seven_digits(cap * torch.atanh(logits[0] / cap) / products[0]), cap)


def _agree(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool(((found - expected).abs() <= _TOLERANCE * expected.abs()).all())


def _seven_digits(number: torch.Tensor | float) -> float:
    """Round to what float32 can tell, so that 0.0625 is found and not its neighbour."""
    return float(f"{float(number):.7g}")
