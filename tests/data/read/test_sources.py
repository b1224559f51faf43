import bz2
import gzip
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from jpllm.data.clean.pipeline import CleanRule
from jpllm.data.documents import documents_in_place, numbered_documents, read_documents
from jpllm.data.read.files import find_files
from jpllm.data.read.formats import ReadProgress
from jpllm.data.read.jsonl import write_jsonl
from jpllm.data.read.quarantine import BadRow
from jpllm.data.read.sources import SourceConfig
from jpllm.data.read.texts import read_texts
from jpllm.runtime import InputError


def zstd(data: bytes) -> bytes:
    return pyarrow.compress(data, codec="zstd", asbytes=True)


TEXTS = ["一つ目。\n　二行目。", "二つ目", "", "𠮷野家\t🍺"]
JSONL = "".join(json.dumps({"text": text, "n": 1}, ensure_ascii=False) + "\n" for text in TEXTS).encode()


def read(path: Path, **settings: object) -> list[str | BadRow]:
    return list(read_texts(SourceConfig(str(path), **settings)))


def write_rows(tmp_path: Path, *rows: object) -> SourceConfig:
    """A .jsonl source of these rows; a row of bytes is written as it is."""
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return SourceConfig(str(tmp_path / "a.jsonl"))


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
        ("a.jsonl", b'{"text": "a"}\n{"text"\n', "a.jsonl:2: not a JSON object: "),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: not a JSON object: [1]"),
        ("a.jsonl", b'{"text": "a", "text": "b"}\n', "a.jsonl:1: duplicate key in the JSON object: 'text'"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', "a.jsonl:2: no column 'text'"),
        ("a.jsonl", b'{"body": "a", "n": 1}\n', "a.jsonl:1: no column 'text'; the row has body, n (set text_column)"),
        ("a.jsonl", b'{"text": 5}\n', "a.jsonl:1: column 'text' holds no text: 5"),
        ("a.jsonl", b'{"text": null}\n', "a.jsonl:1: column 'text' is null"),
        ("a.jsonl", b'{"text": "a\\ud800"}\n', "a.jsonl:1: lone surrogate: \\ud800 at character 1"),
        ("a.jsonl", b'{"text": "a\\u0000"}\n', "a.jsonl:1: NUL character: at character 1"),
        ("a.txt", b"abc\n\xff\n", "a.txt:2: invalid UTF-8: byte 0xff at position 0"),
        ("a.jsonl.gz", gzip.compress(JSONL, mtime=0)[:-20], "a.jsonl.gz:"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz:1: damaged or incomplete compressed file"),
        ("a.jsonl.zst", zstd(JSONL)[:-9], "a.jsonl.zst:"),
        ("a.jsonl.zst", b"no zstd", "a.jsonl.zst:1: damaged or incomplete compressed file"),
        ("a.parquet", b"no parquet", "a.parquet: not a readable Parquet file"),
        ("a.docx", b"text\na\n", "a.docx: unknown file type; readable are .jsonl"),
    ],
)
def test_bad_input_names_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        list(read_documents(SourceConfig(str(tmp_path / name))))


def test_few_bad_rows_are_passed_over_and_too_many_are_counted_by_reason(tmp_path):
    source = write_rows(tmp_path, {"text": "一"}, {"text": None}, b"{", {"text": "二"}, {"text": None})
    source.max_bad_fraction = 0.6
    assert list(read_documents(source)) == ["一", "二"]
    source.max_bad_fraction = 0.59
    expected = (
        "a: 3 of 5 rows cannot be read (2 × column 'text' is null, 1 × not a JSON object); max_bad_fraction is 0.59"
    )
    with pytest.raises(InputError, match=re.escape(expected)) as raised:
        list(read_documents(source))
    assert [line.split(": ")[0].rsplit(":", 1)[1] for line in str(raised.value).splitlines()[1:]] == ["2", "3", "5"]


def test_positions_of_documents_count_those_that_are_left_out(tmp_path):
    source = write_rows(tmp_path, *({"text": text} for text in ("一", "", "二", "  ", "三")), {"text": None})
    source.max_bad_fraction = 0.5
    assert list(numbered_documents(source)) == [(0, "一"), (2, "二"), (4, "三")]


def test_a_source_of_bad_rows_is_given_up_early(tmp_path):
    source = write_rows(tmp_path, {"text": "一"}, *[{"text": 1}] * 20_000)
    with pytest.raises(InputError, match="9,999 of 10,000 rows cannot be read"):
        list(read_documents(source))


def test_rows_are_chosen_by_the_value_of_a_column(tmp_path):
    rows = [{"text": str(n), "meta": {"spelling": "new" if n % 2 else "old", "year": n}} for n in range(5)]
    source = write_rows(tmp_path, *rows)
    source.where = {"meta.spelling": "new"}
    assert list(read_texts(source)) == ["1", "3"]
    source.where = {"meta.spelling": "new", "meta.year": "3"}
    assert list(read_texts(source)) == ["3"]
    source.where = {"meta.spelin": "new"}
    with pytest.raises(
        InputError, match=re.escape("a.jsonl:1: no column 'meta.spelin'; the row has text, meta (set where)")
    ):
        list(read_texts(source))


