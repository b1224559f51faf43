"""The results of an evaluation as tables and as a file."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from jpllm import runtime
from jpllm.evaluation import forgetting, texts
from jpllm.evaluation.identity import SUMS
from jpllm.evaluation.score_tables import finetuned_table, jglue_table, markdown_table
from jpllm.runtime import InputError, write_whole

RESULTS_NAME = "evaluation.json"
TABLE_NAME = "evaluation.md"
logger = logging.getLogger(__name__)


def with_earlier(identity: dict, output_dir: Path | None) -> dict:
    """`identity` and the results that `output_dir` holds of the same weights, configuration and tokenizer.

    Raises:
        InputError: the file with the results is broken.
    """
    file = output_dir / RESULTS_NAME if output_dir else None
    if not file or not file.is_file():
        return identity
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: broken JSON; remove it, or name another output_dir") from error
    if changed := [key.removesuffix("_sha256") for key in SUMS if earlier.get(key) != identity[key]]:
        logger.warning("%s: results of another model (%s) are replaced", file, ", ".join(changed))
        return identity
    return {**earlier, **identity}


def write(results: dict, output_dir: Path | None) -> None:
    """Print the results; with `output_dir` also keep them as `evaluation.json` and `evaluation.md`."""
    runtime.announce(_text(results))
    if output_dir:
        save(results, output_dir)


def save(results: dict, output_dir: Path) -> None:
    """Keep the results as `evaluation.json` and `evaluation.md`, each whole or not at all."""
    if runtime.is_main_process():
        output_dir.mkdir(parents=True, exist_ok=True)
        write_whole(output_dir / RESULTS_NAME, json.dumps(results, ensure_ascii=False, indent=2) + "\n")
        write_whole(output_dir / TABLE_NAME, f"# {results['model']}\n\n{_text(results)}\n")


def _text(results: dict) -> str:
    parts = []
    if "perplexity" in results:
        parts.append(texts.table(results["perplexity"]))
    if results.get("jglue"):
        parts.append(jglue_table(results["jglue"]))
    if results.get("jglue_finetuned") or results.get("jglue_finetuned_skipped"):
        parts.append(finetuned_table(results.get("jglue_finetuned", []), results.get("jglue_finetuned_skipped", {})))
    if "forgetting" in results:
        parts.append(forgetting.table(results["forgetting"]))
    if "sample_quality" in results:
        shown = {key: key.replace("_", " ") for key in results["sample_quality"]}
        parts.append(markdown_table([results["sample_quality"]], shown))
    for sample in results.get("samples", []):
        parts.append(f"> **{sample['prompt']}**{sample['text']}".replace("\n", "\n> "))
    return "\n\n".join(parts)
