"""`jpllm plan`: what a run needs, and whether it fits, before anything is loaded."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields

from jpllm import runtime
from jpllm.commands import plan_rows, plan_texts
from jpllm.commands.planning import Asked, PlanConfig
from jpllm.config.parse import parse
from jpllm.models.presets import PRESETS, ModelConfig
from jpllm.runtime import InputError
from jpllm.training.hardware import HardwareConfig

EXIT_DOES_NOT_FIT = 1
CONFIGURATIONS = {
    "pretraining": plan_texts.CONFIGURATION,
    "sft": plan_rows.INSTRUCT_CONFIGURATION,
    "classify": plan_rows.LABEL_CONFIGURATION,
}
_READERS = {"pretraining": plan_texts.texts, "sft": plan_rows.instructions, "classify": plan_rows.labels}


def plan(argv: Sequence[str]) -> None:
    """Show what a run needs, whether it fits the hardware, and what would make it fit."""
    given = words_by_key(argv)
    recipe = next(iter(given.get("recipe", [])), "pretraining")
    configuration = CONFIGURATIONS.get(recipe, plan_texts.CONFIGURATION)  # of another one parse says what there is
    hardware_config, planned, *keys = parse(
        configuration,
        argv,
        prog="jpllm plan",
        description=f"{plan.__doc__} Takes the configuration of recipes/pretrain_scratch.py or recipes/cpt.py, with "
        "--recipe sft or --recipe classify that of these. There need be no data yet, no tokenizer (with --vocab_size), "
        "and no GPU (with --gpu). Exit code 0: it fits, 1: it does not, 2: bad input.",
    )
    if planned.recipe != recipe:
        raise InputError(f"recipe: is for the command line; write jpllm plan --recipe {planned.recipe}")
    from rich.console import Console

    from jpllm.commands.planning import report_of
    from jpllm.training import hardware

    where = hardware.resolve(hardware_config)
    asked = _READERS[recipe](*keys)
    report = report_of(asked, hardware_config, where)
    console = Console()
    for part in report.parts():
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    runtime.announce(report.launch_command(asked.recipe, keys_of_recipe(given, asked)))
    if not report.fits:
        raise SystemExit(EXIT_DOES_NOT_FIT)


def keys_of_recipe(given: Mapping[str, list[str]], asked: Asked) -> dict[str, str]:
    """What the recipe is to be given too: the keys on the command line, but for those of the plan alone."""
    names = {field.name for cls in (HardwareConfig, PlanConfig) for field in fields(cls)}
    if asked.recipe != "pretrain_scratch":  # a shape stands in for a trained model, which has one
        names |= {field.name for field in fields(ModelConfig)} - {"model", "dropout"}
    words = {"config": ["CONFIG.yaml"], **given}
    if asked.recipe != "pretrain_scratch" and asked.model in PRESETS:
        words["model"] = ["MODEL"]
    return {key: shlex.join(values) for key, values in words.items() if key not in names}


def words_by_key(argv: Sequence[str]) -> dict[str, list[str]]:
    """The words behind each --key of a command line."""
    words: dict[str, list[str]] = {}
    values: list[str] = []  # of no key: an error of the command line
    for word in argv:
        if word.startswith("--"):
            key, _, value = word.removeprefix("--").partition("=")
            words[key] = values = [value] if value else []
        else:
            values.append(word)
    return words
