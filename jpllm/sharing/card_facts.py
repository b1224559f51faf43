"""What a model card states, found in the record of a run: which data under which licence, which languages, which base.

Sources are named by their labels or file names. What was not recorded is missing here, and never guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jpllm.data.sources import HUB_PREFIX, SourceConfig, without_suffix
from jpllm.sharing.card_rules import is_repository
from jpllm.tracking.runs import HELD_OUT_NAME, Run, is_hub_name, number, rows_of

Kind = Literal["scratch", "continued", "instructed", "classifier", "unknown"]
PipelineTag = Literal["text-generation", "fill-mask", "text-classification"]
MODEL_FOLDER_NAMES = ("model",)
_TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_KANA = re.compile("[\u3041-\u309f\u30a1-\u30fa]")
_MAX_LANGUAGE_ROWS = 200


@dataclass(frozen=True)
class TrainedOn:
    """A source of the training data; None for what was not recorded.

    Attributes:
        hub_name: OWNER/NAME where it is a dataset of the Hub.
        requested_share, achieved_share: of the training tokens.
    """

    label: str
    licence: str | None
    hub_name: str | None = None
    requested_share: float | None = None
    achieved_share: float | None = None
    tokens: float | None = None
    epochs: float | None = None


def kind_of(run: Run) -> Kind:
    """Which recipe trained the model, told by its settings."""
    settings = run.settings
    if "train_file" in settings:
        return "classifier"
    if "batching" in settings:
        return "instructed"
    if "objective" in settings:
        return "scratch"
    return "continued" if "sources" in settings else "unknown"


def pipeline_tag(model_config: dict) -> PipelineTag | None:
    """What the architecture does; None where it is none of ours."""
    name = " ".join(map(str, model_config.get("architectures") or []))
    if "ForSequenceClassification" in name:
        return "text-classification"
    if "ForMaskedLM" in name:
        return "fill-mask"
    return "text-generation" if "ForCausalLM" in name or "LMHead" in name else None


def trained_on(run: Run, licences: dict[str, str]) -> list[TrainedOn]:
    """The sources in their order, those that are replayed behind the others; `licences` by label where not recorded."""
    uses = {str(row.get("source")): row for row in rows_of(run.results.get("mixture"))}
    found = []
    for label, hub_name, licence in _sources(run.settings):
        use = uses.get(label, {})
        numbers = {key: number(use.get(key)) for key in ("requested_share", "achieved_share", "tokens", "epochs")}
        found.append(TrainedOn(label, licences.get(label) or licence, hub_name, **numbers))
    return found


def base_model(run: Run) -> tuple[str | None, bool]:
    """The model that was trained further, and whether that is a name on the Hub; else it is that of a folder.

    None for a new model.
    """
    if kind_of(run) not in ("continued", "instructed", "classifier"):
        return None, False
    name = str(run.settings.get("model"))
    if _is_hub_model(name):
        return name, True
    parts = [part for part in Path(name).parts if part not in MODEL_FOLDER_NAMES and part != Path(name).anchor]
    return parts[-1] if parts else None, False


def languages_of(folder: Path) -> list[str]:
    """Japanese, where the held-out texts of a run are in it: most of the first 200 have kana. Others are not told."""
    file = folder / HELD_OUT_NAME
    if not file.is_file():
        return []
    num_rows = num_japanese = 0
    with file.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            num_rows += 1
            num_japanese += any(map(_KANA.search, texts_of(line)))
            if num_rows == _MAX_LANGUAGE_ROWS:
                break
    return ["ja"] if num_japanese > num_rows / 2 else []


def hours(run: Run) -> float | None:
    """Hours of training, without evaluations."""
    return run.result("hours")


def sessions(run: Run) -> list[dict]:
    """An entry for each start of the run: hardware, versions, commit."""
    return rows_of(run.environment.get("sessions"))


def hardware(run: Run) -> str | None:
    """GPUs, or else the CPU, of each start that had others."""
    found = dict.fromkeys(_machine(session) for session in sessions(run))
    names = [name for name in found if name] or [str(run.results.get("device") or "")]
    return "; ".join(filter(None, names)) or None


def commits(run: Run) -> str | None:
    """The commits of the code that trained it."""
    return ", ".join(dict.fromkeys(str(s["commit"]) for s in sessions(run) if s.get("commit"))) or None


def versions(run: Run) -> dict[str, str]:
    """Of the libraries, at the last start."""
    latest = sessions(run)[-1] if sessions(run) else run.results
    known = latest.get("versions")
    return {str(name): str(version) for name, version in known.items()} if isinstance(known, dict) else {}


def _is_hub_model(name: str) -> bool:
    """Whether it names a model of the Hub: OWNER/NAME that is no folder here, or a bare name such as gpt2."""
    is_bare = len(Path(name).parts) == 1 and not Path(name).exists()
    return (is_bare or is_hub_name(name)) and is_repository(name)


def _sources(settings: dict) -> Iterator[tuple[str, str | None, str | None]]:
    """Label, name on the Hub and recorded licence of each source that was trained on."""
    for row in [*rows_of(settings.get("sources")), *rows_of(settings.get("replay_sources"))]:
        keys = {key: row.get(key) for key in ("name", "subset") if row.get(key)}
        source = SourceConfig(path=str(row.get("path", "")), **keys)
        hub_name = "/".join(source.path.removeprefix(HUB_PREFIX).split("/")[:2]) if source.is_hub else None
        yield source.label, hub_name, row.get("licence")
    if "train_file" in settings:
        name = Path(str(settings["train_file"])).name
        suffix = next((suffix for suffix in _TABLE_SUFFIXES if name.endswith(suffix)), "")
        yield without_suffix(name.removesuffix(suffix)), None, None


def texts_of(line: str) -> Iterator[str]:
    """The texts in a row of held-out data, whichever recipe wrote it."""
    try:
        row = json.loads(line)
    except ValueError:
        return
    if isinstance(row, dict):
        yield from (value for key, value in row.items() if isinstance(value, str) and key not in ("source", "label"))
        yield from (str(message.get("content", "")) for message in rows_of(row.get("messages")))


def _machine(session: dict) -> str:
    gpus = rows_of(session.get("gpus"))
    if gpus:
        return f"{len(gpus)} × {gpus[0].get('name')}"
    cpu, cores = session.get("cpu"), session.get("cores")
    return f"{cpu}, {cores} core{'s' * (cores != 1)}" if cpu and cores else str(cpu or "")
