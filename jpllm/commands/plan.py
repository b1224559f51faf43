"""`jpllm plan`: what a run needs, and whether it fits, before anything is loaded."""

from __future__ import annotations

import copy
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jpllm import runtime, terminal
from jpllm.config.parse import ConfigError, parse
from jpllm.config.settings import option
from jpllm.config.types import keys_of, read_settings
from jpllm.models.presets import PRESETS, ModelConfig
from jpllm.planning.hardware import HardwareConfig
from jpllm.runtime import InputError
from jpllm.training.config import TrainingConfig
from jpllm.training.recipe_configs import RECIPES, PretrainingConfig

if TYPE_CHECKING:
    from jpllm.planning.calibrate import Measured
    from jpllm.planning.hardware import Hardware
    from jpllm.planning.recipes import RecipeRun
    from jpllm.planning.report import Report
    from jpllm.planning.search import Candidate

EXIT_DOES_NOT_FIT = 1


@dataclass
class PlanConfig:
    """What to plan"""

    recipe: Literal["pretrain_scratch", "cpt", "sft", "classify"] | None = option(
        None, "Whose configuration it is; by default that of pretrain_scratch, or of cpt where model is no preset."
    )


@dataclass
class PlannedPretrainingConfig(PretrainingConfig):
    """Recipe"""

    tokenizer: str | None = option(  # ty: ignore[incompatible-attribute-override]  # a plan can do without, a run cannot
        None, "Tokenizer folder, or name on the Hub; before there is one, give vocab_size."
    )


def _shape_config() -> type[Any]:
    """Return a class with the keys of `ModelConfig` that a recipe without them lacks: those of a shape."""
    keys = [(name, key) for name, key in keys_of(ModelConfig).items() if name not in ("model", "dropout")]
    declared = [(name, key.hint, copy.copy(key.field)) for name, key in keys]
    stand_in = dataclasses.make_dataclass("ShapeConfig", declared)
    stand_in.__doc__ = f"Shape that stands in for the model, where that is one of {', '.join(PRESETS)}"
    return stand_in


ShapeConfig = _shape_config()


def classes_of(recipe: str) -> tuple[type, ...]:
    """Return the classes that a plan reads: those of the recipe, and three before them.

    A key of another recipe is refused with the name of that recipe.
    """
    own = tuple(PlannedPretrainingConfig if cls is PretrainingConfig else cls for cls in RECIPES[recipe])
    shape = () if ModelConfig in own else (ShapeConfig,)
    known = {key for cls in (*own, *shape) for key in keys_of(cls)}
    known |= {key for cls in own for key in getattr(cls, "renamed_keys", {})}
    elsewhere = {
        key: f"a key of recipes/{other}.py; give --recipe {other}"
        for other in reversed(RECIPES)
        for cls in RECIPES[other]
        for key in keys_of(cls)
        if key not in known
    }
    plan_config = type("PlanConfig", (PlanConfig,), {"renamed_keys": elsewhere, "__doc__": PlanConfig.__doc__})
    return (HardwareConfig, plan_config, *shape, *own)


def plan(argv: Sequence[str]) -> None:
    """Show what a run needs, whether it fits the hardware, and what would make it fit."""
    given = words_by_key(argv)
    recipe = recipe_of(given)
    hardware_config, planned, *configuration = parse(
        classes_of(recipe),
        argv,
        prog="jpllm plan",
        description=f"{plan.__doc__} Takes the configuration of a recipe. There need be no data yet, no tokenizer "
        "(with --vocab_size), no trained model (with --model SHAPE), and no GPU (with --gpu). Exit code 0: it fits, 1: "
        "it does not, 2: bad input.",
    )
    if planned.recipe not in (None, recipe):
        raise InputError(f"recipe: is for the command line; write jpllm plan --recipe {planned.recipe}")
    from jpllm.planning import hardware
    from jpllm.planning.recipes import run_of

    training = next(part for part in configuration if isinstance(part, TrainingConfig))
    where = hardware.resolve(hardware.for_machine(hardware_config, training.machine))
    report = report_of(run_of(recipe, *_with_shape(configuration), where), hardware_config, where)
    console = terminal.console()
    for part in report.parts():
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    runtime.announce(report.launch_command(recipe, keys_of_recipe(given, recipe, report.model)))
    if not report.fits:
        raise SystemExit(EXIT_DOES_NOT_FIT)


