"""The results of an evaluation as tables, on the terminal and as files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm import markdown, runtime, terminal
from jpllm.evaluation import forgetting, score_tables, texts
from jpllm.evaluation.results import RESULTS_NAME
from jpllm.whole_files import write_whole

if TYPE_CHECKING:
    from rich.console import Console

TABLE_NAME = "evaluation.md"


def write(results: dict, output_dir: Path | None) -> None:
    """Print the results, as Markdown where there is no terminal; with `output_dir` also save them."""
    console = terminal.console(highlight=False)
    if not console.is_terminal:
        runtime.announce(_markdown(results))
    elif runtime.is_main_process():
        _print(results, console)
    save(results, output_dir)


def save(results: dict, output_dir: Path | None) -> None:
    """Write the results as `evaluation.json` and `evaluation.md`, each whole or not at all, where there is a folder."""
    if output_dir and runtime.is_main_process():
        output_dir.mkdir(parents=True, exist_ok=True)
        write_whole(output_dir / RESULTS_NAME, json.dumps(results, ensure_ascii=False, indent=2) + "\n")
        text = f"# {markdown.escaped(results['model'])}\n\n{_markdown(results)}\n"
        write_whole(output_dir / TABLE_NAME, text)


def _markdown(results: dict) -> str:
    """Return tables, paragraphs and samples as Markdown."""
    parts = [
        markdown.escaped(part) if isinstance(part, str) else markdown.table(*part, are_numbers=True).rstrip()
        for part in _parts(results)
    ]
    for sample in results.get("samples", []):
        prompt, text = markdown.escaped(sample["prompt"]), markdown.escaped(sample["text"])
        parts.append(f"> <b>{prompt}</b>{text}")  # between 。 and a letter ** would end nothing
    return "\n\n".join(parts)


def _print(results: dict, console: Console) -> None:
    """Print tables, paragraphs and samples on a terminal."""
    from rich.text import Text

    for part in _parts(results):
        console.print(Text(part) if isinstance(part, str) else markdown.terminal_table(*part))
        console.print()
    for sample in results.get("samples", []):
        console.print(Text.assemble((sample["prompt"], "bold"), sample["text"]))
        console.print()


def _parts(results: dict) -> Iterator[score_tables.TableTexts | str]:
    """Yield the tables and paragraphs of a report."""
    if "perplexity" in results:
        yield texts.table(results["perplexity"])
        yield from texts.bos_remarks(results["perplexity"])
    if results.get("jglue"):
        yield score_tables.jglue_table(results["jglue"])
    if results.get("jglue_finetuned"):
        yield score_tables.finetuned_table(results["jglue_finetuned"])
        yield score_tables.FINETUNED_NOTE
    for task, reason in results.get("jglue_finetuned_skipped", {}).items():
        yield f"{task} was skipped: {reason}."
    if found := results.get("forgetting"):
        yield forgetting.table(forgetting.Matrix(found["models"], found["bits_per_byte"]))
        context = f"a context of {found['context_length']:,} tokens, stride {found['stride']:,}"
        yield f"All models read the texts with {context}."
    if quality := results.get("sample_quality"):
        yield score_tables.table([quality], {key: key.replace("_", " ") for key in quality})
