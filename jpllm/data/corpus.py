"""Provide the texts of an experiment: training shards of each source, and held-out texts to evaluate on."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from jpllm import runtime
from jpllm.config.settings import REQUIRED, option
from jpllm.data.blocks.blend import slots_per_cycle
from jpllm.data.documents import read_documents
from jpllm.data.read.jsonl import write_jsonl
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.pack import DEFAULT_HELD_OUT_FRACTION, Encoder, document_pieces, pack, text_rank
from jpllm.data.shards.token_shards import HELD_OUT_TEXT_NAME, TokenShards, own_bos, verify
from jpllm.runtime import InputError

VERIFY_HELP = "Compare the token shards with their checksums before they are read, at about 1.5 GB a second."
logger = logging.getLogger(__name__)


@dataclass
class DataConfig:
    """Data"""

    sources: list[SourceConfig] = option(REQUIRED, "Training texts: paths, or entries with the keys below.")
    eval_sources: list[SourceConfig] = option(
        default_factory=list, help="Texts to evaluate on, instead of documents held out of the sources."
    )
    held_out_fraction: float | None = option(
        None,
        "Share of the documents kept out of training for evaluation; 0.01, or 0 where there are eval_sources.",
        minimum=0,
        maximum=0.5,
    )
    held_out_bytes: int = option(500_000, "Most bytes of each source's text in an evaluation.", minimum=1)
    sequence_length: int = option(1024, "Tokens per training block; at most the model's positions.", minimum=2)
    isolate_documents: bool = option(
        False, "Tokens attend to their own document only, not to those before it in the block."
    )
    when_exhausted: Literal["repeat", "stop"] = option(
        "repeat", "When a source has been read through: shuffle it anew and repeat it, or stop training."
    )
    processes: int = option(0, "Processes that clean texts; 0 is one per core.", minimum=0)
    shards_dir: Path = option(Path("runs/shards"), "Folder of the token shards, shared by all runs.")
    verify_shards: bool = option(True, VERIFY_HELP)

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield the problems of sources: none to train or to evaluate on, equal names, weights that cannot act."""
        if not self.sources:
            yield "sources", "name at least one source"
        if not self.eval_sources and self.held_out_fraction == 0:
            yield "held_out_fraction", "nothing would be left to evaluate on; give a share above 0, or eval_sources"
        if self.eval_sources and self.held_out_fraction:
            yield "held_out_fraction", "documents would be kept out and not used: eval_sources are evaluated on"
        if len({source.weight is None for source in self.sources}) > 1:
            lacking = ", ".join(source.label for source in self.sources if source.weight is None)
            yield "sources", f"some have a weight and {lacking} not; give all a weight, or none"
        elif self.sources and self.weights:
            try:
                slots_per_cycle(self.weights)
            except ValueError as error:
                yield "sources", str(error)
        if any(source.weight is not None for source in self.eval_sources):
            yield "eval_sources", "weight: it acts among sources only; remove it"
        for key, sources in (("sources", self.sources), ("eval_sources", self.eval_sources)):
            labels = [source.label for source in sources]
            for label in sorted({label for label in labels if labels.count(label) > 1}):
                yield key, f"two sources are called {label!r}; give one of them another name"

    @property
    def weights(self) -> list[float] | None:
        """The weight of each source, or None where none has one."""
        weights = [source.weight for source in self.sources if source.weight is not None]
        return weights if len(weights) == len(self.sources) else None

    @property
    def effective_held_out_fraction(self) -> float:
        """`held_out_fraction`, or its default."""
        if self.held_out_fraction is not None:
            return self.held_out_fraction
        return 0.0 if self.eval_sources else DEFAULT_HELD_OUT_FRACTION


@dataclass
class EncodedText:
    """A named evaluation text: its documents as given, and as token ids.

    Attributes:
        documents: the original texts.
        token_ids: int64 (tokens,), documents one after another, each followed by one EOS, and after a BOS where
            documents begin with one that is not the EOS.
        group: texts of a group are added up, such as "old" and "new"; None for a text of no group.
        bos_token_id: what documents begin with; None where that is nothing.
    """

    name: str
    documents: list[str]
    token_ids: np.ndarray = field(repr=False)
    group: str | None = None
    bos_token_id: int | None = None

    @cached_property
    def is_given(self) -> np.ndarray:
        """Which ids are no information, bool (tokens,): a BOS that is not the EOS, since it always stands there."""
        if own_bos(self.bos_token_id, self.token_ids[-1]) is None:
            return np.zeros(len(self.token_ids), dtype=bool)
        return self.token_ids == self.bos_token_id

    def with_bos(self, bos_token_id: int | None) -> EncodedText:
        """Return the same text with documents that begin with another BOS, or with None, without any."""
        ids, eos_token_id = self.token_ids[~self.is_given], self.token_ids[-1]
        if (bos := own_bos(bos_token_id, eos_token_id)) is not None:
            ids = np.insert(ids, np.append(0, np.flatnonzero(ids[:-1] == eos_token_id) + 1), bos)
        return replace(self, token_ids=ids, bos_token_id=bos_token_id)

    @cached_property
    def num_bytes(self) -> int:
        """The UTF-8 bytes of the documents as given, without anything between them."""
        return sum(len(text.encode("utf-8")) for text in self.documents)

    @cached_property
    def num_characters(self) -> int:
        """The Unicode characters of the documents as given."""
        return sum(len(text) for text in self.documents)


