"""Parts of the shards of one source, built by several machines and joined to the same bytes as a single build."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jpllm.data.shards import token_shards
from jpllm.runtime import InputError

DONE_NAME = "part.json"


@dataclass(frozen=True)
class Part:
    """Part `number` (from 1) of `total`: every total-th batch of rows."""

    number: int
    total: int


def part_dir(directory: Path, part: Part) -> Path:
    """Where a part of the shards that will be in `directory` is built."""
    return directory.with_name(f"{directory.name}.part-{part.number}-of-{part.total}")


def finished_parts(directory: Path) -> list[Path]:
    """The folders of all parts in order, or none where no part was begun.

    Raises:
        InputError: some parts are missing or unfinished.
    """
    begun = list(directory.parent.glob(f"{directory.name}.part-*-of-*"))
    if not begun:
        return []
    totals = {int(path.name.rsplit("-", 1)[1]) for path in begun}
    for total in totals:
        parts = [part_dir(directory, Part(number, total)) for number in range(1, total + 1)]
        if all((part / DONE_NAME).exists() for part in parts):
            return parts
    lacking = [f"{n}/{total}" for total in sorted(totals) for n in range(1, total + 1)
               if not (part_dir(directory, Part(n, total)) / DONE_NAME).exists()]  # fmt: skip
    raise InputError(
        f"{directory}: parts {', '.join(lacking[:8])} are missing or unfinished; build them with --part, or delete "
        f"{directory.name}.part-* to pack in one go"
    )


def join(parts: Sequence[Path], directory: Path, dtype: np.dtype) -> token_shards.ShardsSize:
    """Write the batches of all parts in their order."""
    shutil.rmtree(directory, ignore_errors=True)
    writer = token_shards.ShardWriter(directory, dtype)
    streams = [token_shards.batches_of(part) for part in parts]
    while batch := next(streams[writer.num_batches % len(streams)], None):
        writer.append_bytes(*batch)
    writer.close()
    return writer.size
