"""Benchmark items planted in a corpus: are all found, and no other? Seconds, characters a second and peak memory.

  python benchmarks/contamination.py --input aozora.jsonl.gz --benchmarks jglue/*/valid-*.json

Fifty items, drawn from all files, are put into documents of the corpus, between two of its sentences: as text, as a
line of JSON, as a prompt with its answer, and in full-width letters with line breaks. The paragraph of an item is left
out. Then `jpllm data contamination` runs as typed. From the other items 200 are drawn; one with a text that is in the
corpus all the same, letter for letter by a plain search, is drawn again. Time and memory are also measured on the
whole input.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jpllm import runtime
from jpllm.data.dedup.minhash import comparable
from jpllm.evaluation.contamination.benchmarks import BenchmarkConfig, Item, read_benchmark

NUM_PLANTED, NUM_OTHERS = 50, 200
Named = tuple[str, Item]  # with the name of its benchmark


class Figures(NamedTuple):
    """What a search took, from the start of its process to its end."""

    seconds: float
    cpu_seconds: float
    characters: int
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help=".jsonl.gz with a column text")
    parser.add_argument("--benchmarks", nargs="+", required=True)
    parser.add_argument("--characters", type=int, default=20_000_000, help="length of the corpus with the items")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="Markdown report")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        lines = report(arguments, Path(scratch))
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


def report(arguments: argparse.Namespace, scratch: Path) -> list[str]:
    """Plant, search and count; returns the report in Markdown."""
    chance = random.Random(arguments.seed)
    items = [
        (b.label, item) for b in map(read_benchmark, map(BenchmarkConfig, arguments.benchmarks)) for item in b.items
    ]
    planted, rest = drawn_items(items, chance)
    documents = list(corpus(arguments.input, arguments.characters))
    plant(planted, documents, chance)
    file = scratch / "planted.jsonl"
    file.write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents), encoding="utf-8"
    )
    whole = "\n".join(map(comparable, documents))
    others: list[Named] = []
    num_present = 0
    for one in chance.sample(rest, len(rest)):
        is_present = any(comparable(text) in whole for text in one[1].texts)
        num_present += is_present
        others += [] if is_present else [one]
        if len(others) == NUM_OTHERS:
            break

    found, figures = search(file, arguments.benchmarks, scratch)
    hits = [sum((label, item.id) in found for label, item in group) for group in (planted, others)]
    _, of_input = search(arguments.input, arguments.benchmarks, scratch)
    return [
        f"# Benchmark items planted in a corpus ({time.strftime('%Y-%m-%d')})",
        "",
        f"{arguments.input.name}, {sum(map(len, documents)):,} characters; {len(items):,} items of "
        f"{len(arguments.benchmarks)} files; seed {arguments.seed}; {platform.machine()}, {runtime.num_cores()} cores, "
        f"Python {platform.python_version()}; commit {commit()}.",
        "",
        f"- planted: {hits[0]} of {len(planted)} found",
        f"- not planted and not in the corpus: {hits[1]} of {len(others)} found",
        f"- drawn again: {num_present:,}",
        "",
        "| corpus | seconds | of them computing | characters/s | peak memory, MB |",
        "| --- | ---: | ---: | ---: | ---: |",
        row("with the items", figures),
        row("the whole input", of_input),
    ]


def row(name: str, figures: Figures) -> str:
    speed = figures.characters / figures.seconds
    return f"| {name} | {figures.seconds:.1f} | {figures.cpu_seconds:.1f} | {speed:,.0f} | {figures.peak_mb:.0f} |"


def drawn_items(items: list[Named], chance: random.Random) -> tuple[list[Named], list[Named]]:
    """Items to plant, each file's share of them equal to the others', and the rest."""
    labels = sorted({label for label, _ in items})
    planted = []
    for number, label in enumerate(labels):
        count = len(range(number, NUM_PLANTED, len(labels)))
        planted += chance.sample([one for one in items if one[0] == label], count)
    names = {(label, item.id) for label, item in planted}
    return planted, [(label, item) for label, item in items if (label, item.id) not in names]


def corpus(file: Path, num_characters: int) -> Iterator[str]:
    """Documents of `file` from its beginning, the last one cut, of `num_characters` together."""
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        for line in stream:
            text = json.loads(line)["text"][:num_characters]
            num_characters -= len(text)
            yield text
            if num_characters == 0:
                return


def plant(items: list[Named], documents: list[str], chance: random.Random) -> None:
    """Put each item behind a sentence of a document of its own, in one of four forms after another."""
    for number, place in enumerate(chance.sample(range(len(documents)), len(items))):
        text, item = documents[place], items[number][1]
        end = text.find("。", chance.randrange(len(text))) + 1  # 0, the beginning, where none follows
        documents[place] = text[:end] + FORMS[number % len(FORMS)](item) + text[end:]


def as_text(item: Item) -> str:
    return "\n".join([*item.texts, *item.choices, *item.answers[:1]]) + "\n"


def as_json(item: Item) -> str:
    columns = {f"column{number}": text for number, text in enumerate([*item.texts, *item.choices, *item.answers[:1]])}
    return json.dumps(columns, ensure_ascii=False)


def as_prompt(item: Item) -> str:
    lines = [f"質問：{' / '.join(item.texts)}", "選択肢：", *(f"- {choice}" for choice in item.choices)]
    return "\n".join([*lines, f"回答：{''.join(item.answers[:1])}", ""])


def as_full_width(item: Item) -> str:
    wide = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)})
    text = as_text(item).translate(wide)
    return "\n".join(text[start : start + 11] for start in range(0, len(text), 11))


FORMS = (as_text, as_json, as_prompt, as_full_width)


def search(corpus_file: Path, benchmarks: list[str], scratch: Path) -> tuple[set[tuple[str, str]], Figures]:
    """The items found (benchmark, id) by the command in a process of its own, and what it took."""
    output = scratch / "found.json"
    command = ["data", "contamination", "--sources", str(corpus_file), "--output", str(output), "--benchmarks"]
    code = (
        "import resource, sys; from jpllm.cli import main; code = main(sys.argv[1:]);"
        "used = resource.getrusage(resource.RUSAGE_SELF);"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024); sys.exit(code)"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *command, *benchmarks], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    results = json.loads(output.read_text(encoding="utf-8"))
    found = {(benchmark["name"], item) for benchmark in results["benchmarks"] for item in benchmark["leave_out"]}
    cpu_seconds, peak_mb = map(float, done.stdout.split()[-2:])
    return found, Figures(seconds, cpu_seconds, sum(source["characters"] for source in results["sources"]), peak_mb)


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
