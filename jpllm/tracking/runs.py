"""Read the folders of runs, in whatever state they are: what they hold, what is wrong, and whether one is in use."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, overload

from jpllm import bounded, runtime
from jpllm.config.types import read_settings
from jpllm.models.adapters import is_adapter
from jpllm.runtime import InputError
from jpllm.terminal import encodable
from jpllm.tracking.metrics import METRICS_NAME, SAMPLES_NAME, Clock, Curve, flat_row, number, read_curves
from jpllm.tracking.wandb.mirror import known_id

CONFIG_NAME = "config.yaml"
RESULTS_NAME = "results.json"
PLAN_NAME = "plan.json"
ENVIRONMENT_NAME = "environment.json"
EVALUATION_NAME = "evaluation.json"
HELD_OUT_NAME = "held_out.jsonl"
MODEL_NAME = "model"
LOCK_NAME = ".lock"  # held, for as long as it lives, by the process that writes to the folder
_PEAK_GPU, _PEAK_HOST = "peak_gpu_bytes", "peak_host_bytes"
_MAX_HELD_OUT_BYTES = 256 << 20
_MAX_EVALUATIONS = 100
# An address of the Web or of a bucket, where such a folder is nobody's home; it begins where a word does, for trying
# all letters of a long word takes quadratic time.
_ADDRESS = r"(?P<address>(?<!\w)\w{2,40}://[^/\s][^\s,]*)"
_PART = r"[^\\/\s]+"
_HOMES = rf"(?:[A-Za-z]:)?(?:[\\/]{_PART}){{0,8}}?[\\/](?i:home|users)[\\/]{_PART}"  # also on another disk

State = Literal["finished", "unfinished", "model"]


@dataclass
class Run:
    """What is known of a run, or of a model whose training nobody recorded.

    Attributes:
        name: short, and no other run's among those that were read together.
        state: a `model` has no record of a training.
        model: what can be asked, a folder or a name on the Hub; None where there is none yet.
        wandb_id: of the run at Weights & Biases that it was mirrored to.
        held_out: fingerprint of the held-out texts; runs that share it were measured on the same texts.
        remarks: what is missing or broken, in words.
    """

    name: str
    state: State
    model: str | None = None
    settings: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    plan: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    evaluations: list[dict] = field(default_factory=list)
    samples: list[dict] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    held_out: str | None = None
    wandb_id: str | None = None
    num_parameters: int | None = None
    remarks: list[str] = field(default_factory=list)

    def result(self, *keys: str) -> float | None:
        """Return a number of the results by its path; None where they have none."""
        found: object = self.results
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return number(found)

    def figure(self, name: str) -> float | None:
        """Return a figure of the results or, of a run without results, of its latest evaluation."""
        if self.results or f"eval_{name}" not in self.curves:
            return self.result(name)
        return number(self.curves[f"eval_{name}"].values[-1])


@dataclass(frozen=True)
class Refused:
    """A folder that cannot be compared, and why."""

    name: str
    reason: str


def read_all(names: Sequence[str], hub_names: bool = False) -> tuple[list[Run], list[Refused]]:
    """Return the runs in these folders and what is none; with `hub_names` OWNER/NAME may be a model of the Hub too."""
    found: list[Run] = []
    refused: list[Refused] = []
    with runtime.progress_bar("reading runs", "runs") as update:
        for done, (given, name) in enumerate(zip(names, short_names(names), strict=True), start=1):
            try:
                found.append(_hub_model(given) if hub_names and is_hub_name(given) else read_run(Path(given), name))
            except InputError as error:
                refused.append(Refused(name, str(error)))
            except OSError as error:
                refused.append(Refused(name, f"{Path(error.filename or given).name}: {error.strerror}"))
            update(done, len(names), runs=1)
    return found, refused


def read_run(folder: Path, name: str) -> Run:
    """Return what a folder holds of a run, or of a model.

    Raises:
        InputError: it holds neither; the message does not name it.
    """
    if not folder.is_dir():
        raise InputError("no such folder" if not folder.exists() else "a file, not the folder of a run")
    if not (folder / CONFIG_NAME).is_file():
        if (folder / "config.json").is_file() or is_adapter(folder):
            return _model_without_a_record(folder, name)
        raise InputError(f"no {CONFIG_NAME}, so it is no run, and no config.json, so it is no model")
    remarks: list[str] = []
    results = json_object(folder / RESULTS_NAME, remarks)
    run = Run(
        name,
        "finished" if results else "unfinished",
        model=str(folder / MODEL_NAME) if (folder / MODEL_NAME).is_dir() else None,
        settings=settings_of(folder / CONFIG_NAME, remarks),
        results=results,
        plan=json_object(folder / PLAN_NAME, remarks),
        environment=json_object(folder / ENVIRONMENT_NAME, remarks),
        evaluations=_evaluations(folder, remarks),
        samples=_samples(folder / SAMPLES_NAME, remarks),
        held_out=_fingerprint(folder / HELD_OUT_NAME, remarks),
        wandb_id=known_id(folder),
        remarks=remarks,
    )
    if (folder / METRICS_NAME).exists():
        run.curves, run.clock, problems = read_curves(folder / METRICS_NAME)
        remarks += [f"{METRICS_NAME}: {problem}" for problem in problems]
    if not len(run.clock):
        remarks.append(f"{METRICS_NAME} has no rows")
    return run


def rows_of(value: object) -> list[dict]:
    """Return the mappings in a list; none where `value` is no list."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def num_parameters(model: str | Path) -> int:
    """Count the parameters of a model folder or of a name on the Hub that was loaded before; they take no memory."""
    import transformers

    from jpllm.models import adapters, pretrained, weight_files

    if adapters.is_adapter(model):
        added = weight_files.num_elements(Path(model) / adapters.WEIGHTS_NAME)
        return num_parameters(adapters.base_of(model)) + added
    config = pretrained.read_config(model, is_local=True)
    names = config.architectures or []
    auto_class = getattr(transformers, names[0]) if names else transformers.AutoModelForCausalLM
    return pretrained.build_without_memory(model, auto_class, config).num_parameters()


