"""The model card of a run: README.md beside the model, out of what was recorded and nothing else.

Source of the metadata: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jpllm import markdown, runtime
from jpllm.config import option
from jpllm.runtime import InputError
from jpllm.sharing import card_facts, card_japanese, card_loading, card_metadata, card_rules, card_scores, card_text
from jpllm.sharing.card_text import Facts
from jpllm.tracking.runs import MODEL_NAME, Run

CARD_NAME = "README.md"


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
        """Identifiers that the Hub knows, and keys that act."""
        if self.license and (problem := card_rules.licence_problem(self.license)):
            yield "license", problem
        if (self.license == "other") != bool(self.license_name and self.license_link):
            yield "license", "other needs license_name and license_link, and only other has them"
        for entry in self.data_license:
            name, _, licence = entry.partition("=")
            if not (name.strip() and licence.strip()):
                yield "data_license", f"write NAME=LICENCE, not {entry!r}"
        for language in self.model_language or ():
            if problem := card_rules.language_problem(language):
                yield "model_language", problem
        if self.base_model and not card_rules.is_repository(self.base_model):
            yield "base_model", f"{self.base_model!r} is no name of a repository; write OWNER/NAME"

    @property
    def data_licences(self) -> dict[str, str]:
        """Licence of each source that is named."""
        pairs = (entry.partition("=") for entry in self.data_license)
        return {name.strip(): licence.strip() for name, _, licence in pairs}


def model_folder(folder: Path) -> Path:
    """The folder of the model: `model` in that of a run, or the folder itself.

    Raises:
        InputError: there is no model in it.
    """
    model_dir = folder / MODEL_NAME if (folder / MODEL_NAME).is_dir() else folder
    if not (model_dir / "config.json").is_file():
        raise InputError(f"{folder}: no model: it holds neither {MODEL_NAME}/config.json nor config.json")
    return model_dir


def gather(folder: Path, run: Run, settings: CardConfig) -> Facts:
    """What the card of the run in `folder` states.

    Raises:
        InputError: a part of the record is broken, the run is not finished, a key names a source that is not there, or
            without `allow_missing` something is missing; the message lists all of it, and how to give it.
    """
    broken = [remark for remark in run.remarks if "without a record" not in remark]
    if broken:
        raise InputError(f"{folder}: the record of the run is broken: {'; '.join(broken)}")
    if run.state == "unfinished":
        raise InputError(f"{folder}: the run is not finished, so it has no results to state; the same command goes on")
    model_dir = model_folder(folder)
    model_config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    sources = card_facts.trained_on(run, settings.data_licences)
    _refuse_unknown(settings.data_licences, [source.label for source in sources])
    base, is_base_on_hub = card_facts.base_model(run)
    facts = Facts(
        title=settings.title or run.name,
        run=run,
        model_config=model_config,
        tag=card_facts.pipeline_tag(model_config),
        licence=settings.license,
        licence_name=settings.license_name,
        licence_link=settings.license_link,
        languages=settings.model_language or card_facts.languages_of(folder),
        sources=sources,
        base=settings.base_model or base,
        is_base_on_hub=is_base_on_hub or settings.base_model is not None,
        has_chat_template=_has_chat_template(model_dir),
        plots=[name for name in card_text.PLOTS if (folder / name).is_file()],
    )
    if settings.base_model and facts.kind == "scratch":
        raise InputError("base_model: the model was trained from random weights; remove it")
    if not settings.allow_missing and (lines := list(missing(facts))):
        raise InputError(
            f"{folder}: not recorded, and a card states nothing that was not:\n  "
            + "\n  ".join(lines)
            + "\nor write 'not recorded' in their place with --allow_missing"
        )
    return facts


def missing(facts: Facts) -> Iterator[str]:
    """What the record does not say and a card should, each with how to give it."""
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
    """The card as a text; `name` is what its code loads, a repository of the Hub or "." for the folder of the card.

    Raises:
        InputError: the Hub would refuse its metadata.
    """
    sections = [
        ("Use", f"```python\n{card_loading.code(facts, name)}```"),
        ("Training data", card_text.data(facts)),
        ("Training", card_text.training(facts)),
        ("Evaluation", card_scores.scores(facts)),
        ("Samples", card_text.samples(facts)),
        ("Limits", card_text.limits(facts)),
        ("Licence", _licence(facts)),
    ]
    if settings.japanese:
        sections.append(("日本語の要約", card_japanese.summary(facts)))
    parts = [f"# {markdown.escaped(facts.title)}", card_text.introduction(facts)]
    parts += [f"## {title}\n\n{text.strip()}" for title, text in sections if text.strip()]
    card = f"---\n{card_metadata.metadata(facts)}\n---\n\n" + "\n\n".join(parts) + "\n"
    if facts.licence and (problems := list(card_rules.problems(card))):
        raise InputError(f"the Hub would refuse the metadata of the card: {'; '.join(problems)}")
    return card


def write(card: str, folder: Path, plots: Sequence[str], from_folder: Path) -> Path:
    """Write the card and copy its pictures beside it."""
    for name in plots:
        shutil.copyfile(from_folder / name, folder / name)
    runtime.write_whole(folder / CARD_NAME, card)
    return folder / CARD_NAME


def _licence(facts: Facts) -> str:
    if facts.licence is None:
        return f"The licence of this model is {card_text.NOT_RECORDED}."
    if facts.licence_name:
        return f"This model: {markdown.escaped(facts.licence_name)}, {facts.licence_link}."
    return f"This model: {facts.licence}. The licences of its data stand above."


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
    return file.is_file() and bool(json.loads(file.read_text(encoding="utf-8")).get("chat_template"))
