"""Where texts come from: a source is described, found, and read as a stream of documents.

A source is a file, a folder of files, or a dataset of the Hugging Face Hub (`hf://owner/name`, streamed through
`datasets`; `hf://owner/name/file` reads that file of its repository, so that a loading script is not needed). Reading
takes memory for one row (one file for `.txt` with `document: file`), whatever the size of the source.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from jpllm.config.settings import REQUIRED, option
from jpllm.data.clean import Cleaned, CleanRule, clean
from jpllm.data.quarantine import BadRow, Quarantine
from jpllm.data.wikitext.plain_text import Wikitext, wikipedia
from jpllm.runtime import InputError

HUB_PREFIX = "hf://"
WIKI_SUFFIXES = (".xml", ".xml.gz", ".xml.bz2")
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt", ".txt.gz", ".txt.zst", *WIKI_SUFFIXES)


@dataclass
class SourceConfig:
    """One source of documents."""

    shorthand: ClassVar[str] = "path"
    preset_key: ClassVar[str] = "preset"

    path: str = option(
        REQUIRED,
        f"File ({', '.join(SUFFIXES)}), folder of such files, Hub dataset as {HUB_PREFIX}owner/name, or files of its "
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
        "text", "Column that holds the text, or a list of messages, which are joined (.jsonl, .parquet, Hub)."
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
    encoding: Literal["utf-8", "cp932", "euc_jp"] = option("utf-8", "Encoding of .txt and .jsonl files.")
    clean: list[CleanRule] = option(
        default_factory=list, help="Cleaning rules in order: names, or entries with thresholds; see docs/data.md."
    )
    exclude: str | None = option(None, "Drop list that `jpllm data dedup` made of this source.")
    max_rows: int | None = option(None, "Read no more rows than this.", minimum=1)
    max_bytes: int | None = option(None, "Stop once this many UTF-8 bytes of text were read.", minimum=1)
    max_characters: int = option(4_000_000, "Longest text of one row; a longer one is taken for a mistake.", minimum=1)
    max_bad_fraction: float = option(
        0.001, "Largest share of rows that cannot be read; above it, an error shows the first.", minimum=0, maximum=1
    )
    subset: str | None = option(None, "Configuration of the Hub dataset, such as 20231101.ja.")
    split: str = option("train", "Split of the Hub dataset.")
    revision: str | None = option(None, "Commit or tag of the Hub dataset; name one to make a run reproducible.")
    licence: str | None = option(None, "Licence of the texts, for the model card.")

    def check(self) -> Iterator[tuple[str, str]]:
        """A name that is no file name, and settings that would be ignored."""
        if "/" in self.label:
            yield "name", f"{self.label!r} is used as a file name and cannot have a /; give the source another name"
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
        """True for a dataset of the Hugging Face Hub, streamed by `datasets` or read file by file."""
        return self.path.startswith(HUB_PREFIX)

    @property
    def has_wikitext(self) -> bool:
        """True if wikitext becomes plain text: by the rule `wikipedia`, or as pages of a dump, which need no rule."""
        return any(rule.rule == wikipedia.__name__ for rule in self.clean) or _has_wiki_dump(self.path)

    def rules_for(self, text: str) -> list[CleanRule]:
        """Return the rules for a text of `read_texts`: `wikipedia` comes first for wikitext, unless `clean` has it."""
        if not isinstance(text, Wikitext) or any(rule.rule == wikipedia.__name__ for rule in self.clean):
            return self.clean
        return [CleanRule(wikipedia.__name__), *self.clean]

    @property
    def label(self) -> str:
        """The name given, or the last part of the path without its suffix."""
        if self.name:
            return self.name
        if self.is_hub:
            owner_and_name = self.path.removeprefix(HUB_PREFIX).split("/")[:2]
            return "-".join(filter(None, [owner_and_name[-1], self.subset]))
        return without_suffix(Path(self.path).resolve().name)


@dataclass
class ReadProgress:
    """Bytes read so far of the files on disk, for a progress bar; `total_bytes` is None when unknown."""

    bytes_read: int = 0
    total_bytes: int | None = None


def without_suffix(file_name: str) -> str:
    """The name without the longest of the readable suffixes that it ends with."""
    longest_first = sorted(SUFFIXES, key=len, reverse=True)
    return next((file_name.removesuffix(suffix) for suffix in longest_first if file_name.endswith(suffix)), file_name)


def find_files(path: str | Path) -> list[Path]:
    """The readable files of a local path, sorted. Raises InputError if there are none."""
    path = Path(path)
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise InputError(f"{path}: unknown file type; readable are {', '.join(SUFFIXES)}")
        return [path]
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder (a dataset of the Hugging Face Hub is written {HUB_PREFIX}owner/name)"
        )
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
    if not files:
        raise InputError(f"{path}: the folder holds no readable file; readable are {', '.join(SUFFIXES)}")
    return files


def _has_wiki_dump(path: str) -> bool:
    files = find_files(path) if Path(path).is_dir() else [Path(path)]
    return any(file.name.endswith(WIKI_SUFFIXES) for file in files)


def read_texts(source: SourceConfig, progress: ReadProgress | None = None) -> Iterator[str | BadRow]:
    """Yield the text of each row of `source` in a fixed order, uncleaned, blank ones included; bad rows in between.

    Pages of a wiki dump come as `Wikitext`; `prepare` makes plain text of them.

    Raises:
        InputError: a file that is missing or damaged, or a column that the first row does not have.
    """
    from jpllm.data.formats import read_rows
    from jpllm.data.rows import TextTaker

    taker = TextTaker(source)
    num_texts = num_bytes = 0
    for place, row in read_rows(source, taker.top_columns, progress or ReadProgress()):
        text = row if isinstance(row, BadRow) else taker.take(place, row)
        if text is None:  # not a row that `where` asks for
            continue
        yield text
        if isinstance(text, str):
            num_texts += 1
            num_bytes += len(text.encode("utf-8")) if source.max_bytes else 0
        if num_texts == source.max_rows or (source.max_bytes and num_bytes >= source.max_bytes):
            return


def prepare(source: SourceConfig, texts: Iterable[str]) -> Iterator[Cleaned]:
    """The documents that texts of `read_texts` become by the rules of `source`."""
    return (clean(text, source.rules_for(text)) for text in texts)


def read_documents(source: SourceConfig, progress: ReadProgress | None = None) -> Iterator[str]:
    """Yield the cleaned documents of `source` in a fixed order, without blank ones, those that a rule drops, and those
    of its drop list.

    Raises:
        InputError: what `read_texts` raises, and more bad rows than `max_bad_fraction`, after the last document.
    """
    return (text for _, text in numbered_documents(source, progress))


def numbered_documents(source: SourceConfig, progress: ReadProgress | None = None) -> Iterator[tuple[int, str]]:
    """Yield what `read_documents` does, each with the position (from 0) that it has in a drop list."""
    from jpllm.data.drop_list import excluded_documents

    quarantine = Quarantine(source.label, source.max_bad_fraction)

    def good_texts() -> Iterator[str]:
        for text in read_texts(source, progress):
            quarantine.add(text)
            if isinstance(text, str):
                yield text

    duplicates = excluded_documents(source)
    for index, document in enumerate(prepare(source, good_texts())):
        if document.text is not None and index not in duplicates:
            yield index, document.text
    quarantine.refuse_too_many()


def documents_in_place(source: SourceConfig) -> Iterator[str]:
    """Yield the document of each text of `read_texts`, empty where a rule drops it, so that positions stay."""
    texts = (text for text in read_texts(source) if isinstance(text, str))
    return (document.text or "" for document in prepare(source, texts))


def write_jsonl(rows: Iterable[dict], file: Path) -> None:
    """Write one JSON object a line, atomically; the folder is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    partial.replace(file)