def count_parameters(run: Run) -> None:
    """Set how many parameters the model of a run has, or add a remark that they cannot be counted."""
    try:
        run.num_parameters = num_parameters(cast("str", run.model))
    except Exception as error:  # a configuration may be broken in any way, and the others still compare
        reason = shareable(str(error)) if isinstance(error, InputError) else type(error).__name__
        remark = f"its parameters cannot be counted: {reason}"
        run.remarks += [] if remark in run.remarks else [remark]


def is_held(folder: Path) -> bool:
    """Return whether a process is at work in the folder; where none is, this takes the lock for a moment.

    Raises:
        OSError: the lock cannot be tried, as in a folder of somebody else.
    """
    import filelock

    file = folder / LOCK_NAME
    if not file.exists():
        return False
    lock = filelock.FileLock(file.resolve())
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return True
    lock.release()
    return False


def planned_peak(plan: dict, measured: str, on_gpu: bool) -> float | None:
    """Return the peak that a run's plan predicts of the memory that metrics call `measured`; None where it has none.

    The plan's host memory is that of all processes, what is measured that of the main one.
    """
    memory = plan.get("memory")
    if not isinstance(memory, dict) or (measured == _PEAK_HOST and plan.get("num_processes") != 1):
        return None
    keys = {_PEAK_GPU: "tensor_bytes", _PEAK_HOST: "host_bytes" if on_gpu else "peak_bytes"}
    return number(memory.get(keys[measured]))


@overload
def shareable(value: str) -> str: ...
@overload
def shareable(value: dict) -> dict: ...
@overload
def shareable(value: object) -> object: ...
def shareable(value: object) -> object:
    """Return the value of a JSON or YAML file with a tilde for each home folder that its texts and keys name.

    Reports and cards are made to be passed on.
    """
    if isinstance(value, str):
        return _home_folders().sub(lambda found: found["address"] or "~", encodable(value))
    if isinstance(value, dict):
        return {shareable(str(key)): shareable(item) for key, item in value.items()}
    return [shareable(item) for item in value] if isinstance(value, list) else value


