"""Two processes on the CPU are launched in tests/recipes/test_evaluate.py."""

import pytest
import torch

from jpllm import runtime
from jpllm.evaluation import processes
from jpllm.runtime import InputError


def test_one_process_joins_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes.join()
    assert not torch.distributed.is_initialized()


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(runtime, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="this machine has 1 GPUs; launch that many processes on it"):
        processes.join()
    assert not torch.distributed.is_initialized()


def test_results_of_all_are_merged(monkeypatch):
    def all_gather_object(parts, own):
        parts[0], parts[1] = {0: "a", 2: "c"}, own

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)
    assert processes.gathered({1: "b"}) == {0: "a", 1: "b", 2: "c"}
