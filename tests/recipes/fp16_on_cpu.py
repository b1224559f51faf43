"""Run a recipe in fp16 below DeepSpeed on any CPU: `fp16_on_cpu.py RECIPE ARGUMENTS…`.

DeepSpeed allows it where oneDNN has fast instructions for it. Elsewhere PyTorch computes the same slowly; here
DeepSpeed is told that it may.
"""

import runpy
import sys

from deepspeed.accelerator import get_accelerator

type(get_accelerator()).is_fp16_supported = lambda self: True
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
