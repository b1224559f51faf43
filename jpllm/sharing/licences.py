"""Find the licence of a model that was trained further, and what it asks of those who give the result away.

A licence is read from the model's own folder, never guessed from a name. Sources of the duties: the texts of the
licences, https://www.llama.com/llama3_1/license/ (and of 2, 3, 3.2, 3.3 and 4), https://ai.google.dev/gemma/terms and
the LICENSE of https://huggingface.co/Qwen/Qwen2.5-3B.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jpllm.runtime import InputError
from jpllm.tracking.runs import MODEL_NAME, Run, read_run

_CARD_NAME = "README.md"
_FILES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")  # without an ending, or with .txt or .md
_META = "Copyright © Meta Platforms, Inc. All Rights Reserved."


@dataclass(frozen=True)
class Licence:
    """A licence as a model card states it, and the files of its text.

    Attributes:
        identifier: of the Hugging Face Hub, None where the folder does not say it.
        name, link: of a licence that the Hub does not list, whose identifier is "other".
    """

    identifier: str | None
    name: str | None = None
    link: str | None = None
    files: tuple[Path, ...] = ()

    @property
    def known_as(self) -> str | None:
        """The name under which `DUTIES` has it."""
        return self.name if self.identifier == "other" and self.name else self.identifier

    @property
    def duties(self) -> Duties | None:
        """What it asks; None where that is not known here, which does not mean that it asks nothing."""
        return DUTIES.get(str(self.known_as).lower())


@dataclass(frozen=True)
class Duties:
    """What a licence asks of those who give away a model that was made from one under it.

    Attributes:
        begins_with: what the name of the model has to begin with.
        shown: words that have to be displayed.
        notice: a notice that has to go with the model.
        passes_on: whether the model comes under the same licence.
        others: further duties, a sentence each, for a person to read.
    """

    begins_with: str | None = None
    shown: str | None = None
    notice: str | None = None
    passes_on: bool = True
    others: tuple[str, ...] = ()


def _llama(version: str, begins_with: str | None, shown: str | None, copyright_line: str = _META) -> Duties:
    return Duties(
        begins_with,
        shown,
        f"Llama {version} is licensed under the Llama {version} Community License, {copyright_line}",
        others=(
            "A copy of the licence goes with the model.",
            "Its acceptable use policy binds whoever uses the model.",
            "More than 700 million monthly users need a licence of Meta's own.",
        ),
    )


_QWEN = Duties(
    shown="Built with Qwen",
    notice="Qwen is licensed under the Qwen LICENSE AGREEMENT, Copyright (c) Alibaba Cloud. All Rights Reserved.",
    others=(
        "A copy of the licence goes with the model.",
        "Files that were changed carry a notice that they were.",
        "More than 100 million monthly users need a licence of Alibaba Cloud's own.",
    ),
)
_NON_COMMERCIAL = "The model must not be used commercially."
DUTIES: dict[str, Duties] = {
    "llama2": Duties(
        notice=(
            "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights "
            "Reserved."
        ),
        others=(
            "A copy of the licence goes with the model.",
            "Its acceptable use policy binds whoever uses the model.",
            "The model and its output must not be used to improve another large language model than Llama 2.",
            "More than 700 million monthly users need a licence of Meta's own.",
        ),
    ),
    "llama3": Duties(
        "Llama 3",
        "Built with Meta Llama 3",
        f"Meta Llama 3 is licensed under the Meta Llama 3 Community License, {_META}",
        others=(
            "A copy of the licence goes with the model.",
            "Its acceptable use policy binds whoever uses the model.",
            "The model and its output must not be used to improve another large language model than Llama 3.",
            "More than 700 million monthly users need a licence of Meta's own.",
        ),
    ),
    **{f"llama{version}": _llama(version, "Llama", "Built with Llama") for version in ("3.1", "3.2", "3.3", "4")},
    "gemma": Duties(
        notice=(
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms. The "
            "weights in this folder were modified."
        ),
        others=(
            "A copy of the terms goes with the model.",
            "Whoever gets the model is bound by the restrictions of use in section 3.2 of the terms.",
        ),
    ),
    "qwen": _QWEN,
    "tongyi-qianwen": _QWEN,
    "qwen-research": Duties(
        shown="Built with Qwen",
        notice=(
            "Qwen is licensed under the Qwen RESEARCH LICENSE AGREEMENT, Copyright (c) Alibaba Cloud. All Rights "
            "Reserved."
        ),
        others=(
            "A copy of the licence goes with the model.",
            "Files that were changed carry a notice that they were.",
            _NON_COMMERCIAL,
        ),
    ),
    "apache-2.0": Duties(
        passes_on=False,
        others=("A copy of the licence, and the NOTICE file if there is one, go with the model.",),
    ),
    "mit": Duties(passes_on=False, others=("The copyright notice and the licence go with the model.",)),
    **{f"cc-by-sa-{version}": Duties(others=("The author is named.",)) for version in ("3.0", "4.0")},
    **{
        f"cc-by-nc-{version}": Duties(passes_on=False, others=("The author is named.", _NON_COMMERCIAL))
        for version in ("2.0", "3.0", "4.0")
    },
    **{
        f"cc-by-nc-sa-{version}": Duties(others=("The author is named.", _NON_COMMERCIAL))
        for version in ("2.0", "3.0", "4.0")
    },
}


def licence_of(folder: Path) -> Licence:
    """Return the licence that the card of a model's folder states, and the files of its text."""
    from huggingface_hub.repocard import metadata_load

    files = tuple(
        path
        for path in sorted(folder.iterdir() if folder.is_dir() else ())
        if path.is_file() and path.stem.upper() in _FILES and path.suffix.lower() in ("", ".txt", ".md")
    )
    card = folder / _CARD_NAME
    try:
        data = metadata_load(card) if card.is_file() else None
    except Exception:  # a stranger's card may be broken in any way; the licence is not known then
        data = None
    identifier, name, link = (
        value if isinstance(value := (data or {}).get(key), str) and value != "unknown" else None
        for key in ("license", "license_name", "license_link")
    )
    return Licence(identifier or None, name, link, files)