def training_shards(config: DataConfig, encoder: Encoder) -> list[TokenShards]:
    """Return the token shards of each source; build those that are not there yet.

    Raises:
        InputError: what `pack` raises, and shards that are not as they were written.
    """
    directories = [
        pack(source, encoder, config.shards_dir, config.effective_held_out_fraction, config.processes)
        for source in config.sources
    ]
    if config.verify_shards and runtime.is_first_on_machine():
        verify(directories)
    return list(map(TokenShards, directories))


def weights_with_replay(
    sizes: Sequence[int], weights: Sequence[float] | None, replay_sizes: Sequence[int], replay: float
) -> list[float]:
    """Return the weights of new sources, then of replayed ones, which get the share `replay` of the tokens together.

    `sizes` are in tokens: sources share by size where they have no weights, and replayed ones always.
    """
    wanted = weights or sizes
    new = [(1 - replay) * weight / sum(wanted) for weight in wanted]
    return new + [replay * size / sum(replay_sizes) for size in replay_sizes]


def evaluation_texts(config: DataConfig, encoder: Encoder, shards: Sequence[TokenShards]) -> list[EncodedText]:
    """Return at most `held_out_bytes` of whole documents of each evaluation source, or held out of each source.

    Raises:
        InputError: no document was held out, or a text to evaluate on is trained on as well.
    """
    if config.eval_sources:
        _refuse_trained(config.sources, config.eval_sources)
        named = {source.label: read_documents(source) for source in config.eval_sources}
    else:
        held_out = [SourceConfig(str(part.directory / HELD_OUT_TEXT_NAME)) for part in shards]
        named = {s.label: read_documents(h) for s, h in zip(config.sources, held_out, strict=True)}
    chosen = {name: choose_documents(documents, config.held_out_bytes) for name, documents in named.items()}
    groups = {source.label: source.group for source in (config.eval_sources or config.sources)}
    texts = [encode_text(name, documents, encoder, groups[name]) for name, documents in chosen.items() if documents]
    missing = ", ".join(name for name, documents in chosen.items() if not documents)
    if missing and texts:
        logger.warning(
            "nothing of %s is evaluated on: none of its documents was held out; raise held_out_fraction (%g), or give "
            "eval_sources",
            *(missing, config.effective_held_out_fraction),
        )
    if not texts:
        raise InputError(
            f"no document was held out for evaluation (held_out_fraction {config.effective_held_out_fraction:g} of "
            f"{sum(part.size.num_documents for part in shards):,} documents); raise held_out_fraction, "
            "give eval_sources, or cut a .txt source into documents with document: paragraph"
        )
    return texts


def _refuse_trained(sources: Sequence[SourceConfig], eval_sources: Sequence[SourceConfig]) -> None:
    trained = {_rows_of(source): source.label for source in sources}
    for source in eval_sources:
        if _rows_of(source) in trained:
            raise InputError(
                f"eval_sources: {source.path} is trained on as well ({trained[_rows_of(source)]}), so its loss would "
                "say nothing; name another text, or remove eval_sources, and documents are held out of the sources"
            )


def _rows_of(source: SourceConfig) -> tuple:
    """Return what tells the rows of one source from those of another."""
    place = source.path if source.is_hub else str(Path(source.path).resolve())
    return place, source.subset, source.split, tuple(sorted(source.where.items()))


def choose_documents(documents: Iterable[str], max_bytes: int) -> list[str]:
    """Choose documents of at most `max_bytes` together (at least one) by `text_rank`, and leave them in their order.

    One pass; keeps no more than the chosen ones in memory. Blank documents are left out.
    """
    heap: list[tuple[float, int, str]] = []  # the worst-ranked chosen document is on top
    total_bytes = 0
    for index, text in enumerate(documents):
        if not text or text.isspace():
            continue
        heapq.heappush(heap, (-text_rank(text), index, text))
        total_bytes += len(text.encode("utf-8"))
        while total_bytes > max_bytes and len(heap) > 1:
            total_bytes -= len(heapq.heappop(heap)[2].encode("utf-8"))
    return [text for _, _, text in sorted(heap, key=lambda entry: entry[1])]


def encode_text(name: str, documents: list[str], encoder: Encoder, group: str | None = None) -> EncodedText:
    """Encode `documents` as they are packed. Raises InputError if there is no text."""
    if not documents:
        raise InputError(f"{name}: the text is empty")
    token_ids = np.concatenate(document_pieces(encoder, documents)).astype(np.int64)
    return EncodedText(name, documents, token_ids, group, encoder.bos_token_id)


def write_documents(texts: Sequence[EncodedText], file: Path) -> None:
    """Write the evaluation texts as `.jsonl`, so that other models can be scored on exactly the same."""
    rows = ({"text": document, "source": text.name} for text in texts for document in text.documents)
    write_jsonl(rows, file)
