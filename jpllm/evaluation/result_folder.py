"""What recipes/evaluate.py left in a folder, read back to be compared with other models' results."""

from __future__ import annotations

import json
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
        for key in (*_NUMBERS[part], *_TEXTS[part]):
            kind, name = ((int, float), "number") if key in _NUMBERS[part] else (str, "text")
            if not isinstance(row.get(key), kind):
                raise InputError(f"{file}: {part}, row {number}: {key} is {row.get(key)!r}, not a {name}")
        if part != "perplexity" and row["metric"] not in SCORES:
            raise InputError(f"{file}: {part}, row {number}: unknown metric {row['metric']!r}")
    return rows
