"""Tokenise and pack a corpus four ways, side by side: seconds, disk and memory as ratios of one run.

  python benchmarks/data_prep.py --input aozora.jsonl.gz --tokenizer runs/tok --output benchmarks/data_prep.md

Each way runs in a process of its own, the four in turn, `--repeats` times; medians are compared. What is timed is the
way from the file to blocks that can be trained on, without imports and loading of the tokenizer. Memory is the peak of
the process (and the largest of its children) above what it was before the work. The second corpus is the first one's
paragraphs as documents of their own. With `--memory`, ours is also run on ten copies of the corpus.

  blog           the loop of many tutorials: one tokenizer call per document, slices of a list, Dataset.from_generator
  run_clm        transformers' example: datasets.map in batches and two processes, then group_texts
  fast           jpllm without a SentencePiece model at hand
  sentencepiece  jpllm with it
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

WAYS = ("blog", "run_clm", "fast", "sentencepiece")
BLOCK_TOKENS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help=".jsonl.gz with a column text")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder from `jpllm tokenizer train`")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="also the memory at ten times the corpus")
    parser.add_argument("--output", type=Path, help="Markdown report")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.worker, arguments.input, arguments.tokenizer)))
        return
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        report = compare(arguments, Path(scratch))
    print(report)
    if arguments.output:
        arguments.output.write_text(report, encoding="utf-8")


def compare(arguments: argparse.Namespace, scratch: Path) -> str:
    """Run everything; returns the report in Markdown."""
    bare = scratch / "fast-tokenizer"  # the same tokenizer without its SentencePiece model
    shutil.copytree(arguments.tokenizer, bare, ignore=shutil.ignore_patterns("*.model"))
    tokenizers = dict.fromkeys(WAYS, bare) | {"sentencepiece": arguments.tokenizer}
    corpora = {"long documents": arguments.input, "paragraphs": scratch / "paragraphs.jsonl.gz"}
    write_paragraphs(arguments.input, corpora["paragraphs"])
    lines = [
        f"# Preparing a corpus four ways ({time.strftime('%Y-%m-%d')})",
        "",
        f"{arguments.input.name}, {arguments.repeats} interleaved runs, medians; {platform.machine()}, "
        f"{cores()} cores, Python {platform.python_version()}; commit {commit()}.",
    ]
    for name, corpus in corpora.items():
        runs: dict[str, list[dict]] = {way: [] for way in WAYS}
        for _ in range(arguments.repeats):
            for way in WAYS:
                runs[way].append(run_worker(way, corpus, tokenizers[way]))
                print(name, way, runs[way][-1], file=sys.stderr, flush=True)
        lines += ["", f"## {name}", "", *table(runs)]
    if arguments.memory:
        lines += ["", "## Memory at ten times the corpus", "", *memory_lines(arguments, scratch)]
    return "\n".join(lines) + "\n"


def table(runs: dict[str, list[dict]]) -> list[str]:
    """A row for each way, speeds as ratios to the tutorials' loop and to run_clm."""
    seconds = {way: statistics.median(run["seconds"] for run in results) for way, results in runs.items()}
    rows = [
        "| way | seconds | tokens/s | × blog | × run_clm | bytes per token | peak memory, MB | tokens kept |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for way, results in runs.items():
        tokens = results[0]["tokens"]
        rows.append(
            f"| {way} | {seconds[way]:.2f} | {tokens / seconds[way]:,.0f} | {seconds['blog'] / seconds[way]:.1f} | "
            f"{seconds['run_clm'] / seconds[way]:.1f} | {results[0]['disk_bytes'] / tokens:.2f} | "
            f"{statistics.median(run['peak_mb'] for run in results):.0f} | {tokens:,} |"
        )
    return rows


def memory_lines(arguments: argparse.Namespace, scratch: Path) -> list[str]:
    """Peak memory of ours on the corpus and on ten copies of it."""
    folder = scratch / "ten"
    folder.mkdir()
    for number in range(10):
        shutil.copyfile(arguments.input, folder / f"{number}.jsonl.gz")
    once = run_worker("sentencepiece", arguments.input, arguments.tokenizer)
    tenfold = run_worker("sentencepiece", folder, arguments.tokenizer)
    return [
        f"{once['peak_mb']:.0f} MB for {once['tokens']:,} tokens, {tenfold['peak_mb']:.0f} MB for "
        f"{tenfold['tokens']:,}: a ratio of {tenfold['peak_mb'] / once['peak_mb']:.2f}."
    ]


def run_worker(way: str, corpus: Path, tokenizer: Path) -> dict:
    """One way in a process of its own."""
    command = [sys.executable, __file__, "--worker", way, "--input", str(corpus), "--tokenizer", str(tokenizer)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(way: str, corpus: Path, tokenizer_dir: Path) -> dict:
    """Prepare the corpus one way in this process; seconds, tokens, bytes on disk and peak memory."""
    import datasets

    from jpllm.data.shards import pack  # noqa: F401
    from jpllm.tokenizer.load import load

    datasets.disable_progress_bars()
    tokenizer = load(tokenizer_dir)
    tokenizer("温める")
    before = peak_mb()
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        started = time.perf_counter()
        tokens, folder = PREPARATIONS[way](corpus, tokenizer, tokenizer_dir, Path(scratch))
        seconds = time.perf_counter() - started
        disk_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"seconds": seconds, "tokens": tokens, "disk_bytes": disk_bytes, "peak_mb": peak_mb() - before}


def blog(corpus: Path, tokenizer, _: Path, scratch: Path) -> tuple[int, Path]:
    """One call per document, a list of all ids, slices of it."""
    import datasets

    ids: list[int] = []
    for text in texts(corpus):
        ids.extend(tokenizer(text)["input_ids"])
        ids.append(tokenizer.eos_token_id)

    def blocks():
        for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            block = ids[start : start + BLOCK_TOKENS]
            yield {"input_ids": block, "labels": block}

    dataset = datasets.Dataset.from_generator(blocks, cache_dir=str(scratch / "cache"))
    dataset.save_to_disk(scratch / "blocks")
    return len(dataset) * BLOCK_TOKENS, scratch / "blocks"


def run_clm(corpus: Path, tokenizer, _: Path, scratch: Path) -> tuple[int, Path]:
    """`map` in batches, then `group_texts`, as in transformers' examples/pytorch/language-modeling/run_clm.py."""
    import datasets

    rows = datasets.load_dataset("json", data_files=str(corpus), split="train", cache_dir=str(scratch / "cache"))

    def tokenize(batch):
        return {"input_ids": [[*ids, tokenizer.eos_token_id] for ids in tokenizer(batch["text"])["input_ids"]]}

    def group(batch):
        ids = [token for row in batch["input_ids"] for token in row]
        end = len(ids) // BLOCK_TOKENS * BLOCK_TOKENS
        blocks = [ids[start : start + BLOCK_TOKENS] for start in range(0, end, BLOCK_TOKENS)]
        return {"input_ids": blocks, "labels": [list(block) for block in blocks]}

    encoded = rows.map(tokenize, batched=True, num_proc=2, remove_columns=rows.column_names)
    dataset = encoded.map(group, batched=True, num_proc=2)
    dataset.save_to_disk(scratch / "blocks")
    return len(dataset) * BLOCK_TOKENS, scratch / "blocks"


def ours(corpus: Path, tokenizer, tokenizer_dir: Path, scratch: Path) -> tuple[int, Path]:
    """Token shards, from which blocks are cut when they are read."""
    from jpllm.data.blocks.dataset import BlockDataset
    from jpllm.data.read.sources import SourceConfig
    from jpllm.data.shards.pack import pack
    from jpllm.data.shards.token_shards import TokenShards
    from jpllm.tokenizer.encoder import corpus_encoder

    encoder = corpus_encoder(tokenizer, tokenizer_dir)
    directory = pack(SourceConfig(str(corpus)), encoder, scratch / "shards", held_out_fraction=0)
    return BlockDataset([TokenShards(directory)], BLOCK_TOKENS).num_blocks * BLOCK_TOKENS, directory


PREPARATIONS = {"blog": blog, "run_clm": run_clm, "fast": ours, "sentencepiece": ours}


def texts(corpus: Path) -> Iterator[str]:
    with gzip.open(corpus, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)["text"]


def write_paragraphs(corpus: Path, file: Path) -> None:
    """Each line of each document as a document of its own."""
    with gzip.open(file, "wt", encoding="utf-8", compresslevel=1) as stream:
        for text in texts(corpus):
            stream.writelines(
                json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in text.split("\n") if line.strip()
            )


def peak_mb() -> float:
    """Largest memory so far of this process, and of its largest child, in MB."""
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def cores() -> int:
    from jpllm import runtime

    return runtime.num_cores()


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
