"""`jpllm generate`: the same prompts answered by one model, or by several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jpllm import runtime, terminal
from jpllm.config.parse import parse
from jpllm.config.settings import REQUIRED, option
from jpllm.data.read.formats import ReadProgress, read_rows
from jpllm.data.read.quarantine import BadRow
from jpllm.data.read.sources import SourceConfig
from jpllm.evaluation import comparison
from jpllm.evaluation.generate import SamplingConfig, Stop
from jpllm.models.adapters import LoadingConfig, is_adapter, tokenizer_source
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from jpllm.evaluation.comparison import ModelAnswers


@dataclass
class GenerateConfig:
    """Generation"""

    model: list[str] = option(
        REQUIRED, "Model folders, or names on the Hugging Face Hub; several answer one after the other, side by side."
    )
    prompt: list[str] = option(default_factory=list, help="Texts to continue; questions, for a model with a template.")
    prompt_file: Path | None = option(None, "More prompts: a .txt file with one a line, or .jsonl with the key prompt.")
    template: Literal["auto", "none"] = option(
        "auto",
        "auto: a model whose tokenizer has a chat template gets prompts through it; none: all continue texts.",
    )
    stop: Stop = option("eos", "eos: an answer ends where the model ends it; sentence: also behind the first 。.")
    seed: int = option(0, "The same seed gives the same text.", minimum=0)
    context_length: int | None = option(
        None,
        "Tokens of a prompt and its answer together, up to the model's positions; by default the length that it was "
        "trained on.",
        minimum=2,
    )
    stream: bool = option(False, "Print the text as it is written, of one model.")
    output: Path | None = option(None, "File for the answers: .json with all that is known, .md as a table.")

    def check(self) -> Iterator[tuple[str, str]]:
        """Refuse settings that leave nothing to do, or that would be ignored."""
        if not self.model:
            yield "model", "name at least one"
        if len(set(self.model)) < len(self.model):
            yield "model", "the same model twice gives the same answers; remove one"
        if not (self.prompt or self.prompt_file):
            yield "prompt", "give at least one, or a prompt_file"
        if self.stream and len(self.model) > 1:
            yield "stream", "shows one model; several are shown side by side when all have answered"
        if self.output and self.output.suffix not in comparison.SUFFIXES:
            yield "output", f"write a file name that ends with {' or '.join(comparison.SUFFIXES)}, not {self.output}"


def generate(argv: Sequence[str]) -> None:
    """Answer prompts with trained models, side by side where there are several."""
    settings, loading, sampling = parse(
        [GenerateConfig, LoadingConfig, SamplingConfig], argv, prog="jpllm generate", description=generate.__doc__
    )
    from jpllm.tokenizer.load import load

    runtime.use_all_cores()
    prompts = [*settings.prompt, *(_prompts_of(settings.prompt_file) if settings.prompt_file else [])]
    if loading.base_model and not any(map(is_adapter, settings.model)):
        raise InputError("base_model: acts on folders with an adapter only, and model names none; remove it")
    sources = [tokenizer_source(name, loading.base_of(name)) for name in settings.model]
    tokenizers = [load(source) for source in sources]  # a name that does not exist is found before hours of work
    columns = []
    for name, tokenizer in zip(settings.model, tokenizers, strict=True):
        uses_template = settings.template == "auto" and bool(tokenizer.chat_template)
        on_text = _print_piece if settings.stream else None
        given = (settings.seed, settings.stop, on_text, loading, settings.context_length)
        columns.append(comparison.ask(name, tokenizer, uses_template, prompts, sampling, *given))
    if len(columns) > 1:
        _print_table(prompts, columns)
    elif not settings.stream:
        for prompt, reply in zip(prompts, columns[0].answers, strict=True):
            runtime.announce(f"{comparison.transcript(prompt, reply)}\n")
    if settings.output:
        facts = {"seed": settings.seed, "stop": settings.stop, **asdict(sampling), "versions": runtime.versions()}
        if settings.context_length:
            facts["context_length"] = settings.context_length
        comparison.write(settings.output, prompts, columns, facts)


def _prompts_of(file: Path) -> Iterator[str]:
    """Yield the prompts of a file; empty lines of a text file are skipped.

    Raises:
        InputError: a row has no prompt, or the whole file has none.
    """
    key = "prompt" if ".jsonl" in file.name else "text"
    num_prompts = 0
    for place, row in read_rows(SourceConfig(str(file), document="line"), [key], ReadProgress()):
        if isinstance(row, BadRow):
            raise InputError(f"{place}: {row.reason}: {row.detail}")
        text = row.get(key)
        if not isinstance(text, str):
            raise InputError(f"{place}: no text under the key {key!r}; it has {', '.join(row) or 'none'}")
        if key == "prompt" or text.strip():
            num_prompts += 1
            yield text
    if not num_prompts:
        raise InputError(f"prompt_file: {file} holds no prompt")


def _print_piece(text: str) -> None:
    terminal.write(text, end="")


def _print_table(prompts: Sequence[str], columns: Sequence[ModelAnswers]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    for title in ("prompt", *(column.title for column in columns)):
        table.add_column(Text(title), overflow="fold")
    for index, prompt in enumerate(prompts):
        replies = [column.answers[index] for column in columns]
        cells = [Text.assemble(reply.text.strip(), (comparison.cut_mark(reply), "dim")) for reply in replies]
        table.add_row(Text(prompt), *cells)
    terminal.console().print(table)