def of_base(run: Run) -> Licence | None:
    """Return the licence of the model that a run trained further; None for a model that it made anew.

    It stands in the folder of that model, in the cache of the Hub, or, for a model that another run made, in the folder
    from which that one began.
    """
    name = run.settings.get("model")
    if not isinstance(name, str) or "objective" in run.settings:  # of a run from random weights it is a preset
        return None
    folder = Path(name)
    if not folder.is_dir():
        cached = _cached_card(name)
        return licence_of(cached.parent) if cached else Licence(None)
    found = licence_of(folder)
    if found.known_as is None and folder.name == MODEL_NAME and folder.parent != folder:
        try:
            earlier = of_base(read_run(folder.parent, folder.parent.name))
        except InputError:  # the folder above holds no run
            return found
        return earlier or found
    return found


def _cached_card(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    from jpllm.sharing.hub import is_repository

    found = try_to_load_from_cache(name, _CARD_NAME) if is_repository(name) else None
    return Path(found) if isinstance(found, str) else None


def describe(licence: Licence) -> list[str]:
    """Return what is known of a model's licence, a line each; that nothing is, where that is so."""
    if licence.known_as is None:
        where = ", ".join(path.name for path in licence.files)
        return [f"unknown: look into {where}" if where else "unknown: look where the model was published"]
    lines = [licence.known_as + (f" ({licence.link})" if licence.link else "")]
    duties = licence.duties
    if duties is None:
        return [*lines, "what it asks is not known here: read it"]
    if duties.begins_with:
        lines.append(f'the name of a model made from it begins with "{duties.begins_with}"')
    if duties.shown:
        lines.append(f'its card displays "{duties.shown}"')
    if duties.passes_on:
        lines.append("a model made from it comes under the same licence")
    return [*lines, *duties.others]


def problems(base: Licence, licence: str | None, names: dict[str, str]) -> Iterator[str]:
    """Yield what the licence of the model that was trained further forbids.

    `licence` is the identifier or name of the licence of the model, None where it is not given, and `names` are the
    names that it goes by, each with the key that gives it.
    """
    duties = base.duties
    if duties is None:
        return
    if duties.passes_on and licence is not None and licence.lower() != str(base.known_as).lower():
        yield (
            f"license: the model was made from one under {base.known_as}, which passes to models made from it; "
            f"{licence} cannot take its place: leave license out"
        )
    for key, name in names.items():
        if duties.begins_with and not name.startswith(duties.begins_with):
            yield (
                f"{key}: the licence {base.known_as} of the model that was trained further asks for a name that begins "
                f'with "{duties.begins_with}"; {name!r} does not: "{duties.begins_with}-{name}" does'
            )


def words_missing(base: Licence, card: str) -> list[str]:
    """Return the words that the licence of the model that was trained further asks for, and a card does not have."""
    duties = base.duties
    if duties is None:
        return []
    flat = " ".join(card.replace("\n>", " ").split())
    return [words for words in (duties.shown, duties.notice) if words and words not in flat]


def copy_files(licence: Licence, folder: Path) -> None:
    """Copy the text of a licence and its notices into the folder of a model that is given away."""
    for file in licence.files:
        shutil.copyfile(file, folder / file.name)
