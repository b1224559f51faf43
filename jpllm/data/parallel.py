"""Spread work over several processes, in order and in bounded memory."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from typing import TypeVar

from jpllm import runtime

Item = TypeVar("Item")
Result = TypeVar("Result")
_ITEMS_AHEAD = 2  # per process


def map_in_order(work: Callable[[Item], Result], items: Iterator[Item], processes: int = 0) -> Iterator[Result]:
    """Yield `work(item)` of each item, in several processes (0 is one per core), reading only a few items ahead."""
    processes = processes or runtime.num_cores()
    head = list(islice(items, 2))
    if processes == 1 or len(head) < 2:  # not worth starting processes
        yield from map(work, chain(head, items))
        return
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _use_one_thread) as pool:
        for item in chain(head, items):
            waiting.append(pool.submit(work, item))
            if len(waiting) > _ITEMS_AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _use_one_thread() -> None:
    """Keep libraries from starting a thread per core in each of the processes that share the cores."""
    os.environ["RAYON_NUM_THREADS"] = "1"