def short_names(names: Sequence[str]) -> list[str]:
    """Return the last parts of each path, as many as tell it from the others."""
    parts = [Path(name).resolve().parts if Path(name).exists() else Path(name).parts for name in names]
    found = []
    for index, own in enumerate(parts):
        others = parts[:index] + parts[index + 1 :]
        lengths = range(1, len(own) + 1)
        length = next((n for n in lengths if all(other[-n:] != own[-n:] for other in others)), len(own))
        found.append(encodable("/".join(own[-length:])))
    return found


def is_hub_name(name: str) -> bool:
    """Return whether a name can be OWNER/NAME of a model on the Hub, and is nothing on this machine."""
    parts = Path(name).parts
    return len(parts) == 2 and not Path(name).exists() and not Path(parts[0]).exists()


def _hub_model(name: str) -> Run:
    return Run(name, "model", model=name)


def _model_without_a_record(folder: Path, name: str) -> Run:
    remarks = ["a model without a record of its training"]
    run = Run(name, "model", model=str(folder), evaluations=_evaluations(folder, remarks), remarks=remarks)
    count_parameters(run)
    return run


def _evaluations(folder: Path, remarks: list[str]) -> list[dict]:
    """Return what `recipes/evaluate.py` left in the folder or in one directly below it."""
    files = [*folder.glob(EVALUATION_NAME), *sorted(folder.glob(f"*/{EVALUATION_NAME}"))]
    if len(files) > _MAX_EVALUATIONS:
        remarks.append(f"{len(files) - _MAX_EVALUATIONS:,} of {len(files):,} evaluations are left out")
        files = files[:_MAX_EVALUATIONS]
    return [found for file in files if (found := json_object(file, remarks))]


def json_object(file: Path, remarks: list[str]) -> dict:
    """Return the object in a file; an empty one where there is no file or, with a remark, where it cannot be used."""
    if not file.exists():
        return {}
    try:
        return shareable(bounded.json_object(file))
    except InputError as error:
        remarks.append(f"{error} and left out")
    except OSError:
        remarks.append(f"{file.name} is broken and left out")
    return {}


def settings_of(file: Path, remarks: list[str]) -> dict:
    """Return the settings in a file of YAML; none, with a remark, where it cannot be used."""
    try:
        found = read_settings(file)
    except (OSError, InputError):
        found = None
    if isinstance(found, dict):
        return shareable(found)
    remarks.append(f"{file.name} is broken: its settings are left out")
    return {}


def _samples(file: Path, remarks: list[str]) -> list[dict]:
    """Return the rows that have a prompt, a text and a step."""
    if not file.exists():
        return []
    found, num_bad = [], 0
    try:
        for line in bounded.lines(file):  # texts may hold what str.splitlines takes for the end of a line
            row = flat_row(line)
            if row and isinstance(row.get("prompt"), str) and isinstance(row.get("text"), str):
                found.append({**row, "prompt": encodable(row["prompt"]), "text": encodable(row["text"])})
            else:
                num_bad += 1
    except (InputError, OSError) as error:
        remarks.append(f"{file.name}: {_reason(error)}")
    if num_bad:
        remarks.append(f"{file.name}: {num_bad:,} broken lines are left out")
    return [row for row in found if number(row.get("step")) is not None]


def _fingerprint(file: Path, remarks: list[str]) -> str | None:
    """Return the SHA-256 of a file; None where there is none or, with a remark, where it cannot be told."""
    if not file.exists():
        return None
    digest, num_bytes = hashlib.sha256(), 0
    try:
        with bounded.open_regular(file) as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
                num_bytes += len(piece)
                if num_bytes > _MAX_HELD_OUT_BYTES:
                    raise InputError(f"more than {_MAX_HELD_OUT_BYTES / 1e6:.0f} MB, not compared with other runs'")
    except (InputError, OSError) as error:
        remarks.append(f"{file.name}: {_reason(error)}")
        return None
    return digest.hexdigest()


def _reason(error: InputError | OSError) -> str:
    return str(error) if isinstance(error, InputError) else f"cannot be read: {error.strerror}"


def _home_folders() -> re.Pattern[str]:
    """Return a pattern of this user's home folder and of those on other machines, where a run may come from."""
    own = str(Path.home())
    folders = [re.escape(own), _HOMES, "/root"] if len(own) > 1 else [_HOMES, "/root"]
    return re.compile(rf"{_ADDRESS}|(?<![\w.~-])(?:{'|'.join(folders)})(?![\w.-])")
