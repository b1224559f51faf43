"""The parts of an evaluation, and its result as a table and a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm import runtime
from jpllm.data.corpus import choose_documents, encode_text
from jpllm.data.sources import SourceConfig, read_documents
from jpllm.evaluation import perplexity
from jpllm.models import build
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from jpllm.data.pack import Encoder

RESULTS_NAME = "evaluation.json"
TABLE_NAME = "evaluation.md"
MAX_DEFAULT_CONTEXT = 2048
COLUMNS = {
    "text": "text",
    "num_tokens": "tokens",
    "num_bytes": "bytes",
    "loss": "loss",
    "perplexity": "perplexity",
    "bits_per_character": "bits/character",
    "bits_per_byte": "bits/byte",
    "xz_bits_per_byte": "xz -9 bits/byte",
}


def score_texts(
    model: PreTrainedModel,
    encoder: Encoder,
    sources: Sequence[SourceConfig],
    *,
    max_bytes: int,
    context_length: int | None,
    stride: int | None,
    batch_size: int,
) -> list[dict]:
    """One row per text, and where there are several their average: each text counts the same, whatever its length."""
    positions = model.config.max_position_embeddings
    length = context_length or min(build.context_length(model), MAX_DEFAULT_CONTEXT)
    if length > positions:
        raise InputError(f"context_length: {length:,} is more than the model's {positions:,} positions")
    if stride and stride >= length:
        raise InputError(f"stride: {stride:,} must be below the context length ({length:,})")
    rows = []
    for source in sources:
        documents = choose_documents(read_documents(source), max_bytes)
        text = encode_text(source.label, documents, encoder)
        (score,) = perplexity.score(
            model,
            [text],
            eos_token_id=encoder.eos_token_id,
            context_length=length,
            stride=stride,
            batch_size=batch_size,
        )
        row = {key: getattr(score, key) for key in COLUMNS if hasattr(score, key)}
        rows.append({"text": score.name, **row, "xz_bits_per_byte": perplexity.xz_bits_per_byte(documents)})
    if len(rows) > 1:
        rates = ("loss", "perplexity", "bits_per_character", "bits_per_byte", "xz_bits_per_byte")
        rows.append({"text": "average", **{key: sum(row[key] for row in rows) / len(rows) for key in rates}})
    return rows


def markdown_table(rows: Sequence[dict]) -> str:
    """The rows of `score_texts` as a Markdown table."""
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
    lines += ["| " + " | ".join(_cell(row.get(key, "")) for key in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def write(results: dict, output_dir: Path | None) -> None:
    """Print the results; with `output_dir` also keep them as `evaluation.json` and `evaluation.md`."""
    parts = []
    if "perplexity" in results:
        parts.append(markdown_table(results["perplexity"]))
    for sample in results.get("samples", []):
        parts.append(f"> **{sample['prompt']}**{sample['text']}".replace("\n", "\n> "))
    text = "\n\n".join(parts)
    runtime.announce(text)
    if output_dir and runtime.is_main_process():
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / RESULTS_NAME).write_text(
            json.dumps(results, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )
        (output_dir / TABLE_NAME).write_text(f"# {results['model']}\n\n{text}\n", encoding="utf-8")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
