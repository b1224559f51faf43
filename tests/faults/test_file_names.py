"""Names of files that are no UTF-8, of 250 bytes, or with line breaks: commands write their records all the same."""

import json
import os
from pathlib import Path

import pytest

from jpllm.cli import main
from jpllm.data.read.files import label_of, printable
from jpllm.data.read.sources import SourceConfig

ROWS = "".join(f'{{"text": "これは{n}番目の短い文です。"}}\n' for n in range(30)) + '{"text": 1}\n'
NAMES = {
    "no UTF-8": os.fsdecode("日本".encode("cp932") + b".jsonl"),
    "long": "a" * 244 + ".jsonl",
    "long in kanji": "漢" * 81 + ".jsonl",
    "line break": "a\nb.jsonl",
    "escape": "a\x1b[31mb\r.jsonl",
    "line separator": "a\u2028b.jsonl",
}


def is_possible(folder: Path, name: str) -> bool:
    try:
        (folder / name).write_text(ROWS, encoding="utf-8")
    except OSError:  # a file system that takes UTF-8 only, say
        return False
    return True


@pytest.fixture(params=NAMES, ids=list(NAMES))
def file(request, tmp_path):
    (tmp_path / "texts").mkdir()
    if not is_possible(tmp_path / "texts", NAMES[request.param]):
        pytest.skip("this file system has no such names")
    return tmp_path / "texts" / NAMES[request.param]


@pytest.mark.parametrize("is_folder", [True, False])
def test_pack_dedup_and_preview(file, tmp_path, tokenizer_dir, capfd, is_folder):
    path = file.parent if is_folder else file
    source = f"{{path: {json.dumps(str(path))}, max_bad_fraction: 0.5}}"
    pack = ["data", "pack", "--sources", source, "--tokenizer", str(tokenizer_dir)]
    assert main([*pack, "--output_dir", str(tmp_path / "shards")]) == 0
    (quarantine,) = (tmp_path / "shards").glob("*/quarantine.jsonl")
    (row,) = map(json.loads, quarantine.read_text(encoding="utf-8").splitlines())
    assert row["place"] == f"{printable(file)}:31"
    assert row["place"].isprintable()
    assert json.loads((quarantine.parent / "meta.json").read_text(encoding="utf-8"))["size"]["num_bad_rows"] == 1
    assert main(["data", "dedup", "--sources", source, "--output_dir", str(tmp_path / "drop")]) == 0
    (drop_list,) = (tmp_path / "drop").iterdir()
    source = f"{source[:-1]}, exclude: {json.dumps(str(drop_list))}}}"
    assert main(["data", "pack", "--sources", source, "--tokenizer", str(tokenizer_dir),
                 "--output_dir", str(tmp_path / "shards")]) == 0  # fmt: skip
    page = tmp_path / "preview.html"
    assert main(["data", "preview", "--sources", source, "--output", str(page)]) == 0
    assert "30 of 31 rows kept" in page.read_text(encoding="utf-8")
    capfd.readouterr()


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("a\nb.jsonl", "a_b"),
        ("a\udc93\udcfa.txt", "a__"),
        ("空　白.txt", "空　白"),
        (".jsonl", "_"),
        ("x" * 200 + ".txt", "x" * 200),
    ],
)
def test_labels_can_be_names_of_files(path, label):
    assert SourceConfig(path).label == label


def test_long_labels_differ_and_leave_room():
    labels = {label_of("漢" * 80 + end) for end in "あいう"}
    assert len(labels) == 3
    assert all(len(label.encode()) <= 200 for label in labels)


@pytest.mark.parametrize("name", ["a\nb", "x" * 201, "a\udcff"])
def test_names_that_are_given_are_refused_before_the_work(name):
    ((key, message),) = SourceConfig("a.txt", name=name).check()
    assert (key, message.isprintable()) == ("name", True)
