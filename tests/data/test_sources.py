import gzip
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from jpllm.data.sources import ReadProgress, SourceConfig, content_hash, find_files, read_documents, write_jsonl
from jpllm.runtime import InputError


def zstd(data: bytes) -> bytes:
    return pyarrow.compress(data, codec="zstd", asbytes=True)


TEXTS = ["一つ目。\n　二行目。", "二つ目", "", "𠮷野家\t🍺"]
JSONL = "".join(json.dumps({"text": text, "n": 1}, ensure_ascii=False) + "\n" for text in TEXTS).encode()


def read(path: Path, **settings: str) -> list[str]:
    return list(read_documents(SourceConfig(str(path), **settings)))


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", lambda b: zstd(b)),
    ],
)
def test_jsonl_plain_and_compressed(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(JSONL))
    assert read(tmp_path / name) == TEXTS


def test_zstd_of_several_frames_is_read_to_the_end(tmp_path):
    frames = [zstd(line + b"\n") for line in JSONL.splitlines()]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert read(tmp_path / "a.jsonl.zst") == TEXTS


def test_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"body": TEXTS * 100, "n": [1] * 400}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", text_column="body") == TEXTS * 100


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("file", ["一\n二\n\n\n三\n"]),
        ("line", ["一", "二", "", "", "三"]),
        ("paragraph", ["一\n二", "", "三\n"]),
    ],
)
def test_what_a_document_of_a_txt_file_is(tmp_path, document, expected):
    (tmp_path / "a.txt").write_bytes("\ufeff一\r\n二\r\n\r\n\r\n三\r\n".encode())
    assert read(tmp_path / "a.txt", document=document) == expected


def test_folder_is_read_in_order_of_paths(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.txt", "notes.md"):
        (tmp_path / name).write_text(name)
    assert read(tmp_path) == ["a.txt", "b.txt", "sub/c.txt"]


def test_progress_counts_the_bytes_on_disk(tmp_path):
    data = gzip.compress(JSONL)
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    progress = ReadProgress()
    list(read_documents(SourceConfig(str(tmp_path)), progress))
    assert (progress.bytes_read, progress.total_bytes) == (len(data), len(data))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe3\x81"}\n', "a.jsonl:2: invalid UTF-8: byte 0xe3 at position 10"),
        ("a.jsonl", b'{"text": "a"}\n{"text"\n', "a.jsonl:2: not a JSON object"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: expected a JSON object"),
        ("a.jsonl", b'{"body": "a", "n": 1}\n', "a.jsonl:1: no column 'text'; the row has body, n (set text_column)"),
        ("a.jsonl", b'{"text": 5}\n', "a.jsonl:1: column 'text' holds 5, not a text"),
        ("a.jsonl", b'{"text": null}\n', "a.jsonl:1: column 'text' holds null, not a text"),
        ("a.jsonl", b'{"text": "a\\ud800"}\n', "a.jsonl:1: lone surrogate \\ud800 at character 1"),
        ("a.txt", b"abc\n\xff\n", "a.txt:2: invalid UTF-8: byte 0xff at position 0"),
        ("a.jsonl.gz", gzip.compress(JSONL)[:-20], "a.jsonl.gz:"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz:1: damaged or incomplete compressed file"),
        ("a.jsonl.zst", zstd(JSONL)[:-9], "a.jsonl.zst:"),
        ("a.jsonl.zst", b"no zstd", "a.jsonl.zst:1: damaged or incomplete compressed file"),
        ("a.parquet", b"no parquet", "a.parquet: not a readable Parquet file"),
        ("a.csv", b"text\na\n", "a.csv: unknown file type; readable are .jsonl"),
    ],
)
def test_bad_input_names_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        read(tmp_path / name)


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(InputError, match=r"gone.jsonl: no such file or folder"):
        read(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match="the folder holds no readable file"):
        find_files(SourceConfig(str(tmp_path)))


def test_parquet_without_the_column(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column 'text'; it has body"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("source", "label"),
    [
        (SourceConfig("x/aozora.jsonl.gz"), "aozora"),
        (SourceConfig("x/folder"), "folder"),
        (SourceConfig("hf://wikimedia/wikipedia", subset="20231101.ja"), "wikipedia-20231101.ja"),
        (SourceConfig("x/a.txt", name="mine"), "mine"),
    ],
)
def test_label(source, label):
    assert source.label == label


def test_hub_settings_on_a_path_are_refused():
    problems = dict(SourceConfig("a.txt", subset="ja", revision="v1").check())
    assert list(problems) == ["subset", "revision"]
    assert "no effect" in problems["subset"]


def test_name_that_is_no_file_name_is_refused():
    ((key, message),) = SourceConfig("a.txt", name="wiki/ja").check()
    assert (key, message[:10]) == ("name", "'wiki/ja' ")


def test_content_hash_follows_the_bytes_and_not_the_name(tmp_path):
    for name, text in (("a.txt", "x"), ("b.txt", "x"), ("c.txt", "y")):
        (tmp_path / name).write_text(text)
    a, b, c = (content_hash(SourceConfig(str(tmp_path / name))) for name in ("a.txt", "b.txt", "c.txt"))
    assert a == b != c


def test_write_jsonl_leaves_nothing_half_written(tmp_path):
    def rows():
        yield {"text": "あ"}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_jsonl(rows(), tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()
    write_jsonl([{"text": "あ"}], tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == '{"text": "あ"}\n'


def test_hub_dataset_is_streamed(monkeypatch):
    import datasets

    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return datasets.Dataset.from_dict({"body": TEXTS}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = SourceConfig("hf://owner/name", subset="ja", split="test", revision="v1", text_column="body")
    assert list(read_documents(source)) == TEXTS
    assert calls == [(("owner/name", "ja"), {"split": "test", "revision": "v1", "streaming": True})]
    with pytest.raises(InputError, match=r"hf://owner/name: row 1: no text in column 'text'; the columns are body"):
        list(read_documents(SourceConfig("hf://owner/name")))


def test_hub_dataset_out_of_reach():
    with pytest.raises(InputError, match=r"hf://owner/no-such-name: the Hub dataset cannot be read: "):
        list(read_documents(SourceConfig("hf://owner/no-such-name")))
