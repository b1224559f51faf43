"""Find in the record of a run what its model card states: data and their licences, languages, base model, settings.

Sources are named by their labels or file names. What was not recorded is None or empty here, and never guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from jpllm import bounded
from jpllm.data.read.sources import HUB_PREFIX, SourceConfig, without_suffix
from jpllm.sharing.hub import is_repository
from jpllm.sharing.licences import Licence
from jpllm.tracking.runs import HELD_OUT_NAME, MODEL_NAME, Run, is_hub_name, number, rows_of

Kind = Literal["scratch", "continued", "instructed", "classifier", "unknown"]
PipelineTag = Literal["text-generation", "fill-mask", "text-classification"]
PLOTS = ("loss.png", "scores.png")
_MAX_PROMPTS = 6
_ARCHITECTURES = {"gpt2": "GPT-2", "gpt_neox": "GPT-NeoX", "llama": "Llama", "bert": "BERT"}
_SHOWN_SETTINGS = (
    *("objective", "masked_share", "template", "eos_token", "learn", "batching", "replay", "lora_rank", "lora_alpha"),
    *("trainable", "task"),
    *("sequence_length", "isolate_documents", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("optimizer", "learning_rate", "lr_scheduler_type", "warmup_steps", "embedding_warmup_steps", "weight_decay"),
    *("adam_beta1", "adam_beta2", "max_grad_norm", "label_smoothing", "dropout", "precision", "early_stopping_evals"),
    "seed",
)
_SAMPLING = ("temperature", "top_p", "repetition_penalty", "no_repeat_ngram_size", "max_new_tokens", "seed")
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


@dataclass(frozen=True)
class Facts:
    """Everything that a card is made of; None and empty for what was not recorded.

    Attributes:
        title: name of the model.
        model_config: what `config.json` of the model holds.
        plots: names of the pictures that lie beside the card.
        languages: codes of ISO 639.
        base: the model that was trained further, OWNER/NAME if `is_base_on_hub`, else the name of its folder.
        base_licence: that of `base`, None where there is no such model.
    """

    title: str
    run: Run
    model_config: dict
    tag: PipelineTag | None
    licence: str | None
    licence_name: str | None
    licence_link: str | None
    languages: Sequence[str]
    sources: Sequence[TrainedOn]
    base: str | None
    is_base_on_hub: bool
    has_chat_template: bool
    plots: Sequence[str]
    base_licence: Licence | None = None

    @property
    def kind(self) -> Kind:
        """Which recipe trained the model."""
        return kind_of(self.run)

    @property
    def architecture(self) -> str:
        """The name of the architecture as people write it."""
        name = str(self.model_config.get("model_type"))
        return _ARCHITECTURES.get(name, name)

    @property
    def labels(self) -> list[str]:
        """The names of the classes in their order."""
        return list(map(str, self.model_config.get("id2label", {}).values()))

    @property
    def num_parameters(self) -> float | None:
        """All weights, counted once."""
        return self.run.num_parameters or self.run.result("num_parameters")

    @property
    def settings(self) -> list[tuple[str, str]]:
        """Key and value of each setting of the training that a reader may want to know."""
        known = self.run.settings
        shown = [key for key in _SHOWN_SETTINGS if known.get(key) or (key == "seed" and key in known)]
        return [(key, f"{known[key]:g}" if isinstance(known[key], float) else str(known[key])) for key in shown]

    @property
    def prompts(self) -> list[dict]:
        """The samples of the model that was kept, for the first prompts."""
        kept = self.run.results.get("best_step")
        steps = [row["step"] for row in self.run.samples]
        step = kept if kept in steps else max(steps, default=None)
        return [row for row in self.run.samples if row["step"] == step][:_MAX_PROMPTS]

    @property
    def sampling(self) -> str:
        """The settings with which the samples were drawn."""
        return ", ".join(f"{key} {self.run.settings.get(key)}" for key in _SAMPLING if key in self.run.settings)

    @property
    def generate_arguments(self) -> str:
        """A literal of Python: the arguments of `generate` that sample as the training did, with no default left."""
        known = self.run.settings
        found = {"max_new_tokens": known.get("max_new_tokens", 50), "do_sample": bool(known.get("temperature"))}
        if found["do_sample"]:
            found |= {"temperature": known["temperature"], "top_p": known.get("top_p", 1.0), "top_k": 0}
        found |= {key: known[key] for key in ("repetition_penalty", "no_repeat_ngram_size") if known.get(key)}
        return "{" + ", ".join(f'"{key}": {value!r}' for key, value in found.items()) + "}"


def kind_of(run: Run) -> Kind:
    """Return which recipe trained the model, told by its settings."""
    settings = run.settings
    if "train_file" in settings:
        return "classifier"
    if "batching" in settings:
        return "instructed"
    if "objective" in settings:
        return "scratch"
    return "continued" if "sources" in settings else "unknown"


def pipeline_tag(model_config: dict) -> PipelineTag | None:
    """Return what the architecture does; None where it is none of ours."""
    name = " ".join(map(str, model_config.get("architectures") or []))
    if "ForSequenceClassification" in name:
        return "text-classification"
    if "ForMaskedLM" in name:
        return "fill-mask"
    return "text-generation" if "ForCausalLM" in name or "LMHead" in name else None


def trained_on(run: Run, licences: dict[str, str]) -> list[TrainedOn]:
    """Return the sources in their order, replayed ones last; `licences`, by label, fill in what was not recorded."""
    uses = {str(row.get("source")): row for row in rows_of(run.results.get("mixture"))}
    found = []
    for label, hub_name, licence in _sources(run.settings):
        use = uses.get(label, {})
        numbers = {key: number(use.get(key)) for key in ("requested_share", "achieved_share", "tokens", "epochs")}
        found.append(TrainedOn(label, licences.get(label) or licence, hub_name, **numbers))
    return found


def base_model(run: Run) -> tuple[str | None, bool]:
    """Return the model that was trained further, None for a new one, and whether that is a name on the Hub.

    Of a folder the last part of its path that says something is the name.
    """
    if kind_of(run) not in ("continued", "instructed", "classifier"):
        return None, False
    name = str(run.settings.get("model"))
    if _is_hub_model(name):
        return name, True
    return folder_name(name), False


def folder_name(path: str) -> str | None:
    """Return the name of a model without the folders that it is in."""
    parts = [part for part in Path(path).parts if part not in (MODEL_NAME, Path(path).anchor)]
    return parts[-1] if parts else None


def languages_of(folder: Path) -> list[str]:
    """Return ["ja"] where most of a run's first 200 held-out texts have kana; no other language is told."""
    file = folder / HELD_OUT_NAME
    if not file.is_file():
        return []
    num_rows = num_japanese = 0
    for line in islice(bounded.lines(file), _MAX_LANGUAGE_ROWS):
        num_rows += 1
        num_japanese += any(map(_KANA.search, texts_of(line.decode("utf-8", errors="replace"))))
    return ["ja"] if num_japanese > num_rows / 2 else []


