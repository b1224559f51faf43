"""Describe a source of texts in a configuration.

A source is a file, a folder of files, or a dataset of the Hugging Face Hub (`hf://owner/name`, streamed through
`datasets`; `hf://owner/name/file` reads that file of its repository, so that a loading script is not needed). Reading
takes memory for one row (one file for `.txt` with `document: file`), whatever the size of the source.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from jpllm.config.settings import REQUIRED, option
from jpllm.data.clean.pipeline import CleanRule
from jpllm.data.clean.wikitext.plain_text import Wikitext, wikipedia
from jpllm.data.read.files import HUB_PREFIX, READABLE, find_files, kind_of, label_of, printable, without_suffix
from jpllm.data.read.jsonl import MAX_CHARACTERS

Encoding = Literal["utf-8", "cp932", "euc_jp", "euc_jis_2004"]


@dataclass
class SourceConfig:
    """One source of documents."""

    shorthand: ClassVar[str] = "path"
    preset_key: ClassVar[str] = "preset"

    path: str = option(
        REQUIRED,
        f"File ({READABLE}), folder of such files, Hub dataset as {HUB_PREFIX}owner/name, or files of its "
        f"repository as {HUB_PREFIX}owner/name/pattern.",
    )
    preset: str | None = option(None, "YAML file with keys of this entry, such as recipes/configs/sources/aozora.yaml.")
    name: str | None = option(None, "Name in shards, tables and plots; by default taken from the path.")
    weight: float | None = option(
        None, "Share of the training tokens, relative to the other sources'; by default by size.", above=0
    )
    group: str | None = option(
        None, "In evaluation: texts of one group are also added up, such as old and new in continued pre-training."
    )
    text_column: str = option(
        "text", "Column that holds the text, or a list of messages, which are joined (all but .txt and dumps)."
    )
    template: str | None = option(
        None, "Text made of several columns, such as {instruction}\\n{response}; instead of text_column."
    )
    where: dict[str, str] = option(
        default_factory=dict, help="Only rows with these values, such as meta.文字遣い種別: 新字新仮名."
    )
    document: Literal["file", "paragraph", "line"] = option(
        "file",
        "What one document is in a .txt file: the whole file, each paragraph (split at empty lines), or each line.",
    )
    encoding: Encoding = option("utf-8", "Encoding of files of text, JSON lines, CSV and TSV.")
    clean: list[CleanRule] = option(
        default_factory=list, help="Cleaning rules in order: names, or entries with thresholds; see docs/data.md."
    )
    exclude: str | None = option(None, "Drop list that `jpllm data dedup` made of this source.")
    max_rows: int | None = option(None, "Read no more rows than this.", minimum=1)
    max_bytes: int | None = option(None, "Stop once this many UTF-8 bytes of text were read.", minimum=1)
    max_characters: int = option(
        MAX_CHARACTERS, "Longest text of one row; a longer one is taken for a mistake.", minimum=1
    )
    max_bad_fraction: float = option(
        0.001, "Largest share of rows that cannot be read; above it, an error shows the first.", minimum=0, maximum=1
    )
    subset: str | None = option(None, "Configuration of the Hub dataset, such as 20231101.ja.")
    split: str = option("train", "Split of the Hub dataset.")
    revision: str | None = option(None, "Commit or tag of the Hub dataset; name one to make a run reproducible.")
    licence: str | None = option(None, "Licence of the texts, for the model card.")

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield key and problem of a name that is no file name, and of settings that would be ignored."""
        if "\0" in self.path:
            yield "path", "remove the character U+0000, which no path can hold"
            return
        if "/" in self.label:
            yield "name", f"{self.label!r} is used as a file name and cannot have a /; give the source another name"
        elif self.name and label_of(self.name) != self.name:
            yield "name", f"{printable(self.name)} cannot be used as a file name; write a shorter one on one line"
        if not self.is_hub and self.preset is None:
            for key, value, default in (
                ("subset", self.subset, None),
                ("split", self.split, "train"),
                ("revision", self.revision, None),
            ):
                if value != default:
                    yield key, f"{value!r} has no effect on the local path {self.path}; remove it"
        if self.template is not None and "{" not in self.template:
            yield "template", f"{self.template!r} names no column; write {{column}}"

    @property
    def is_hub(self) -> bool:
        """Whether the source is a dataset of the Hugging Face Hub, streamed by `datasets` or read file by file."""
        return self.path.startswith(HUB_PREFIX)

    @property
    def has_wikitext(self) -> bool:
        """Whether wikitext becomes plain text: by the rule `wikipedia`, or as pages of a dump, which need no rule."""
        return any(rule.rule == wikipedia.__name__ for rule in self.clean) or _has_wiki_dump(self.path)

    def rules_for(self, text: str) -> list[CleanRule]:
        """Return the rules for a text of `read_texts`: `wikipedia` comes first for wikitext, unless `clean` has it."""
        if not isinstance(text, Wikitext) or any(rule.rule == wikipedia.__name__ for rule in self.clean):
            return self.clean
        return [CleanRule(wikipedia.__name__), *self.clean]

    @property
    def label(self) -> str:
        """Return the name given, or the last part of the path without its suffix."""
        if self.name:
            return self.name
        if self.is_hub:
            owner_and_name = self.path.removeprefix(HUB_PREFIX).split("/")[:2]
            return "-".join(filter(None, [owner_and_name[-1], self.subset]))
        return label_of(without_suffix(Path(self.path).resolve().name))


def _has_wiki_dump(path: str) -> bool:
    files = find_files(path) if Path(path).is_dir() else [Path(path)]
    return any(kind.format == "xml" for file in files if (kind := kind_of(file.name)))
