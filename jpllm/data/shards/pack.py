"""Pack a source into token shards once: find them by fingerprint, go on after a crash, share the work by parts."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from jpllm import runtime, whole_files
from jpllm.config.settings import REQUIRED, option
from jpllm.data.clean.pipeline import BLANK
from jpllm.data.documents import TextBatch, cleaned_batches
from jpllm.data.read.formats import ReadProgress
from jpllm.data.read.quarantine import Quarantine
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards import token_shards
from jpllm.data.shards.fingerprints import bos_facts, file_states, refuse_changed, remembered_hash, shards_facts
from jpllm.runtime import InputError

DEFAULT_HELD_OUT_FRACTION = 0.01
_PART_NAME = "part.json"  # in the folder of a finished part
_STATES_NAME = "source-states.txt"  # in a folder that is being built
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Part `number` (from 1) of `total`: every total-th batch of rows, which one of several machines packs."""

    number: int
    total: int


@dataclass
class PackConfig:
    """Packing"""

    sources: list[SourceConfig] = option(REQUIRED, "Texts to encode: paths, or entries with the keys below.")
    tokenizer: str = option(REQUIRED, "Tokenizer folder, or name on the Hugging Face Hub.")
    output_dir: Path = option(Path("runs/shards"), "Folder of the token shards; give it to a recipe as shards_dir.")
    held_out_fraction: float = option(
        DEFAULT_HELD_OUT_FRACTION,
        "Share of the documents kept out of training; the same as in the recipe.",
        minimum=0,
        maximum=0.5,
    )
    processes: int = option(
        0, "Processes that clean texts; 0 is one per core. The result does not depend on it.", minimum=0
    )
    verify_shards: bool = option(
        True, "Compare shards that are there with their checksums, and build those anew that are damaged."
    )
    part: str | None = option(None, "Build one part only, such as 3/16; the last step, without part, joins them.")

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield the problem of a `part` that is not one of several."""
        if self.part is not None:
            found = re.fullmatch(r"(\d+)/(\d+)", self.part)
            if not found or not 1 <= int(found[1]) <= int(found[2]):
                yield "part", f"{self.part!r} is no part such as 3/16"

    @property
    def chosen_part(self) -> Part | None:
        """The numbers that `part` spells, or None for the whole source."""
        return None if self.part is None else Part(*map(int, self.part.split("/")))


class Encoder(Protocol):
    """What packing needs of a tokenizer (`jpllm.tokenizer.encoder.CorpusEncoder`).

    Attributes:
        encode: texts → one array of ids each, without special tokens.
        eos_token_id: written once after each document.
        bos_token_id: written before each document, unless it is the EOS, which stands there already; None without one.
        vocab_size: ids are below it.
        fingerprint: changes whenever an id would.
    """

    @property
    def encode(self) -> Callable[[list[str]], list[np.ndarray]]: ...

    @property
    def eos_token_id(self) -> int: ...

    @property
    def bos_token_id(self) -> int | None: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...


def document_pieces(encoder: Encoder, texts: list[str]) -> list[np.ndarray]:
    """Return the ids of documents in pieces to be joined: of each document the BOS, where it has one, ids and EOS.

    A BOS that is the EOS is not written: the end of the document before it stands there.
    """
    bos = token_shards.own_bos(encoder.bos_token_id, encoder.eos_token_id)
    begins = [] if bos is None else [np.array([bos])]
    end = np.array([encoder.eos_token_id])
    return [piece for ids in encoder.encode(texts) for piece in (*begins, ids, end)]


def pack(
    source: SourceConfig,
    encoder: Encoder,
    shards_dir: str | Path,
    held_out_fraction: float = DEFAULT_HELD_OUT_FRACTION,
    processes: int = 0,
    part: Part | None = None,
    verify: bool = False,
) -> Path:
    """Return the finished shard folder of `source` below `shards_dir`, or that of a part; build it if it is not there.

    A folder without a readable `meta.json` counts as not there, and with `verify` so does one with damaged files.

    Which documents are held out depends on their text alone, so copies of one document land on the same side, and
    the choice does not change when the corpus grows. Several processes may call this at the same time: one builds,
    the others wait for it. A build that was killed goes on where it stopped; one that failed for bad input leaves
    nothing but `LABEL.quarantine.jsonl`. Where all parts are built they are joined. The bytes are the same every way.

    Raises:
        InputError: unreadable or empty source, one that changes while it is read, too many bad rows, or parts that are
            not all there.
    """
    import filelock

    shards_dir = Path(shards_dir)
    shards_dir.mkdir(parents=True, exist_ok=True)
    lock_name = source.label if part is None else f"{source.label}.part-{part.number}-of-{part.total}"
    # The lock is the operating system's: it goes with the process that held it, however that ended.
    with filelock.FileLock(shards_dir / f".{lock_name}.lock"):
        states = file_states(source)
        facts = shards_facts(source, encoder.fingerprint, held_out_fraction)
        facts |= {"content": remembered_hash(source, shards_dir, states), "eos_token_id": encoder.eos_token_id}
        facts |= bos_facts(encoder.bos_token_id)
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        directory = shards_dir / f"{source.label}-{digest[:12]}"
        if _is_usable(directory, verify):
            logger.info("token shards of %s found in %s", source.label, directory)
            return directory
        job = _Job(source, encoder, held_out_fraction, facts, states, processes)
        if part is not None:
            part_directory = _part_dir(directory, part)
            if not (part_directory / _PART_NAME).exists():
                job.build(part_directory, part)
                whole_files.write_whole(part_directory / _PART_NAME, json.dumps(asdict(part)))
            return part_directory
        partial = directory.with_name(directory.name + ".partial")
        parts = _finished_parts(directory)
        size = _join_parts(parts, partial, job.dtype) if parts else job.build(partial)
        job.finish(partial, size)
        _replace(partial, directory)
        for finished in parts:
            shutil.rmtree(finished)
    return directory


def _is_usable(directory: Path, verify: bool) -> bool:
    """Return whether finished shards are there; a warning says why those that are there are built again."""
    if not directory.exists():
        return False
    try:
        problem = token_shards.damage(directory) if verify else token_shards.read_meta(directory) and ""
    except InputError as error:
        problem = str(error)
    if problem:
        logger.warning("%s; that is done now", problem)
    return not problem


def _replace(partial: Path, directory: Path) -> None:
    """Give a finished folder its name; a damaged one that has it goes when the new one is there."""
    damaged = directory.with_name(directory.name + ".damaged")
    shutil.rmtree(damaged, ignore_errors=True)
    if directory.exists():
        directory.rename(damaged)
    partial.rename(directory)
    whole_files.sync(directory.parent)
    shutil.rmtree(damaged, ignore_errors=True)


def text_rank(text: str) -> float:
    """Return a number in [0, 1) that depends on the text alone and is spread evenly over texts."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=6).digest(), "little") / 2.0**48


