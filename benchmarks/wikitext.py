"""Seconds of `jpllm data pack` per GB of a wiki dump, of the same wikitext as JSON lines, and of plain text.

  python benchmarks/wikitext.py --input aozora.jsonl.gz --tokenizer runs/tok

The dump is drawn with a seed: sentences of the input between the markup of an encyclopedia, with boxes, notes, links,
tables, lists, and one page in a hundred with brackets that are never closed. The plain text is the input itself.
Each is packed by one process with the rules of recipes/configs/sources/wikipedia.yaml; the time is that of computing,
from the start of the command to its end, so loading and encoding are in it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

RULES = ["control_characters", "wikipedia", "whitespace", {"rule": "length", "at_least": 100}]
_NOTE = "<ref>{{{{Cite web|url=https://a.example/{0}|title=題{0}|date=2020-01-01|publisher=社}}}}</ref>"
_BOX = (
    "{{{{基礎情報 山\n|名称 = {0}\n|画像 = [[ファイル:{0}.jpg|250px]]\n|標高 = {{{{convert|{1}|m}}}}\n"
    "|所在 = [[日本]]\n}}}}\n"
)
_TABLE = '{{| class="wikitable"\n|-\n! 年 !! 数\n|-\n| 1990 || {0}\n|-\n| 2000 || [[{1}]]\n|}}\n'
_INLINE = (
    *("[[{0}]]", "[[{0} (曖昧)|{0}]]", "'''{0}'''", "{{{{仮リンク|{0}|en|A}}}}", "{{{{lang|en|word}}}}"),
    *("{{{{要出典|date=2020年}}}}", "{{{{ruby|{0}|よみ}}}}", "{{{{謎|{0}}}}}", "{{{{formatnum:12345}}}}"),
    *("x<sup>2</sup>", "<small>{0}</small>", "A&nbsp;B"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help=".jsonl.gz with a column text")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=20, help="size of each file")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    num_bytes = arguments.megabytes * 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        files = written_files(arguments.input, num_bytes, Path(folder))
        print("| file | MB | seconds of each run | seconds per GB, median |\n| --- | ---: | --- | ---: |")
        for file in files:
            seconds = [packing_seconds(file, arguments.tokenizer) for _ in range(arguments.repeats)]
            size = file.stat().st_size / 1e9
            runs = ", ".join(f"{value:.1f}" for value in seconds)
            print(f"| {file.name} | {size * 1000:.1f} | {runs} | {statistics.median(seconds) / size:.0f} |", flush=True)


def written_files(corpus: Path, num_bytes: int, folder: Path) -> list[Path]:
    """The dump, its pages as JSON lines, and the plain text, of about `num_bytes` each."""
    files = [folder / name for name in ("dump.xml", "pages.jsonl", "plain.jsonl")]
    with gzip.open(corpus, "rt", encoding="utf-8") as stream:
        texts = [json.loads(line)["text"] for line in stream]
    wikitext = list(up_to(num_bytes, pages(texts, random.Random(0))))
    body = "".join(
        f"<page><title>{number}</title><ns>0</ns><revision><text>{escape(page)}</text></revision></page>\n"
        for number, page in enumerate(wikitext)
    )
    files[0].write_text(f"<mediawiki>{body}</mediawiki>", encoding="utf-8")
    for file, rows in ((files[1], wikitext), (files[2], up_to(num_bytes, iter(texts)))):
        lines = (json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows)
        file.write_text("".join(lines), encoding="utf-8")
    return files


def up_to(num_bytes: int, texts: Iterator[str]) -> Iterator[str]:
    """Texts until they have `num_bytes` together."""
    for text in texts:
        if num_bytes <= 0:
            return
        num_bytes -= len(text.encode())
        yield text


def pages(texts: list[str], chance: random.Random) -> Iterator[str]:
    """Pages of about 40 sentences with markup, as long as there are texts."""
    for text in texts:
        sentences = re.findall(r"[^。\n]+。", text)
        for start in range(0, len(sentences), 40):
            word = f"語{chance.randrange(10_000)}"
            body = [_BOX.format(word, chance.randrange(4000)), f"'''{word}'''（よみ、{{{{lang-en|Word}}}}）は、"]
            for number, sentence in enumerate(sentences[start : start + 40]):
                place = chance.randrange(len(sentence))
                inline = "".join(chance.choice(_INLINE).format(word) for _ in range(chance.randrange(3)))
                note = _NOTE.format(number) if chance.random() < 0.3 else ""
                body.append(sentence[:place] + inline + sentence[place:] + note)
                if number % 8 == 7:
                    body.append(f"\n\n== 節{number} ==\n" + (_TABLE.format(number, word) if number % 16 == 7 else "* "))
            broken = "{{壊れた箱\n| a = [[" if chance.random() < 0.01 else ""
            ending = "\n== 脚注 ==\n{{reflist}}\n== 関連項目 ==\n* [[山]]\n{{DEFAULTSORT:よみ}}\n[[Category:山]]\n"
            yield broken + "".join(body) + ending


def packing_seconds(file: Path, tokenizer: Path) -> float:
    """Seconds of computing that `jpllm data pack` takes."""
    source = json.dumps({"path": str(file), "clean": RULES})
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as shards:
        command = [sys.executable, "-m", "jpllm.cli", "data", "pack", "--sources", source]
        command += ["--tokenizer", str(tokenizer), "--output_dir", shards, "--processes", "1"]
        subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
