"""Run a recipe with FSDP on CPU processes, which accelerate does not offer: it would run DDP without a word.

accelerate is told that these processes have GPUs, and where they really are: `fsdp_on_cpu.py RECIPE ARGUMENTS…`.
"""

import os
import runpy
import sys

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from jpllm.training import engine

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
torch.distributed.init_process_group("gloo")
PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
engine.device = lambda: torch.device("cuda")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
