"""Write the model card of a run, README.md beside the model, out of what was recorded and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpllm import bounded, markdown, whole_files
from jpllm.config.settings import option
from jpllm.runtime import InputError
from jpllm.scores import WITHOUT_HITS
from jpllm.sharing import hub, licences
from jpllm.sharing.card import facts as card_facts
from jpllm.sharing.card import tables
from jpllm.sharing.card.facts import Facts
from jpllm.sharing.card.metadata import HELD_OUT, metadata
from jpllm.terminal import harmless
from jpllm.tracking.compare.summary import loss_unit
from jpllm.tracking.compare.tables import group_changes
from jpllm.tracking.quantities import count, duration, per_cent, three_digits
from jpllm.tracking.runs import MODEL_NAME, Run

CARD_NAME = "README.md"
TEMPLATES = [Path(__file__).with_name(name) for name in ("model_card.md.j2", "model_card.ja.md.j2")]


@dataclass
class CardConfig:
    """Model card"""

    license: str | None = option(
        None, "Licence of the model: an identifier of the Hugging Face Hub, such as apache-2.0 or cc-by-sa-4.0."
    )
    license_name: str | None = option(None, "Name of the licence where license is other.")
    license_link: str | None = option(None, "Where that licence can be read: an address, or a file such as LICENSE.")
    data_license: list[str] = option(
        default_factory=list, help="Licences of sources whose entry has none, each as NAME=LICENCE."
    )
    model_language: list[str] | None = option(
        None,
        "Languages of the training data as ISO 639 codes; by default ja, where the held-out texts are in Japanese.",
    )
    base_model: str | None = option(None, "OWNER/NAME of the model that was trained further, where that was a folder.")
    title: str | None = option(None, "Name of the model; by default that of the run's folder.")
    japanese: bool = option(True, "Add a summary in Japanese.")
    allow_missing: bool = option(False, "Write 'not recorded' where a licence, a language or the record is missing.")

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield keys and what is wrong: identifiers unknown to the Hub, and values that would have no effect."""
        if self.license and (problem := hub.licence_problem(self.license)):
            yield "license", problem
        if (self.license == "other") != bool(self.license_name and self.license_link):
            yield "license", "other needs license_name and license_link, and only other has them"
        for entry in self.data_license:
            name, _, licence = entry.partition("=")
            if not (name.strip() and licence.strip()):
                yield "data_license", f"write NAME=LICENCE, not {entry!r}"
        for language in self.model_language or ():
            if problem := hub.language_problem(language):
                yield "model_language", problem
        if self.base_model and not hub.is_repository(self.base_model):
            yield "base_model", f"{self.base_model!r} is no name of a repository; write OWNER/NAME"

    @property
    def data_licences(self) -> dict[str, str]:
        """The licence that was given for each source, by the source's name."""
        pairs = (entry.partition("=") for entry in self.data_license)
        return {name.strip(): licence.strip() for name, _, licence in pairs}


def model_folder(folder: Path) -> Path:
    """Return the folder of the model: `model` in the folder of a run, or `folder` itself.

    Raises:
        InputError: there is no model in it.
    """
    model_dir = folder / MODEL_NAME if (folder / MODEL_NAME).is_dir() else folder
    if not (model_dir / "config.json").is_file():
        raise InputError(f"{folder}: no model: it holds neither {MODEL_NAME}/config.json nor config.json")
    return model_dir


def gather(folder: Path, run: Run, settings: CardConfig) -> Facts:
    """Return what the card of the run in `folder` states.

    Raises:
        InputError: a part of the record is broken, the run is not finished, a key names a source that was not trained
            on, or something is missing without `allow_missing`; the message lists all of it and says how to give it.
    """
    broken = [remark for remark in run.remarks if "without a record" not in remark]
    if broken:
        raise InputError(f"{folder}: the record of the run is broken: {'; '.join(broken)}")
    if run.state == "unfinished":
        raise InputError(f"{folder}: the run is not finished, so it has no results to state; the same command goes on")
    model_dir = model_folder(folder)
    model_config = bounded.json_object(model_dir / "config.json")
    sources = card_facts.trained_on(run, settings.data_licences)
    _refuse_unknown(settings.data_licences, [source.label for source in sources])
    base, is_base_on_hub = card_facts.base_model(run)
    base_licence = licences.of_base(run) if base else None
    licence = (settings.license, settings.license_name, settings.license_link)
    if settings.license is None and base_licence and base_licence.duties and base_licence.duties.passes_on:
        licence = (base_licence.identifier, base_licence.name, base_licence.link)
    facts = Facts(
        title=settings.title or run.name,
        run=run,
        model_config=model_config,
        tag=card_facts.pipeline_tag(model_config),
        licence=licence[0],
        licence_name=licence[1],
        licence_link=licence[2],
        languages=settings.model_language or card_facts.languages_of(folder),
        sources=sources,
        base=settings.base_model or base,
        is_base_on_hub=is_base_on_hub or settings.base_model is not None,
        has_chat_template=_has_chat_template(model_dir),
        plots=[name for name in card_facts.PLOTS if (folder / name).is_file()],
        base_licence=base_licence,
    )
    if settings.base_model and facts.kind == "scratch":
        raise InputError("base_model: the model was trained from random weights; remove it")
    if base_licence:
        known_as = facts.licence_name if facts.licence == "other" else facts.licence
        if forbidden := list(licences.problems(base_licence, known_as, {"title": facts.title})):
            raise InputError("\n".join(forbidden))
    if not settings.allow_missing and (lines := list(missing(facts))):
        raise InputError(
            f"{folder}: not recorded, and a card states nothing that was not:\n  "
            + "\n  ".join(lines)
            + "\nor write 'not recorded' in their place with --allow_missing"
        )
    return facts


