"""`jpllm compare`: show runs beside each other, as a page, as Markdown or in the terminal."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jpllm import runtime, terminal, whole_files
from jpllm.commands.card import weights_of
from jpllm.config.parse import ConfigError, parse
from jpllm.config.settings import option
from jpllm.evaluation.generate import SamplingConfig
from jpllm.models.adapters import LoadingConfig, tokenizer_source
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from jpllm.evaluation.comparison import ModelAnswers
    from jpllm.tracking.compare.comparison import Comparison
    from jpllm.tracking.compare.samples import Prompt
    from jpllm.tracking.runs import Run

SUFFIXES = (".html", ".md")
logger = logging.getLogger(__name__)


@dataclass
class CompareConfig:
    """Comparison"""

    runs: list[str] = option(
        default_factory=list, help="Run folders; model folders too, and with prompts names on the Hub."
    )
    leaderboard: list[Path] = option(
        default_factory=list, help="Instead of runs: result folders of recipes/evaluate.py, for a table of scores."
    )
    output: Path | None = option(
        None, "File for the report: .html with curves, .md for a README; by default a table is printed."
    )
    prompts: list[str] = option(
        default_factory=list, help="Let all models answer these now, and show the answers beside each other."
    )
    template: Literal["auto", "none"] = option(
        "auto",
        "auto: a model whose tokenizer has a chat template gets prompts through it; none: all continue texts.",
    )
    seed: int = option(0, "The same seed gives the same answers.", minimum=0)
    wandb: str | None = option(
        None, "ENTITY/PROJECT: also save a report at Weights & Biases, of the runs that were mirrored there."
    )
    wandb_dry_run: Path | None = option(None, "File for the JSON of that report, which is then not sent.")

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield problems: nothing to compare, a run named twice, or settings that would have no effect."""
        if bool(self.runs) == bool(self.leaderboard):
            yield "runs", "name run folders, or result folders behind --leaderboard, not both"
        if self.leaderboard and self.prompts:
            yield "prompts", "the models of runs are asked; a leaderboard has scores alone"
        if self.wandb_dry_run and not self.wandb:
            yield "wandb_dry_run", "give wandb too: ENTITY/PROJECT"
        if self.wandb and self.leaderboard:
            yield "wandb", "compares runs; remove leaderboard"
        paths = [Path(name).resolve() for name in self.runs]
        if again := [name for index, name in enumerate(self.runs) if paths[index] in paths[:index]]:
            yield "runs", f"{again[0]} is named twice; remove one"
        if self.output and self.output.suffix not in SUFFIXES:
            yield "output", f"write a file name that ends with {' or '.join(SUFFIXES)}, not {self.output}"


def compare(argv: Sequence[str]) -> None:
    """Compare runs: a page with curves and samples, Markdown, or a table."""
    settings, loading, sampling = parse(
        [CompareConfig, LoadingConfig, SamplingConfig],
        argv,
        prog="jpllm compare",
        description=f"{compare.__doc__} Example: jpllm compare runs/a runs/b --output report.html",
        positional="runs",
    )
    refuse_what_cannot_act(settings, sampling, loading)
    if settings.leaderboard:
        return show_leaderboard(settings.leaderboard, settings.output)
    from jpllm.tracking import runs as run_folders
    from jpllm.tracking.compare import comparison

    runs, refused = run_folders.read_all(settings.runs, hub_names=bool(settings.prompts))
    if not runs:
        raise InputError("runs: none can be compared\n" + "\n".join(f"{one.name}: {one.reason}" for one in refused))
    for one in refused:
        logger.warning("%s: not compared: %s", one.name, one.reason)
    refuse_what_cannot_be_written(runs, settings)
    keep_own(runs)
    asked = ask(runs, settings, sampling, loading) if settings.prompts else []
    note = described(settings, sampling) if settings.prompts else ""
    show(comparison.compare(runs, refused, asked, note), settings.output)
    if settings.wandb:
        report_to_wandb(runs, settings.wandb, settings.wandb_dry_run)


def report_to_wandb(runs: Sequence[Run], target: str, dry_run: Path | None) -> None:
    """Save the report at Weights & Biases, or write its JSON."""
    from jpllm.tracking.wandb import report

    if dry_run:
        dry_run.parent.mkdir(parents=True, exist_ok=True)
        report.write(runs, target, dry_run)
        runtime.announce(f"report for {target}: {dry_run}")
    else:
        runtime.announce(report.save(runs, target))


def show(found: Comparison, output: Path | None) -> None:
    """Write the report, or print its summary."""
    from jpllm.tracking.compare.comparison import to_markdown, to_terminal
    from jpllm.tracking.compare.page import to_html

    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        whole_files.write_whole(output, to_html(found) if output.suffix == ".html" else to_markdown(found))
        runtime.announce(f"{output}: {found.title}, {output.stat().st_size / 1e6:.1f} MB")
        return
    terminal.console().print(to_terminal(found))
    for run in found.runs:
        for remark in run.remarks:
            runtime.announce(f"{run.name}: {remark}")


