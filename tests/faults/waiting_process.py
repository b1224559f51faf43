"""A recipe that waits in C++ for a process that never comes; launched by `test_signals.py`."""

from datetime import timedelta

import torch

from jpllm import runtime


def main() -> None:
    print("waiting", flush=True)
    torch.distributed.TCPStore("127.0.0.1", 1, world_size=2, is_master=False, timeout=timedelta(minutes=30))


if __name__ == "__main__":
    runtime.run_recipe(main)
