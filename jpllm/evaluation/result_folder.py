"""What recipes/evaluate.py left in a folder, read back to be compared with other models' results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpllm.evaluation import report
from jpllm.evaluation.jglue.metrics import SCORES
from jpllm.runtime import InputError

_NUMBERS = {  # that a row of each part must have
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


@dataclass(frozen=True)
class Results:
    """What `evaluation.json` holds of a model.

    Attributes:
        versions: of the libraries, each once that rows were measured with.
    """

    label: str
    versions: list[dict[str, str]]
    perplexity: list[dict]
    jglue: list[dict]
    jglue_finetuned: list[dict]


def read(path: Path) -> Results:
    """The results in a folder, or in the file `evaluation.json` itself.

    Raises:
        InputError: there are none, or they are broken.
    """
    file = path / report.RESULTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: no {report.RESULTS_NAME}; name the output_dir of recipes/evaluate.py")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
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
    """The rows of a part, without averages."""
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
    """Raise InputError unless they are those that `jpllm.evaluation.clean_scores` adds to a row."""
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