def test_messages_and_templates_become_text(tmp_path):
    messages = [{"role": "user", "content": "1+1は？"}, {"role": "assistant", "content": "2です。"}]
    source = write_rows(tmp_path, {"messages": messages, "question": "問", "answers": ["答", "別解"]}, {"messages": []})
    source.text_column = "messages"
    assert [str(text) for text in read_texts(source)] == [
        "1+1は？\n2です。",
        f"{source.path}:2: column 'messages' holds no text: []",
    ]
    source.template = "{question}\n答え: {answers}。"
    assert next(read_texts(source)) == "問\n答え: 答。"


def test_limits_of_rows_bytes_and_characters(tmp_path):
    source = write_rows(tmp_path, *({"text": text} for text in ("あ", "いい", "う", "え")))
    source.max_rows = 3
    assert list(read_texts(source)) == ["あ", "いい", "う"]
    source.max_rows, source.max_bytes = None, 7
    assert list(read_texts(source)) == ["あ", "いい"]
    source.max_bytes, source.max_characters = None, 1
    assert [str(text) for text in read_texts(source)][1] == f"{source.path}:2: longer than max_characters (1): 2"


def test_a_wiki_dump_becomes_plain_text(tmp_path):
    page = "<page><title>{}</title><ns>0</ns><revision><model>wikitext</model><text>{}</text></revision></page>"
    pages = page.format("山", "'''山'''は[[地形]]の一つ。") + page.format("谷", "{{未完成}}\n谷は低い。")
    (tmp_path / "wiki.xml.bz2").write_bytes(bz2.compress(f"<mediawiki>{pages}</mediawiki>".encode()))
    source = SourceConfig(str(tmp_path / "wiki.xml.bz2"))
    assert list(read_documents(source)) == ["山は地形の一つ。", "谷は低い。"]
    source.clean = [CleanRule("length", at_least=6)]
    assert list(read_documents(source)) == ["山は地形の一つ。"]
    assert list(documents_in_place(source)) == ["山は地形の一つ。", ""]
    source.template = "{title}\n{text}"
    assert list(read_documents(source)) == ["山\n山は地形の一つ。", "谷\n谷は低い。"]


def test_other_encodings(tmp_path):
    (tmp_path / "a.txt").write_bytes("《ルビ》①\r\n表".encode("cp932") + b"\r\n\x81 \r\n")
    assert read(tmp_path / "a.txt", encoding="cp932", document="line")[:2] == ["《ルビ》①", "表"]
    bad = read(tmp_path / "a.txt", encoding="cp932", document="line")[2]
    assert (bad.place, bad.reason) == (f"{tmp_path / 'a.txt'}:3", "invalid CP932")


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(InputError, match=r"gone.jsonl: no such file or folder"):
        read(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match="the folder holds no readable file"):
        find_files(tmp_path)


def test_parquet_without_the_column(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: row 1: no column 'text'; the row has body"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("source", "label"),
    [
        (SourceConfig("x/aozora.jsonl.gz"), "aozora"),
        (SourceConfig("x/folder"), "folder"),
        (SourceConfig("hf://wikimedia/wikipedia", subset="20231101.ja"), "wikipedia-20231101.ja"),
        (SourceConfig("hf://owner/name/data/*.jsonl"), "name"),
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
    assert list(read_texts(source)) == TEXTS
    assert calls == [(("owner/name", "ja"), {"split": "test", "revision": "v1", "streaming": True})]
    with pytest.raises(InputError, match=r"hf://owner/name: row 1: no column 'text'; the row has body"):
        list(read_documents(SourceConfig("hf://owner/name")))


def test_files_of_a_hub_repository_are_read_without_a_loading_script(monkeypatch, tmp_path):
    import huggingface_hub

    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(JSONL))

    class FileSystem:
        def glob(self, pattern, detail):
            assert (pattern, detail) == ("datasets/owner/name@v1/data/*", True)
            return {
                str(file): {"size": file.stat().st_size} for file in (*tmp_path.iterdir(), tmp_path / "load.py")[:1]
            }

        def open(self, path, mode):
            return Path(path).open(mode)

    monkeypatch.setattr(huggingface_hub, "HfFileSystem", FileSystem)
    progress = ReadProgress()
    assert list(read_texts(SourceConfig("hf://owner/name/data/*", revision="v1"), progress)) == TEXTS
    assert progress.bytes_read == progress.total_bytes == (tmp_path / "train.jsonl.gz").stat().st_size


def test_hub_dataset_out_of_reach():
    with pytest.raises(InputError, match=r"hf://owner/no-such-name: the Hub dataset cannot be read: "):
        list(read_documents(SourceConfig("hf://owner/no-such-name")))