def is_held_out(text: str, fraction: float) -> bool:
    """Return True for a `fraction` of all texts, decided by `text_rank`."""
    return fraction > 0 and text_rank(text) < fraction


@dataclass(frozen=True)
class _Job:
    """One source on its way into shards."""

    source: SourceConfig
    encoder: Encoder
    held_out_fraction: float
    facts: dict
    states: str
    processes: int

    @property
    def dtype(self) -> np.dtype:
        return token_shards.token_dtype(self.encoder.vocab_size)

    def build(self, directory: Path, part: Part | None = None) -> token_shards.ShardsSize:
        """Write the batches of the part that `directory` does not hold yet; it is removed when the input is bad."""
        try:
            return self._build(directory, part or Part(1, 1))
        except InputError:
            quarantine = directory / token_shards.QUARANTINE_NAME
            if quarantine.exists() and quarantine.stat().st_size:
                quarantine.replace(directory.parent / f"{self.source.label}.{token_shards.QUARANTINE_NAME}")
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def _build(self, directory: Path, part: Part) -> token_shards.ShardsSize:
        progress = ReadProgress()
        quarantine = Quarantine(self.source.label, self.source.max_bad_fraction)
        if _begun_with(directory) not in (None, self.states):
            shutil.rmtree(directory)  # the source was written to since, and may have been while this was packed
        directory.mkdir(parents=True, exist_ok=True)
        whole_files.write_whole(directory / _STATES_NAME, self.states)
        writer = token_shards.ShardWriter(directory, self.dtype)
        first_number = part.number - 1 + writer.num_batches * part.total
        if writer.num_batches:
            logger.info("%s: going on after %d batches", directory, writer.num_batches)
        try:
            batches = cleaned_batches(self.source, first_number, part.total, progress, quarantine, self.processes)
            with runtime.progress_bar(f"pack {self.source.label}", "documents", "tokens") as update:
                for encoded in _one_ahead(self._encode, batches):
                    writer.append(encoded)
                    counts = {"documents": encoded.size.num_documents, "tokens": encoded.size.num_tokens}
                    update(progress.bytes_read, progress.total_bytes, **counts)
            quarantine.conclude()
            refuse_changed(self.source, self.states)
        finally:
            writer.close()
        return writer.size

    def _encode(self, batch: TextBatch) -> token_shards.Batch:
        """Divide the documents of a batch into training and held-out ones, and encode the former."""
        size = token_shards.ShardsSize(
            num_rows=len(batch.documents) + len(batch.bad_rows),
            num_duplicate_documents=batch.num_duplicates,
            num_bad_rows=len(batch.bad_rows),
        )
        training: list[str] = []
        held_out: list[str] = []
        dropped: Counter[str] = Counter()
        for document in batch.documents:
            if document.text is not None:
                (held_out if is_held_out(document.text, self.held_out_fraction) else training).append(document.text)
            elif document.dropped_by is not None:
                dropped[document.dropped_by] += 1
        size.num_blank_documents = dropped.pop(BLANK, 0)
        size.dropped = dict(dropped)
        size.num_held_out_documents = len(held_out)
        size.num_documents = len(training)
        size.num_characters = sum(map(len, training))
        size.num_bytes = len("".join(training).encode("utf-8"))
        token_ids = document_pieces(self.encoder, training) if training else []
        size.num_tokens = sum(map(len, token_ids))
        bad_rows = [asdict(row) for row in batch.bad_rows]
        return token_shards.Batch(batch.number, size, token_ids, held_out, bad_rows)

    def finish(self, directory: Path, size: token_shards.ShardsSize) -> None:
        """Write the facts that make the folder a finished one."""
        if size.num_documents + size.num_held_out_documents == 0:
            shutil.rmtree(directory)
            raise InputError(
                f"{self.source.path}: the source holds no text ({size.num_blank_documents} blank documents"
                f"{''.join(f', {count} dropped by {rule}' for rule, count in size.dropped.items())})"
            )
        with (directory / token_shards.QUARANTINE_NAME).open(encoding="utf-8") as stream:
            reasons = Counter(json.loads(line)["reason"] for line in stream)
        token_shards.write_meta(
            directory,
            size,
            bad_rows=dict(sorted(reasons.items())),
            dtype=self.dtype.str,
            vocab_size=self.encoder.vocab_size,
            source={"path": self.source.path, "label": self.source.label, "licence": self.source.licence},
            identity=self.facts,
        )
        (directory / _STATES_NAME).unlink(missing_ok=True)


