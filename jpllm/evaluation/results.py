"""`evaluation.json`: which model the results in it are of, what they were measured with, and reading it back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm import bounded, runtime
from jpllm.evaluation.jglue.lm_eval_tasks.metrics import SCORES
from jpllm.runtime import InputError
from jpllm.tokenizer.load import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

RESULTS_NAME = "evaluation.json"
SUMS = ("weights_sha256", "config_sha256", "tokenizer_sha256")  # where one of them differs, scores are others
_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version")
_NUMBERS = {  # keys that a row of each part must have
    "perplexity": ("num_bytes", "bits_per_byte", "context_length", "stride"),
    "jglue": ("n", "num_fewshot", "value", "chance", "majority"),
    "jglue_finetuned": ("n", "value", "chance", "majority", "num_seeds", "learning_rate"),
}
_TEXTS = {
    "perplexity": ("text",),
    "jglue": ("task", "metric", "style", "data_version"),
    "jglue_finetuned": ("task", "metric", "trainable", "scored"),
}
_AGAIN = "evaluate the model again into a new output_dir"


def identity(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict:
    """Return the name of a model, and the SHA-256 of all that decides what it answers.

    That is: weights, configuration with all ids that end an answer, and tokenizer.
    """
    weights = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        weights.update(key.encode())
        values = tensor.detach().cpu()
        values = values.float() if values.is_floating_point() else values  # the same weights, whatever they are held in
        weights.update(values.numpy().tobytes())
    return {
        "model": name,
        "weights_sha256": weights.hexdigest(),
        "config_sha256": _config_sha256(model),
        "tokenizer_sha256": fingerprint(tokenizer),
    }


def actual_limit(row: dict) -> int | None:
    """Return the limit of a row of the part jglue; one above its number of items is none."""
    limit = row.get("limit")
    return None if limit is not None and row["n"] < limit else limit


def measured_with() -> dict:
    """Return the versions of the libraries and the commit of jpllm, for a row that is measured now."""
    return {"versions": runtime.versions(), "commit": runtime.commit()}


def with_earlier(identity: dict, output_dir: Path | None) -> dict:
    """Return `identity` and what `output_dir` holds of the same weights, configuration and tokenizer.

    Raises:
        InputError: the file with the results is broken, or holds those of another model.
    """
    file = output_dir / RESULTS_NAME if output_dir else None
    if not file or not file.is_file():
        return identity
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: broken JSON; remove it, or name another output_dir") from error
    if not isinstance(earlier, dict):
        raise InputError(f"{file}: not a file of recipes/evaluate.py; remove it, or name another output_dir")
    if changed := [key.removesuffix("_sha256") for key in SUMS if earlier.get(key) != identity[key]]:
        raise InputError(
            f"{file}: results of another model ({earlier.get('model')}: other {', '.join(changed)}); name another "
            "output_dir, or move this folder away"
        )
    return {**earlier, **identity}


@dataclass(frozen=True)
class Results:
    """The rows of `evaluation.json`, checked.

    Attributes:
        versions: the sets of library versions that rows were measured with, each once.
    """

    label: str
    versions: list[dict[str, str]]
    perplexity: list[dict]
    jglue: list[dict]
    jglue_finetuned: list[dict]


def read(path: Path) -> Results:
    """Read the results in a folder, or in the file `evaluation.json` itself.

    Raises:
        InputError: there are no results, or they are broken.
    """
    file = path / RESULTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: no {RESULTS_NAME}; name the output_dir of recipes/evaluate.py")
    try:
        content = bounded.json_value(file)
    except InputError as error:
        raise InputError(f"{file}: broken JSON ({error}); run recipes/evaluate.py again") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), str):
        raise InputError(f"{file}: names no model; it is not a file of recipes/evaluate.py")
    parts = {part: _checked(file, part, content.get(part, [])) for part in _NUMBERS}
    if not any(parts.values()):
        raise InputError(f"{file}: none of {', '.join(_NUMBERS)} was measured; add --parts perplexity jglue")
    found = [row.get("versions", content.get("versions")) for rows in parts.values() for row in rows]
    known = [versions for versions in found if isinstance(versions, dict)]
    return Results(content["model"], [one for place, one in enumerate(known) if one not in known[:place]], **parts)


def _checked(file: Path, part: str, rows: object) -> list[dict]:
    """Return the rows of a part, without averages.

    Raises:
        InputError: a row lacks a key or has a value of another type.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{file}: {part} is no list of rows")
    rows = [row for row in rows if row.get("text") != "average"]
    for number, row in enumerate(rows, 1):
        where = f"{file}: {part}, row {number}"
        _refuse_other_types(where, row, _NUMBERS[part], _TEXTS[part])
        if part != "perplexity" and row["metric"] not in SCORES:
            raise InputError(f"{where}: unknown metric {row['metric']!r}")
        if part == "jglue":
            _check_without_hits(where, row.get("without_hits", []))
    return rows


def _check_without_hits(where: str, entries: object) -> None:
    """Raise InputError unless the entries are such as `contamination.clean_scores` adds to a row."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{where}: without_hits is no list of entries; {_AGAIN}")
    for number, entry in enumerate(entries, 1):
        may_be_none = ("value", "standard_error") if entry.get("n") == 0 else ("standard_error",)
        unknown = [key for key in may_be_none if entry.get(key, "missing") is None]
        numbers = [key for key in ("num_left_out", "n", "value", "standard_error") if key not in unknown]
        _refuse_other_types(f"{where}: without_hits, entry {number}", entry, numbers, ["left_out"])


def _refuse_other_types(where: str, row: dict, numbers: Sequence[str], texts: Sequence[str]) -> None:
    """Raise InputError unless a row has numbers and texts under these keys."""
    for keys, kind, name in ((numbers, (int, float), "number"), (texts, str, "text")):
        for key in keys:
            if not isinstance(row.get(key), kind):
                found = f"{row[key]!r}, not a {name}" if key in row else "missing"
                raise InputError(f"{where}: {key} is {found}; {_AGAIN}")


def _config_sha256(model: PreTrainedModel) -> str:
    """Return the SHA-256 of a model's settings that differ from the defaults, without folder and library version."""
    settings = {key: value for key, value in model.config.to_diff_dict().items() if key not in _NOT_OF_THE_MODEL}
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return hashlib.sha256(json.dumps([settings, ends], sort_keys=True, default=str).encode()).hexdigest()
