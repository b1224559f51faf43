"""Log-likelihoods of given continuations, and greedy continuations, for the thousands of prompts of a benchmark.

The prompts of a benchmark begin alike, with the same examples. This common beginning is computed once, and each
question once for all its choices. Prompts are padded on the left, between the common beginning and the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from jpllm.evaluation.distributed import gathered
from jpllm.evaluation.generate import encode_prompt
from jpllm.models.build import context_length
from jpllm.runtime import InputError
from jpllm.tokenizer.document_tokens import document_tokens
from jpllm.tokenizer.special_tokens import end_ids

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.cache_utils import DynamicLayer

OnDone = Callable[[int, int, int], None]  # prompts done, how many of them are new, and all
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Read:
    """A batch of prompts that the model has read: next-token logits (rows, vocabulary), cache and attention mask."""

    logits: torch.Tensor
    cache: DynamicCache
    mask: torch.Tensor

    def select(self, rows: Sequence[int]) -> _Read:
        """Return a batch of the given rows, of which one may be there several times."""
        from transformers import DynamicCache

        rows, cache = list(rows), DynamicCache()
        for number, layer in enumerate(cast("list[DynamicLayer]", self.cache.layers)):
            keys, values = cast("tuple[torch.Tensor, torch.Tensor]", (layer.keys, layer.values))  # not None once read
            cache.update(keys[rows], values[rows], number)
        return _Read(self.logits[rows], cache, self.mask[rows])


class _Prompt(NamedTuple):
    ids: list[int]
    is_cut: bool


class PromptReader:
    """Reads many prompts with a causal model and its tokenizer.

    `batch_size` is the number of rows per forward pass; it changes the scores by rounding only. A prompt too long for
    the model's context loses its beginning, but not the BOS; `num_cut` counts such prompts. With several processes each
    takes every `num_ranks`-th batch, and all of them get all results from the default process group.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        self.rank, self.num_ranks = rank, num_ranks
        self.context_length = context_length(model)
        self.num_cut = 0
        self._bos_ids = list(document_tokens(tokenizer).before)
        self.end_ids = end_ids(tokenizer, model)

    def log_likelihoods(
        self, pairs: Sequence[tuple[str, str]], on_done: OnDone | None = None
    ) -> list[tuple[float, bool]]:
        """Return the log-probability in nats of each continuation of its prompt, and whether it is the greedy one.

        Prompt and continuation are encoded as one text. Where this changes the tokens at the end of the prompt, the
        score begins behind the last token that the prompt shares with all its continued texts.
        """
        import torch

        places: dict[str, list[int]] = defaultdict(list)
        for index, (prompt, _) in enumerate(pairs):
            places[prompt].append(index)
        prompts, tails = [], []
        for prompt, indices in places.items():
            head, own_tails = self._split(prompt, [pairs[index][1] for index in indices])
            prompts.append(self._fitted(head, max(map(len, own_tails)) - 1))
            tails.append(own_tails)
        all_indices = list(places.values())
        scores: dict[int, tuple[float, bool]] = {}
        with torch.no_grad():
            for batch, read in self._batches(prompts, on_done):
                jobs = [
                    (row, tail, index)
                    for row, number in enumerate(batch)
                    for tail, index in zip(tails[number], all_indices[number], strict=True)
                ]
                for start in range(0, len(jobs), self.batch_size):
                    rows, chunk, indices = zip(*jobs[start : start + self.batch_size], strict=True)
                    for index, score in zip(indices, self._score(read.select(rows), chunk), strict=True):
                        scores[index] = score
        return self._in_order(scores)

    def answers(
        self, prompts: Sequence[str], stop: Sequence[str], max_new_tokens: int, on_done: OnDone | None = None
    ) -> list[str]:
        """Return the greedy continuation of each prompt up to a text in `stop`, an EOS or `max_new_tokens`."""
        import torch

        ids = [self._fitted(encode_prompt(self.tokenizer, prompt), max_new_tokens - 1) for prompt in prompts]
        texts: dict[int, str] = {}
        with torch.no_grad():
            for batch, read in self._batches(ids, on_done):
                texts |= zip(batch, self._continue(read, stop, max_new_tokens), strict=True)
        return self._in_order(texts)

    def _split(self, prompt: str, continuations: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Return the ids that the prompt has in common with all continued texts, and the rest of each text."""
        head = encode_prompt(self.tokenizer, prompt)
        wholes = [encode_prompt(self.tokenizer, prompt + continuation) for continuation in continuations]
        common = _common_length([head, *wholes])
        common = min(common, *(len(whole) - 1 for whole in wholes))
        if common == 0:  # nothing stands before: a document begins
            return [self.tokenizer.eos_token_id], wholes
        return head[:common], [whole[common:] for whole in wholes]

    def _fitted(self, ids: list[int], room: int) -> _Prompt:
        """Return the prompt, without its beginning where it and `room` more tokens exceed the context."""
        longest = self.context_length - room
        if longest <= len(self._bos_ids):
            raise InputError(f"an answer of {room + 1} tokens does not fit the model's {self.context_length} tokens")
        is_cut = len(ids) > longest
        self.num_cut += is_cut
        if not is_cut:
            return _Prompt(ids, False)
        return _Prompt(self._bos_ids + ids[len(ids) - longest + len(self._bos_ids) :], True)

    def _batches(self, prompts: Sequence[_Prompt], on_done: OnDone | None) -> Iterator[tuple[list[int], _Read]]:
        """Yield this process's batches, the longest first: the numbers of its prompts, and what the model has read.

        `on_done` is called for every batch, also for those of other processes.
        """
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number].ids), reverse=True)
        num_done = num_batches = 0
        for is_cut in (True, False):  # prompts that lost their beginning have none in common
            group = [number for number in order if prompts[number].is_cut == is_cut]
            ids = [prompts[number].ids for number in group]
            num_common = min(_common_length(ids), len(ids[-1]) - 1) if group else 0
            prefix = self._read([ids[0][:num_common]]) if num_common else None
            for start in range(0, len(group), self.batch_size):
                num_batches += 1
                if (num_batches - 1) % self.num_ranks == self.rank:
                    rows = [row[num_common:] for row in ids[start : start + self.batch_size]]
                    before = prefix.select([0] * len(rows)) if prefix else None
                    yield group[start : start + self.batch_size], self._read(rows, before)
                num_new = len(group[start : start + self.batch_size])
                num_done += num_new
                if on_done:
                    on_done(num_done, num_new, len(prompts))

    def _in_order(self, results: dict[int, Result]) -> list[Result]:
        """Return the results of all processes, in the order of their numbers."""
        found = gathered(results) if self.num_ranks > 1 else results
        return [found[number] for number in range(len(found))]

    def _read(self, rows: Sequence[Sequence[int]], before: _Read | None = None) -> _Read:
        """Pad rows of ids on the left and read them behind `before`."""
        import torch

        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return self._forward(ids, mask, before, last_only=True)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, before: _Read | None, last_only: bool) -> _Read:
        """Read ids (rows, length) behind `before`; logits (rows, vocabulary) or (rows, length, vocabulary), float32."""
        import torch
        from transformers import DynamicCache

        device = next(self.model.parameters()).device
        mask = mask.to(device)
        if before:
            mask = torch.cat([before.mask, mask], dim=1)
        output = self.model(
            input_ids=ids.to(device),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :],
            past_key_values=before.cache if before else DynamicCache(),
            use_cache=True,
            logits_to_keep=1 if last_only else 0,
        )
        logits = output.logits.float()
        return _Read(logits[:, -1] if last_only else logits, output.past_key_values, mask)

    def _score(self, read: _Read, tails: Sequence[Sequence[int]]) -> list[tuple[float, bool]]:
        """Return log-probability and greediness of one continuation for each row."""
        import torch

        logits = read.logits[:, None]
        longest = max(map(len, tails))
        if longest > 1:
            ids = torch.tensor([[*tail[:-1], *[0] * (longest - len(tail))] for tail in tails])
            mask = torch.tensor([[1] * (len(tail) - 1) + [0] * (longest - len(tail)) for tail in tails])
            logits = torch.cat([logits, self._forward(ids, mask, read, last_only=False).logits], dim=1)
        scores = []
        for row, tail in zip(logits, tails, strict=True):
            wanted = torch.tensor(tail, device=row.device)
            own = row[: len(tail)].log_softmax(-1)
            score = own.gather(1, wanted[:, None]).double().sum().item()
            scores.append((score, bool((own.argmax(-1) == wanted).all())))
        return scores

    def _continue(self, read: _Read, stop: Sequence[str], max_new_tokens: int) -> list[str]:
        """Return the greedy continuations of the rows; rows that have ended are dropped from the batch."""
        import torch

        ids: list[list[int]] = [[] for _ in read.logits]
        texts = [""] * len(ids)
        alive = list(range(len(ids)))
        for step in range(max_new_tokens):
            chosen = read.logits.argmax(-1).tolist()
            going_on = []
            for place, (row, token) in enumerate(zip(alive, chosen, strict=True)):
                if token in self.end_ids:
                    continue
                ids[row].append(token)
                texts[row] = cast("str", self.tokenizer.decode(ids[row], skip_special_tokens=True))
                if not any(end in texts[row] for end in stop):
                    going_on.append(place)
            if not going_on or step + 1 == max_new_tokens:
                break
            if len(going_on) < len(alive):
                read, alive = read.select(going_on), [alive[place] for place in going_on]
            new = torch.tensor([[chosen[place]] for place in going_on])
            read = self._forward(new, torch.ones_like(new), read, last_only=True)
        for end in stop:
            texts = [text.split(end)[0] for text in texts]
        return texts


def _common_length(rows: Sequence[list[int]]) -> int:
    """Return the number of ids with which all rows begin."""
    first, last = min(rows), max(rows)  # the two that differ earliest
    return next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