def missing(facts: Facts) -> Iterator[str]:
    """Yield what a card should state and the record lacks, each with the option that gives it."""
    if facts.licence is None:
        yield "the licence of the model: give --license, such as --license apache-2.0"
    for source in facts.sources:
        if source.licence is None:
            yield (
                f"the licence of the data {source.label}: give --data_license {source.label}=LICENCE, or licence: in "
                "its entry of sources before the training"
            )
    if not facts.languages:
        yield "the language of the data: give --model_language, such as --model_language ja"
    if facts.run.state == "model":
        yield "data, settings and results of the training: there is no record beside the model"


def compose(facts: Facts, settings: CardConfig, name: str = ".") -> str:
    """Return the card as a text; `name` is what its code loads: a repository of the Hub, or "." for the card's folder.

    Raises:
        InputError: the Hub would refuse its metadata.
    """
    from huggingface_hub import ModelCard

    files = TEMPLATES if settings.japanese else TEMPLATES[:1]
    template = "\n".join(file.read_text(encoding="utf-8") for file in files)
    card = ModelCard.from_template(metadata(facts), template_str=template, **template_values(facts, name))
    text = harmless(f"{str(card).rstrip()}\n")
    if facts.licence and (problems := list(hub.card_problems(text))):
        raise InputError(f"the Hub would refuse the metadata of the card: {'; '.join(problems)}")
    return text


def template_values(facts: Facts, name: str) -> dict[str, Any]:
    """Return what the templates can name: facts, and functions that write them. None is written as None."""

    def unless_none(write: Callable[[float], str]) -> Callable[[float | None], str | None]:
        return lambda value: None if value is None else write(value)

    run, changes = facts.run, group_changes(facts.run)
    return {
        "facts": facts,
        "name": name,
        "result": run.result,
        "loss_unit": loss_unit(run),
        "changes": changes,
        "hardware": card_facts.hardware(run),
        "engine": card_facts.engine(run),
        "commits": card_facts.commits(run),
        "base_licence": licences.describe(facts.base_licence) if facts.base_licence else [],
        "versions": ", ".join(f"{name} {found}" for name, found in card_facts.versions(run).items()),
        "source_rows": tables.source_rows(facts.sources),
        "change_rows": tables.change_rows(changes),
        "split_rows": tables.split_rows(run),
        "evaluations": [tables.scores_of(evaluation) for evaluation in run.evaluations],
        "held_out": HELD_OUT,
        "without_hits": WITHOUT_HITS,
        "table": tables.table,
        "score_table": tables.score_table,
        "escaped": markdown.escaped,
        "fenced": fenced,
        "literal": lambda text: json.dumps(text, ensure_ascii=False),  # also one of Python
        "whole": unless_none("{:,.0f}".format),
        "decimals": unless_none("{:.4f}".format),
        "short": unless_none("{:.3g}".format),
        "count": unless_none(count),
        "per_cent": unless_none(per_cent),
        "three_digits": unless_none(three_digits),
        "duration": unless_none(duration),
    }


def fenced(text: str) -> str:
    """Return text as it is between lines of more backticks than it has in a row."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}text\n{text}\n{fence}"


def write(card: str, folder: Path, plots: Sequence[str], from_folder: Path) -> Path:
    """Write the card and copy its pictures beside it; return the file of the card."""
    for name in plots:
        with whole_files.whole_file(folder / name) as unfinished:
            shutil.copyfile(from_folder / name, unfinished)
    whole_files.write_whole(folder / CARD_NAME, card)
    return folder / CARD_NAME


def _refuse_unknown(licences: Mapping[str, str], labels: Sequence[str]) -> None:
    """Raise InputError for a licence of something that was not trained on."""
    for name in licences:
        if name not in labels:
            known = ", ".join(labels) or "no source"
            raise InputError(f"data_license: the model was not trained on {name!r}, but on {known}")


def _has_chat_template(model_dir: Path) -> bool:
    if (model_dir / "chat_template.jinja").is_file():
        return True
    file = model_dir / "tokenizer_config.json"
    return file.is_file() and bool(bounded.json_object(file).get("chat_template"))
