"""How processes share batches. Two processes on the CPU are launched in tests/recipes/test_evaluate.py."""

import numpy as np
import pytest
import torch

from jpllm import runtime
from jpllm.evaluation import distributed
from jpllm.evaluation.distributed import sum_over_batches
from jpllm.runtime import InputError


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("num_items", [1, 2, 7, 12])
def test_processes_share_the_batches_and_compute_equally_often(num_items, num_ranks):
    """A model that shares its weights waits for ever where one process calls it more often."""
    items = np.arange(1.0, num_items + 1)
    calls = [[] for _ in range(num_ranks)]

    def of(rank):
        def compute(batch):
            calls[rank].append(len(batch))
            return np.array([sum(batch), len(batch)])

        return sum_over_batches(list(items), compute, 2, rank, num_ranks)

    sums = sum(of(rank) for rank in range(num_ranks))
    assert sums.tolist() == [items.sum(), num_items]
    assert len({len(made) for made in calls}) == 1


def test_nothing_to_sum():
    assert sum_over_batches([], lambda batch: 1 / 0, 2) == 0.0


def test_one_process_joins_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed.join()
    assert not torch.distributed.is_initialized()


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(runtime, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="this machine has 1 GPUs; launch that many processes on it"):
        distributed.join()
    assert not torch.distributed.is_initialized()


def test_results_of_all_are_merged(monkeypatch):
    def all_gather_object(parts, own):
        parts[0], parts[1] = {0: "a", 2: "c"}, own

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)
    assert distributed.gathered({1: "b"}) == {0: "a", 1: "b", 2: "c"}