def _begun_with(directory: Path) -> str | None:
    """Return the states of the files that a folder was begun to be packed from, and None for a new one."""
    file = directory / _STATES_NAME
    return file.read_text(encoding="utf-8") if file.exists() else "" if directory.exists() else None


def _one_ahead(
    work: Callable[[TextBatch], token_shards.Batch], batches: Iterable[TextBatch]
) -> Iterator[token_shards.Batch]:
    """Yield `work(batch)` of each batch, which a thread computes while the next batch is read."""
    with ThreadPoolExecutor(1) as pool:
        working: Future[token_shards.Batch] | None = None
        for batch in batches:
            finished, working = working, pool.submit(work, batch)
            if finished:
                yield finished.result()
        if working:
            yield working.result()


def _part_dir(directory: Path, part: Part) -> Path:
    """Return the folder in which a part of the shards of `directory` is built."""
    return directory.with_name(f"{directory.name}.part-{part.number}-of-{part.total}")


def _finished_parts(directory: Path) -> list[Path]:
    """Return the folders of all parts of `directory` in order, or none where no part was begun.

    Raises:
        InputError: some parts are missing or unfinished.
    """
    begun = list(directory.parent.glob(f"{directory.name}.part-*-of-*"))
    if not begun:
        return []
    totals = {int(path.name.rsplit("-", 1)[1]) for path in begun}
    for total in totals:
        parts = [_part_dir(directory, Part(number, total)) for number in range(1, total + 1)]
        if all((part / _PART_NAME).exists() for part in parts):
            return parts
    lacking = [f"{n}/{total}" for total in sorted(totals) for n in range(1, total + 1)
               if not (_part_dir(directory, Part(n, total)) / _PART_NAME).exists()]  # fmt: skip
    raise InputError(
        f"{directory}: parts {', '.join(lacking[:8])} are missing or unfinished; build them with --part, or delete "
        f"{directory.name}.part-* to pack in one go"
    )


def _join_parts(parts: Sequence[Path], directory: Path, dtype: np.dtype) -> token_shards.ShardsSize:
    """Write the batches of all parts into `directory`, in the order of a build in one go, and return the counts."""
    shutil.rmtree(directory, ignore_errors=True)
    writer = token_shards.ShardWriter(directory, dtype)
    streams = [token_shards.batches_of(part) for part in parts]
    while batch := next(streams[writer.num_batches % len(streams)], None):
        writer.append_bytes(*batch)
    writer.close()
    return writer.size
