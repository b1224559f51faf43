"""Run a recipe whose second process cannot use its input: `failing_process.py RECIPE ARGUMENTS…`."""

import os
import runpy
import sys

from jpllm.evaluation import perplexity
from jpllm.runtime import InputError


def refuse(*_, **__):
    raise InputError("text.txt: this process cannot read it")


if os.environ["RANK"] == "1":
    perplexity.score = refuse
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
