"""Record what a user sees of a checkout, and compare two recordings: has a restructuring changed anything?

  python benchmarks/unchanged.py record --output_dir /tmp/before       of the checkout that this file lies in
  python benchmarks/unchanged.py compare /tmp/before /tmp/after

  cp benchmarks/unchanged*.py /tmp                                     of an older commit, with copies
  python /tmp/unchanged.py record --checkout OLD_CHECKOUT --output_dir /tmp/before

`record` runs every recipe for a few steps in fp32 (also LoRA, an encoder, a frozen classifier), packing with cleaning
rules, plans, cards, comparisons, JGLUE on stand-in files, answers and all `--help` pages: about three minutes on two
quiet cores. Recordings to be compared are made on one machine with one set of libraries.

`compare` prints a row for each file, and exits with code 1 if something differs. Of weights, token shards and
tokenizers every byte counts; of JSON and JSON lines (metrics, samples, answers, held-out texts, results) every value;
of cards, pages, tables and printed text every number in its order, while words may change; of `--help` every key with
its type and its default. What differs between two recordings of one commit is left out: `VOLATILE_KEYS`,
`UNORDERED_KEYS`, `VOLATILE_ROWS` and `VOLATILE_TEXT` say what, and why. Pictures need only be there: they are drawn
from the metrics, partly over time.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

VOLATILE_KEYS = {  # of JSON
    "training_seconds": "time",
    "hours": "time",
    "started": "time",
    "clock": "times of a curve",
    "made": "time of a page",
    "tokens_per_second": "rate",
    "peak_host_bytes": "measured memory",
    "commit": "code",
    "versions": "versions of libraries, and of this package",
    "transformers_version": "version",
    "logs": "size of files with times in them, which are compared themselves",
    "files": "size and hash of the files of a checkpoint, which are compared themselves",
}
UNORDERED_KEYS = {"target_modules": "peft writes a set"}
VOLATILE_ROWS = ("training time", "tokens per second", "peak host memory", "commit", "started", "versions")  # of pages
VOLATILE_TEXT = {  # of printed text, Markdown and HTML
    r"^\[\d{4}-\d\d-\d\d .*$": "log line of a library, with a time",
    r"\b[0-9a-f]{40}(-dirty)?\b": "commit",
    r"\bjpllm \d+(\.\d+)+": "version of this package",
    r"^\| (training time|tokens per second) \|.*$": "time and rate",
    r"tokens/s [\d,.]+": "rate of a run; what was planned stands before the unit, and is compared",
    r"[\d.]+ \w+ of training": "time",
    r"学習時間 [\d.]+": "time",
    r"[\d.,]+ [KMG]iB(?=,? \(?planned)": "measured memory; what was planned is compared",
    r"(?<=GB) +[\d.,]+ GB": "free space on this disk, behind what is needed of it",
    r"[\d.]+ MB$": "size of a page, in which words may change",
}
NUMBER = re.compile(r"(?<![A-Za-z_\d.,])(?<![A-Za-z_]-)[-+−]?\d+(?:[.,:]\d+)*(?:e[-+]?\d+)?")
HELP_KEY = re.compile(r"^ {2}((?:--)?\w+): (.*); (required|default .*)$", re.MULTILINE)
PICTURES = (".png",)
PATHS = ".paths.json"


class Digits(str):
    """A number of a JSON file, as it is written there."""

    __slots__ = ()


@dataclass(frozen=True)
class Row:
    """What came of an item; `difference` is the first one, and empty where all is the same."""

    item: str
    verdict: str
    difference: str = ""


def compare(before: Path, after: Path) -> list[Row]:
    """Compare each file of two recordings."""
    files, others = recorded_files(before), recorded_files(after)
    paths, other_paths = recorded_paths(before), recorded_paths(after)
    rows = []
    for item in sorted({**files, **others}):
        if item not in others or item not in files:
            verdict = "missing" if item in files else "new"
            rows.append(Row(item, verdict, f"only in {before if item in files else after}"))
            continue
        rows.append(row_of(item, first_difference(files[item], others[item], paths, other_paths)))
    rows.append(row_of("names of shard folders", first_of(differences(shard_names(files), shard_names(others)))))
    return rows


def row_of(item: str, difference: str) -> Row:
    return Row(item, "DIFFERS" if difference else "same", difference)


def shard_names(files: dict[str, Path]) -> list[str]:
    """Return the names of shard folders, whose fingerprints decide whether texts have to be packed again."""
    return [f"{file.parent.parent.name}/{file.parent.name}" for file in files.values() if file.name == "tokens.bin"]


def recorded_files(folder: Path) -> dict[str, Path]:
    """Return the files of a recording that are compared, by path; without the fingerprints of shard folders.

    Left out are locks and other hidden files, and the log of each command: its progress, with times.
    """
    found = {}
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder)
        if file.is_file() and not any(name.startswith(".") for name in path.parts) and file.suffix != ".log":
            found[re.sub(r"-[0-9a-f]{12}/", "-*/", path.as_posix())] = file
    if not found:
        raise SystemExit(f"{folder} holds no recording")
    return found


def recorded_paths(folder: Path) -> list[str]:
    """Return the paths of a recording and of its checkout at the time when it was made."""
    return json.loads((folder / PATHS).read_text(encoding="utf-8"))


def first_difference(before: Path, after: Path, paths: list[str], other_paths: list[str]) -> str:
    """Say in what two files differ first; "" where what counts of them is the same, but for the paths."""
    suffix = before.suffix
    if suffix in PICTURES:
        return ""
    if before.read_bytes() == after.read_bytes():
        return ""
    if suffix == ".safetensors":
        return first_tensor(before, after)
    if suffix not in (".json", ".jsonl", ".yaml", ".html", ".md", ".txt"):
        return first_byte(before.read_bytes(), after.read_bytes())
    texts = [
        without_paths(file.read_text(encoding="utf-8"), own) for file, own in ((before, paths), (after, other_paths))
    ]
    if suffix == ".jsonl":
        return first_of(json_line_differences(*texts))
    if suffix == ".json":
        return first_of(differences(*map(parse_json, texts)))
    if suffix == ".yaml":
        return first_of(differences(*map(yaml_blocks, texts)))
    if before.parent.name == "help":
        return first_of(differences(*map(help_keys, texts)))
    return number_difference(*(page_text(text) if suffix == ".html" else text for text in texts))


def without_paths(text: str, paths: list[str]) -> str:
    """Return a text in which each of the paths, in their order, stands as a name that all recordings share."""
    for number, path in enumerate(paths):
        text = text.replace(path, f"<path {number}>")
    return text


def first_of(found: Iterator[str]) -> str:
    """Return the first of the differences, or "" where there is none."""
    return next(found, "")


def parse_json(text: str) -> object:
    """Read JSON without what is volatile; numbers keep their digits."""

    def stable(pairs: list[tuple[str, object]]) -> dict:
        kept = {key: value for key, value in pairs if key not in VOLATILE_KEYS}
        return kept | {key: sorted(kept[key]) for key in UNORDERED_KEYS if isinstance(kept.get(key), list)}

    return json.loads(text, object_pairs_hook=stable, parse_float=Digits, parse_int=Digits)


def json_line_differences(before: str, after: str) -> Iterator[str]:
    """Yield where JSON lines differ in values, in the order of keys or in their number."""
    lines = zip_longest(before.splitlines(), after.splitlines())
    for number, (line, other) in enumerate(lines, 1):
        if line is None or other is None:
            yield f"line {number}: only {'after' if line is None else 'before'}"
            return
        value, other_value = parse_json(line), parse_json(other)
        yield from differences(value, other_value, f"line {number}")
        if isinstance(value, dict) and list(value) != list(other_value):
            yield f"line {number}: order of the keys"


def differences(before: object, after: object, place: str = "") -> Iterator[str]:
    """Yield where two values of JSON differ; the order of keys does not count."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            name = f"{place} {key}".strip()
            if key in before and key in after:
                yield from differences(before[key], after[key], name)
            else:
                yield f"{name}: only {'before' if key in before else 'after'}"
    elif isinstance(before, list) and isinstance(after, list):
        for number, (value, other) in enumerate(zip(before, after, strict=False)):
            yield from differences(value, other, f"{place}[{number}]")
        if len(before) != len(after):
            yield f"{place}: {len(before)} → {len(after)} entries"
    elif type(before) is not type(after) or before != after:
        yield f"{place}: {short(before)} → {short(after)}".removeprefix(": ")


