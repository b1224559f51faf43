"""Give a model rows for new ids, and leave every old row as it is, bit for bit."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Literal

from jpllm.models.build import initializer_range, input_embedding
from jpllm.runtime import InputError

if typing.TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def grow_embeddings(
    model: PreTrainedModel,
    old_ids_of_new_rows: Sequence[Sequence[int]],
    *,
    first_new_id: int,
    method: Literal["mean", "random"] = "mean",
    seed: int = 0,
) -> None:
    """Fill the rows of the ids from `first_new_id` on, in the input and output embeddings (tied or not).

    Rows that the model has beyond the old ids, as padding, are used first; what is missing is added, and
    `config.vocab_size` follows. With `mean` a new row is the mean of the rows of `old_ids_of_new_rows`, computed in
    float64, and an output bias the mean of theirs; with `random` it is drawn like the model's first weights (normal,
    `config.initializer_range`, dependent on `seed` alone), and a bias is 0.

    Raises:
        InputError: the model has fewer rows than `first_new_id`.
    Source: Gee et al. 2022, https://arxiv.org/abs/2402.09977 (fast vocabulary transfer): a new row is the mean of the
    rows of its old pieces. Hewitt 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html: why small random rows
    of an output layer take the probability from all old ids.
    """
    import torch

    num_rows = input_embedding(model).weight.shape[0]
    if num_rows < first_new_id:
        raise InputError(
            f"the model has {num_rows:,} embedding rows, the tokenizer {first_new_id:,} ids: "
            "they do not belong to each other"
        )
    num_ids = first_new_id + len(old_ids_of_new_rows)
    with torch.random.fork_rng(devices=[]):  # the new rows are filled with random numbers on the way
        if num_ids > num_rows:
            model.resize_token_embeddings(num_ids, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    for weight in _weights(model):
        if method == "mean":
            rows = _means(weight, old_ids_of_new_rows)
        elif weight.ndim == 1:
            rows = torch.zeros(len(old_ids_of_new_rows))
        else:
            rows = torch.randn(len(old_ids_of_new_rows), weight.shape[1], generator=generator)
            rows *= initializer_range(model.config)
        with torch.no_grad():
            weight[first_new_id:num_ids] = rows.to(weight)


def add_pad_row(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a model a row for its tokenizer's padding id, which is behind all that it has rows for.

    It is the mean of all rows, so the model will hardly ever write it.
    """
    num_rows = input_embedding(model).weight.shape[0]
    first_new_id = tokenizer.pad_token_id
    grow_embeddings(model, [range(min(num_rows, first_new_id))], first_new_id=first_new_id)
    model.config.pad_token_id = tokenizer.pad_token_id


def has_row(model: PreTrainedModel, token_id: int) -> bool:
    """Return whether the model has an embedding for an id."""
    return token_id < input_embedding(model).weight.shape[0]


def _weights(model: PreTrainedModel) -> list[torch.Tensor]:
    """Return the input embedding, and output embedding and bias where the model has its own."""
    output = model.get_output_embeddings()
    found = [input_embedding(model).weight]
    if output is not None and output.weight is not found[0]:
        found.append(output.weight)
    if output is not None and output.bias is not None:
        found.append(output.bias)
    return found


def _means(weight: torch.Tensor, old_ids_of_new_rows: Sequence[Sequence[int]]) -> torch.Tensor:
    import torch

    old = weight.detach().double().cpu()
    if not old_ids_of_new_rows:
        return old[:0]
    return torch.stack([old[list(old_ids)].mean(dim=0) for old_ids in old_ids_of_new_rows])