def show_leaderboard(folders: Sequence[Path], output: Path | None) -> None:
    """Write the table of all results, or print it."""
    from jpllm.evaluation import leaderboard

    tables = leaderboard.tables(folders)
    if output:
        leaderboard.write(output, tables)
        return runtime.announce(str(output))
    for table in leaderboard.terminal(tables):
        terminal.console().print(table)


def refuse_what_cannot_act(settings: CompareConfig, sampling: SamplingConfig, loading: LoadingConfig) -> None:
    """Raise ConfigError for settings of answers where none are asked for."""
    if settings.prompts:
        return
    names: list[tuple[str, object, object]] = [("seed", settings, 0), ("template", settings, "auto")]
    names += [(field.name, of, field.default) for of in (sampling, loading) for field in fields(of)]
    changed = [name for name, of, default in names if getattr(of, name) != default]
    if changed:
        raise ConfigError(f"--{name}: acts with prompts only; give them, or remove it" for name in changed)


def refuse_what_cannot_be_written(runs: Sequence[Run], settings: CompareConfig) -> None:
    """Raise InputError, before models answer for hours, for files and a report that could not be written then."""
    for name in ("output", "wandb_dry_run"):
        file: Path | None = getattr(settings, name)
        if file is None:
            continue
        folder = next(parent for parent in file.absolute().parents if parent.exists())
        if file.is_dir() or not (folder.is_dir() and os.access(folder, os.W_OK)):
            reason = "a folder" if file.is_dir() else f"{folder} is no folder that can be written to"
            raise InputError(f"{name}: {file} cannot be written: {reason}; name another file")
    if settings.wandb:
        from jpllm.tracking.wandb import report

        report.report(runs, *report.entity_and_project(settings.wandb))


def keep_own(runs: Sequence[Run]) -> None:
    """Leave out evaluations of other weights than those of the run's model, with a remark."""
    evaluated = [run for run in runs if run.evaluations]
    if not evaluated:
        return
    with runtime.progress_bar("checking whose evaluations these are", "runs") as update:
        for done, run in enumerate(evaluated, start=1):
            _keep_own(run)
            update(done, len(evaluated), runs=1)


def _keep_own(run: Run) -> None:
    known, num_all = {str(found.get("weights_sha256")) for found in run.evaluations}, len(run.evaluations)
    own = _weights_of(run)
    if own is None and len(known) == 1:
        run.remarks.append("its evaluations may be of other weights: it has no model that they can be compared with")
        return
    run.evaluations = [found for found in run.evaluations if found.get("weights_sha256") == own is not None]
    if num_left_out := num_all - len(run.evaluations):
        reason = "of other weights" if own else "of different weights, and no model tells which are its own"
        run.remarks.append(f"{num_left_out} of {num_all} evaluations are left out: {reason}")


def _weights_of(run: Run) -> str | None:
    """Return the fingerprint of the run's model; None where it has none that can be loaded."""
    try:
        return weights_of(Path(run.model)) if run.model else None
    except (InputError, OSError, ValueError, RuntimeError, MemoryError):  # the others still compare
        return None


def ask(runs: Sequence[Run], settings: CompareConfig, sampling: SamplingConfig, loading: LoadingConfig) -> list[Prompt]:
    """Return the answers of all models; one that cannot answer gets a remark instead.

    Raises:
        InputError: none can.
    """
    from jpllm.tracking.compare.samples import Prompt, Sample

    runtime.use_all_cores()
    columns = [_answers(run, settings, sampling, loading) for run in runs]
    if not any(columns):
        raise InputError("prompts: no model can answer\n" + "\n".join(f"{run.name}: {run.remarks[-1]}" for run in runs))
    found = []
    for index, prompt in enumerate(settings.prompts):
        replies = [column.answers[index] if column else None for column in columns]
        texts = [[Sample(reply.text, ended=reply.ended)] if reply else [] for reply in replies]
        found.append(Prompt(prompt, texts))
    return found


def described(settings: CompareConfig, sampling: SamplingConfig) -> str:
    """Return how the prompts were asked, in words."""
    keys = {"seed": settings.seed, "template": settings.template, **asdict(sampling)}
    return ", ".join(f"{key} {value}" for key, value in keys.items())


def _answers(
    run: Run, settings: CompareConfig, sampling: SamplingConfig, loading: LoadingConfig
) -> ModelAnswers | None:
    from jpllm.evaluation import comparison
    from jpllm.tokenizer.load import load
    from jpllm.tracking.runs import count_parameters, shareable

    try:
        if run.model is None:
            raise InputError("no model yet")
        tokenizer = load(tokenizer_source(run.model, loading.base_of(run.model)))
        uses_template = settings.template == "auto" and bool(tokenizer.chat_template)
        logger.info("%s answers", run.name)
        asked = (settings.prompts, sampling, settings.seed, "eos", None, loading)
        found = comparison.ask(run.model, tokenizer, uses_template, *asked)
        if run.state == "model" and run.num_parameters is None:
            count_parameters(run)
        return found
    except InputError as error:
        reason = str(error).removeprefix(f"{run.model}: ").replace(run.model or run.name, run.name)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = "memory ran out"
    run.remarks.append(shareable(f"answers nothing: {reason}"))
    _free_memory()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of a GPU or of the host ran out."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _free_memory() -> None:
    """Free the memory of a model that failed, for the next one."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