def yaml_blocks(text: str) -> dict[str, str]:
    """Return the lines of each key at the top of a YAML file, whose order does not count."""
    blocks = re.split(r"\n(?=[^\s#-])", text.strip())
    return {key: value for key, _, value in (block.partition(":") for block in blocks)}


def help_keys(text: str) -> dict[str, int]:
    """Return how often each key stands on a help page, by its name, type and default; sentences do not count."""
    return dict(Counter(": ".join(found) for found in HELP_KEY.findall(text)))


def page_text(text: str) -> str:
    """Return what an HTML page says: its text, and the data its script draws, without style and script themselves."""
    data = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    words = re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)
    drawn = [json.dumps(without_volatile_rows(parse_json(part)), ensure_ascii=False, sort_keys=True) for part in data]
    return "\n".join([html.unescape(words), *drawn])


def without_volatile_rows(value: object) -> object:
    """Return the data of a page without the rows of its tables that say how long and with what a run was made."""
    if isinstance(value, dict):
        return {key: without_volatile_rows(part) for key, part in value.items()}
    if isinstance(value, list):
        return [
            without_volatile_rows(part)
            for part in value
            if not (isinstance(part, dict) and part.get("title") in VOLATILE_ROWS)
        ]
    return value


def number_difference(before: str, after: str) -> str:
    """Say which number of two texts differs first; words may change."""
    for pattern in VOLATILE_TEXT:
        before, after = (re.sub(pattern, " ", text, flags=re.MULTILINE) for text in (before, after))
    pairs = zip_longest(NUMBER.finditer(before), NUMBER.finditer(after))
    for count, (number, other) in enumerate(pairs, 1):
        if number is None or other is None or number[0] != other[0]:
            return f"number {count}: {around(before, number)} → {around(after, other)}"
    return ""