def recipe_of(given: Mapping[str, list[str]]) -> str:
    """Return the recipe whose configuration is given: the one that is named, or what the model is for."""
    named = next(iter(given.get("recipe", [])), None)
    if named is not None:
        return named if named in RECIPES else "pretrain_scratch"  # of another one parse says what there is
    model = next(iter(given.get("model", [])), None)
    if model is None and given.get("config"):
        try:
            keys = read_settings(Path(given["config"][0]))
        except (OSError, ValueError):  # parse says what is wrong
            keys = None
        model = keys.get("model") if isinstance(keys, dict) else None
    return "pretrain_scratch" if model is None or model in PRESETS else "cpt"


def _with_shape(configuration: Sequence[Any]) -> tuple[Sequence[Any], ModelConfig]:
    """Return the instances of the recipe's classes, and the shape of its model or of what stands in for it.

    Raises:
        ConfigError: the shape cannot be built, or is given beside a trained model.
    """
    shapes = [part for part in configuration if isinstance(part, ModelConfig)]
    if shapes:
        return configuration, shapes[0]
    shape, *of_recipe = configuration
    keys, (recipe, *_) = vars(shape), of_recipe
    if recipe.model not in PRESETS:
        given = [name for name, value in keys.items() if value is not None and name != "vocab_size"]
        if given:
            raise ConfigError(
                [f"{name}: {recipe.model} is no preset and has its own shape; remove it" for name in given]
            )
    shape = ModelConfig(model=recipe.model, dropout=getattr(recipe, "dropout", None) or 0.0, **keys)
    if recipe.model in PRESETS and (problems := [f"{key}: {message}" for key, message in shape.check()]):
        raise ConfigError(problems)
    return of_recipe, shape


def report_of(run: RecipeRun, config: HardwareConfig, where: Hardware) -> Report:
    """Return the plan of a run on this hardware, with other setups where it does not fit as it is."""
    from jpllm.planning import budget
    from jpllm.planning.report import Report
    from jpllm.planning.search import Search

    planned = run.planned
    search = Search(planned.model, planned.size(), where, config.engine)
    asked = planned.setup(where, search.engines[0])
    best = search.best(asked)
    others = search.alternatives(asked) if best.setup != asked or not best.fits(where) else []
    spends = run.budget(best.setup)
    disk = budget.disk_needs(planned.training, run.shards_dir, spends, search.size, best.setup)
    return Report(
        model=run.model,
        architecture=planned.model.model_type,
        size=search.size,
        where=where,
        best=best,
        others=[other for other in others if other.setup != best.setup],
        spends=spends,
        disk=disk,
        disk_shortages=budget.disk_shortages(disk) if where.is_here else [],
        mfu=config.mfu,
        measured=measure(where, best, run) if config.calibrate else None,
    )


def measure(where: Hardware, best: Candidate, run: RecipeRun) -> Measured:
    """Return what five real steps take. Raises InputError where they would not be those of the plan."""
    from jpllm.planning import calibrate

    if not where.is_here:
        raise InputError(f"calibrate: runs on this machine, and the plan is for {where.name}; remove one of both")
    if best.setup.engine != "single":
        raise InputError(
            f"calibrate: runs one process without DeepSpeed, and the plan is for {best.setup.engine}; give --engine "
            "single, or launch the recipe for a few steps"
        )
    return calibrate.measure(run.planned.model, run.planned.training, best.setup)


def keys_of_recipe(given: Mapping[str, list[str]], recipe: str, model: str) -> dict[str, str]:
    """Return what the recipe is to be given too: the keys on the command line, but for those of the plan alone."""
    names = {field.name for cls in (HardwareConfig, PlanConfig) for field in fields(cls)}
    if recipe != "pretrain_scratch":  # a shape stands in for a trained model, which has one
        names |= {field.name for field in fields(ShapeConfig)}
    words = {"config": ["CONFIG.yaml"], **given}
    if recipe != "pretrain_scratch" and model in PRESETS:
        words["model"] = ["MODEL"]
    return {key: shlex.join(values) for key, values in words.items() if key not in names}


def words_by_key(argv: Sequence[str]) -> dict[str, list[str]]:
    """Return the words behind each --key of a command line."""
    words: dict[str, list[str]] = {}
    values: list[str] = []  # of no key: an error of the command line
    for word in argv:
        if word.startswith("--"):
            key, _, value = word.removeprefix("--").partition("=")
            words[key] = values = [value] if value else []
        else:
            values.append(word)
    return words