def hardware(run: Run) -> str | None:
    """Return the GPUs, or else the CPU, of each start that had others."""
    found = dict.fromkeys(_machine(session) for session in _sessions(run))
    names = [name for name in found if name] or [str(run.results.get("device") or "")]
    return "; ".join(filter(None, names)) or None


def engine(run: Run) -> str | None:
    """Return how several processes trained the model."""
    return str(run.results.get("engine") or "") or None


def commits(run: Run) -> str | None:
    """Return the commits of the code that trained the model."""
    return ", ".join(dict.fromkeys(str(s["commit"]) for s in _sessions(run) if s.get("commit"))) or None


def versions(run: Run) -> dict[str, str]:
    """Return the versions of the libraries at the last start."""
    latest = _sessions(run)[-1] if _sessions(run) else run.results
    known = latest.get("versions")
    return {str(name): str(version) for name, version in known.items()} if isinstance(known, dict) else {}


def texts_of(line: str) -> Iterator[str]:
    """Yield the texts in a row of held-out data, whichever recipe wrote it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return
    if isinstance(row, dict):
        yield from (value for key, value in row.items() if isinstance(value, str) and key not in ("source", "label"))
        yield from (str(message.get("content", "")) for message in rows_of(row.get("messages")))


def _is_hub_model(name: str) -> bool:
    """Return whether a name is a model of the Hub: OWNER/NAME that is no folder here, or a bare name such as gpt2."""
    is_bare = len(Path(name).parts) == 1 and not Path(name).exists()
    return (is_bare or is_hub_name(name)) and is_repository(name)


def _sources(settings: dict) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield label, name on the Hub and recorded licence of each source that was trained on."""
    for row in [*rows_of(settings.get("sources")), *rows_of(settings.get("replay_sources"))]:
        name, subset = (row.get(key) or None for key in ("name", "subset"))
        source = SourceConfig(path=str(row.get("path", "")), name=name, subset=subset)
        hub_name = "/".join(source.path.removeprefix(HUB_PREFIX).split("/")[:2]) if source.is_hub else None
        yield source.label, hub_name, row.get("licence")
    if "train_file" in settings:
        name = Path(str(settings["train_file"])).name
        suffix = next((suffix for suffix in _TABLE_SUFFIXES if name.endswith(suffix)), "")
        yield without_suffix(name.removesuffix(suffix)), None, None


def _machine(session: dict) -> str:
    gpus = rows_of(session.get("gpus"))
    if gpus:
        return f"{len(gpus)} × {gpus[0].get('name')}"
    cpu, cores = session.get("cpu"), session.get("cores")
    return f"{cpu}, {cores} core{'s' * (cores != 1)}" if cpu and cores else str(cpu or "")


def _sessions(run: Run) -> list[dict]:
    """Return an entry for each start of the run: hardware, versions, commit."""
    return rows_of(run.environment.get("sessions"))