def around(text: str, number: re.Match[str] | None) -> str:
    """Return a number with the words before it, on one line."""
    return " ".join(text[max(0, number.start() - 25) : number.end()].split()) if number else "none"


def first_byte(before: bytes, after: bytes) -> str:
    """Say at which byte two contents differ first; "" where they do not."""
    pairs = enumerate(zip_longest(before, after))
    place = next((place for place, (byte, other) in pairs if byte != other), None)
    return "" if place is None else f"byte {place:,} of {len(before):,} and {len(after):,}"


def first_tensor(before: Path, after: Path) -> str:
    """Say which tensor of two safetensors files differs first, or that their headers do."""
    contents = [file.read_bytes() for file in (before, after)]
    headers = [json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]) for content in contents]
    for difference in differences(*headers):
        return f"header {difference}"
    start = 8 + int.from_bytes(contents[0][:8], "little")
    for name, facts in headers[0].items():
        if name != "__metadata__":
            begin, end = (start + offset for offset in facts["data_offsets"])
            if place := first_byte(*(content[begin:end] for content in contents)):
                return f"{name}: {place}"
    return first_byte(*contents)


def short(value: object) -> str:
    """Return a value of JSON, cut to a length that fits into a table."""
    text = value if isinstance(value, Digits) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"


def print_table(rows: list[Row]) -> None:
    """Print a row for each item, and how many of them are the same."""
    width = max(len(row.item) for row in rows)
    for row in rows:
        print(f"{row.item:<{width}}  {row.verdict:<7}  {row.difference}".rstrip())
    num_same = sum(row.verdict == "same" for row in rows)
    print(f"\n{num_same} of {len(rows)} items are the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    recorder = verbs.add_parser("record", help="run all commands, and keep what they write")
    recorder.add_argument("--output_dir", type=Path, required=True, help="new folder of the recording")
    recorder.add_argument("--checkout", type=Path, default=Path(__file__).parent.parent, help="code to run")
    comparer = verbs.add_parser("compare", help="compare two recordings; exit code 1 if something differs")
    comparer.add_argument("before", type=Path)
    comparer.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "record":
        from unchanged_recording import record  # comparing needs nothing of it

        num_broken = record(arguments.checkout, arguments.output_dir)
        sys.exit(f"{num_broken} commands broke" if num_broken else 0)
    rows = compare(arguments.before, arguments.after)
    print_table(rows)
    sys.exit(int(any(row.verdict != "same" for row in rows)))


if __name__ == "__main__":
    main()
