"""One bad row ends nothing, is never silent, and takes no more memory than a long text may."""

import datetime
import decimal
import gzip
import json
import logging
import subprocess
import sys
import time

import pyarrow
import pyarrow.parquet
import pytest

from jpllm.cli import main
from jpllm.data.documents import read_documents
from jpllm.data.read.quarantine import BadRow
from jpllm.data.read.sources import SourceConfig
from jpllm.data.read.texts import read_texts
from jpllm.runtime import InputError

GOOD = '{"text": "よい行。"}'.encode()


def read(path, **settings):
    return list(read_texts(SourceConfig(str(path), **settings)))


def rows_around(tmp_path, line: bytes, name: str = "a.jsonl") -> list:
    """Return what is read of a line between two good ones."""
    (tmp_path / name).write_bytes(GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    first, *found, last = read(tmp_path / name)
    assert (first, last) == ("よい行。", "よい行。")
    return found


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            b'{"text": "a", "n": ' + b"1" * 5000 + b"}",
            "number of too many digits in the JSON object: Exceeds the limit",
        ),
        (b'{"text": "a", "n": -' + b"9" * 100_000 + b"}", "number of too many digits in the JSON object: "),
        (b'{"text": "a", "n": ' + b"[" * 100_000 + b"}", 'JSON nested too deeply: {"text": "a", "n": [['),
        (b'{"text": ' + b'{"a":' * 100_000 + b"1}", "JSON nested too deeply: "),
        (b'{"text": "\xff"}', "invalid UTF-8: byte 0xff at position 10 of the line"),
        (b'{"text": "a"},', "not a JSON object: Extra data at column 14"),
        (b'{"text": "a"} {"text": "b"}', "not a JSON object: Extra data at column 15"),
        (b'{"text": "a", "text": "b"}', "duplicate key in the JSON object: 'text'"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "duplicate key in the JSON object: '\\ud800'"),
        (b'{"text": [1, "\\ud800"]}', "column 'text' holds no text: [1, \"\\ud800\"]"),
        (b'{"text": {"deep": ' + b"[" * 900 + b"]" * 900 + b"}}", "column 'text' holds no text: "),
        (b'{"text": NaN}', "column 'text' holds no text: NaN"),
        (b'{"text": "a\\u001b[31m\\ud83d"}', "lone surrogate: \\ud83d at character 6"),
        (b"\x00" * 100, "not a JSON object: "),
        (b"null", "not a JSON object: null"),
        (b'"\\u0000"', "not a JSON object: "),
        (b'\xef\xbb\xbf{"text": "a"', "not a JSON object: "),
    ],
)
def test_bad_lines_have_place_and_reason(tmp_path, line, problem):
    (bad,) = rows_around(tmp_path, line)
    assert str(bad).startswith(f"{tmp_path}/a.jsonl:2: {problem}")
    assert str(bad).isprintable()
    assert len(str(bad)) < 400


def test_60_000_keys_with_the_last_doubled(tmp_path):
    keys = ", ".join(f'"k{n}": {n}' for n in range(60_000))
    started = time.monotonic()
    (bad,) = rows_around(tmp_path, f'{{{keys}, "k59999": 1}}'.encode())
    assert time.monotonic() - started < 2
    assert bad.detail == "'k59999'"


@pytest.mark.parametrize("line", ['{"text": "二"}'.encode("utf-8-sig"), '\ufeff \t{"text": "二"}\r'.encode()])
def test_a_byte_order_mark_in_the_middle_is_none_of_the_text(tmp_path, line):
    assert rows_around(tmp_path, line) == ["二"]


def test_files_with_byte_order_marks_joined_by_cat(tmp_path):
    part = b"\xef\xbb\xbf" + GOOD + b"\r\n" + GOOD + b"\r\n"
    (tmp_path / "a.jsonl").write_bytes(part + part + b"\xef\xbb\xbf\n")
    assert read(tmp_path / "a.jsonl") == ["よい行。"] * 4


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv"])
def test_utf_16_is_told_as_such(tmp_path, encoding, name):
    content = "text\n日本語\nascii\n" if name == "a.csv" else '{"text": "日本語"}\n{"text": "ascii"}\n'
    mark = "" if encoding == "utf-16" else "\ufeff"
    (tmp_path / name).write_bytes((mark + content).encode(encoding))
    with pytest.raises(InputError, match="UTF-16 text: convert the file to UTF-8: iconv"):
        list(read_documents(SourceConfig(str(tmp_path / name))))


def test_lines_that_end_in_cr_alone(tmp_path):
    (tmp_path / "mac.txt").write_bytes("一\r二\r\r三\r".encode())
    assert read(tmp_path / "mac.txt", document="paragraph") == ["一\n二", "三\n"]
    assert read(tmp_path / "mac.txt", document="line") == ["一", "二", "", "三"]
    (tmp_path / "mac.jsonl").write_bytes(GOOD + b"\r" + b'{"text": 1}\r' + GOOD)
    assert [str(row) for row in read(tmp_path / "mac.jsonl")] == [
        *("よい行。", f"{tmp_path}/mac.jsonl:2: column 'text' holds no text: 1", "よい行。"),
    ]
    long = ("あ" * 999 + "\r") * 2000  # beyond one buffer
    (tmp_path / "long.txt").write_bytes(long.encode())
    assert read(tmp_path / "long.txt", document="line") == ["あ" * 999] * 2000


def test_ideographs_in_circles_in_euc(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xc6\xfc\xcb\xdc\xb8\xec\xad\xa1\n")  # 日本語①
    assert read(tmp_path / "a.txt", encoding="euc_jis_2004") == ["日本語①\n"]
    (bad,) = read(tmp_path / "a.txt", encoding="euc_jp")
    assert str(bad).endswith("characters such as ① are in encoding: euc_jis_2004")


def test_first_rows_without_the_column_are_bad_rows_like_others(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"version": 1}\n' + GOOD + b"\n")
    bad, good = read(tmp_path / "a.jsonl")
    assert (str(bad), good) == (f"{tmp_path}/a.jsonl:1: no column 'text': the row has version", "よい行。")
    (tmp_path / "a.jsonl").write_bytes(b'{"version": 1}\n' * 3)
    with pytest.raises(InputError, match=r"a\.jsonl:1: no column 'text'; the row has version \(set text_column\)"):
        read(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b'{"version": 1}\n' * 30 + GOOD + b"\n")
    with pytest.raises(InputError, match=r"a\.jsonl:1: no column 'text'"):
        read(tmp_path / "a.jsonl")


# Parquet and `where`


def parquet(file, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file


def test_invalid_utf_8_in_parquet(tmp_path):
    texts = pyarrow.array([b"a", b"b\xff", b"c"] * 200).cast(pyarrow.binary()).view(pyarrow.string())
    file = parquet(tmp_path / "a.parquet", text=texts)
    found = read(file)
    assert [row for row in found if isinstance(row, str)] == ["a", "c"] * 200
    assert [str(row) for row in found if isinstance(row, BadRow)] == [
        f"{file}: row {number}: invalid UTF-8: byte 0xff at position 1 of a text" for number in range(2, 600, 3)
    ]


def test_dates_that_python_cannot_hold(tmp_path):
    days = pyarrow.array([0, 10**12, 1]).cast(pyarrow.timestamp("s"))
    file = parquet(tmp_path / "a.parquet", text=["一", "二", "三"], d=days)
    first, bad, last = read(file, template="{text}", where={})
    assert (first, bad, last) == ("一", "二", "三")  # the column is not asked for
    (only,) = read(file, where={"d": "1970-01-01 00:00:01"})[1:] or [None]
    assert only == "三"
    assert str(read(file, where={"d": "1970-01-01 00:00:01"})[0]).startswith(
        f"{file}: row 2: a value that cannot be read"
    )


DAY, MOMENT = datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("column", "values", "wanted"),
    [
        ("d", [DAY, None], "2024-01-02"),
        ("m", [MOMENT, None], "2024-01-02 03:04:05"),
        ("x", [decimal.Decimal("1.50"), None], "1.50"),
        ("t", [datetime.time(3, 4), None], "03:04:00"),
        ("b", [True, False], "true"),
        ("n", [1, 2], "1"),
        ("s", ["あ", "い"], "あ"),
        ("l", [["あ"], None], '["あ"]'),
        ("r", [{"day": DAY}, None], '{"day": "2024-01-02"}'),
        ("r.day", None, "2024-01-02"),
    ],
)
def test_where_over_the_types_of_parquet(tmp_path, column, values, wanted):
    columns = {column.split(".")[0]: values or [{"day": DAY}, {"day": None}]}
    file = parquet(tmp_path / "a.parquet", text=["一", "二"], **columns)
    assert read(file, where={column: wanted}) == ["一"]


def test_where_that_takes_no_row_says_so(tmp_path, capfd):
    file = parquet(tmp_path / "a.parquet", text=["一", "二"], d=[MOMENT, MOMENT])
    message = "a: where (d: 2024) takes none of 2 rows; the first has d: 2024-01-02 03:04:05"
    for verb, more in (("preview", []), ("dedup", ["--output_dir", str(tmp_path / "drop")])):
        command = ["data", verb, "--sources", f"{{path: {file}, where: {{d: '2024'}}}}", *more]
        assert main(command) == 2
        assert message in capfd.readouterr().err
    deep = b"[" * 900 + b"]" * 900
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a", "d": ' + deep + b"}\n")
    with pytest.raises(InputError, match=r"a: where \(d: 1\) takes none of 1 rows"):
        read(tmp_path / "a.jsonl", where={"d": "1"})


def test_where_of_conversations(tmp_path):
    from jpllm.data.conversations.layouts import read_conversations

    (tmp_path / "a.jsonl").write_text('{"instruction": "q", "output": "a", "k": "x"}\n')
    with pytest.raises(InputError, match=r"a: where \(k: y\) takes none of 1 rows; the first has k: x"):
        list(read_conversations(SourceConfig(str(tmp_path / "a.jsonl"), where={"k": "y"})))


# Never silent


def test_dedup_counts_bad_rows_like_pack(tmp_path, tokenizer_dir, capfd):
    file = tmp_path / "mixed.jsonl"
    file.write_bytes((GOOD + b"\n") * 5 + b'{"text": 5}\n{"text": null}\n{"text":\n')
    assert main(["data", "pack", "--sources", str(file), "--tokenizer", str(tokenizer_dir), "--output_dir",
                 str(tmp_path / "shards")]) == 2  # fmt: skip
    refused = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert refused[0].startswith("error: mixed: 3 of 8 rows cannot be read (")
    assert main(["data", "dedup", "--sources", str(file), "--output_dir", str(tmp_path / "drop")]) == 2
    assert refused == [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert not (tmp_path / "drop").exists()


def test_few_bad_rows_are_said_by_dedup(tmp_path, capfd):
    file = tmp_path / "a.jsonl"
    file.write_bytes((GOOD + b"\n") * 5 + b'{"text": 5}\n')
    line = f"a: 1 of 6 rows cannot be read (1 × column 'text' holds no text); they are left out, the first: {file}:6"
    source = f"{{path: {file}, max_bad_fraction: 0.5}}"
    assert main(["data", "dedup", "--sources", source, "--output_dir", str(tmp_path / "drop")]) == 0
    assert line in capfd.readouterr().err


def test_few_bad_rows_are_said_by_what_reads_documents(tmp_path, caplog):
    file = tmp_path / "a.jsonl"
    file.write_bytes((GOOD + b"\n") * 5 + b'{"text": 5}\n')
    with caplog.at_level(logging.WARNING):
        assert len(list(read_documents(SourceConfig(str(file), max_bad_fraction=0.5)))) == 5
    assert (
        f"a: 1 of 6 rows cannot be read (1 × column 'text' holds no text); they are left out, the first: {file}:6"
        in (caplog.text)
    )


# Memory


READ_IN_LITTLE_MEMORY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (600 << 20, 600 << 20))
from jpllm.data.read.sources import SourceConfig
from jpllm.data.read.texts import read_texts
for text in read_texts(SourceConfig(sys.argv[1], document=sys.argv[2])):
    print(text if len(str(text)) < 300 else len(text))
"""


@pytest.mark.parametrize(
    ("name", "start", "piece", "end", "document", "expected"),
    [
        ("a.jsonl.gz", GOOD + b'\n{"text": "', b"a", b'"}\n' + GOOD, "file", ["よい行。", ":2: longer", "よい行。"]),
        ("a.jsonl.gz", GOOD + b"\n", b"[", b"\n" + GOOD + b"\n", "file", ["よい行。", ":2: longer", "よい行。"]),
        ("a.txt.gz", b"a\n\n", b"b", b"\n\nc\n", "paragraph", ["a", ":3: longer", "c"]),
        ("a.txt.gz", b"a\n", b"b" * 999 + b"\n", b"", "file", [":1: longer"]),
        ("a.txt.gz", b"a\r", b"b", b"\rc", "line", ["a", ":2: longer", "c"]),
        ("a.csv.gz", b"text\na\n", b"b", b"\nc\n", "file", ["a", ":3: longer", "c"]),
        ("a.xml.gz", b"<mediawiki><page><title>a</title><revision><text>", b"b", b"", "file", ["a page of more than"]),
        ("a.xml.gz", b"<mediawiki>", b"<a>", b"", "file", ["a page of more than"]),
    ],
)
def test_a_line_without_end_in_a_small_file(tmp_path, name, start, piece, end, document, expected):
    with gzip.open(tmp_path / name, "wb", compresslevel=1) as stream:
        stream.write(start)
        for _ in range(700):
            stream.write(piece * (1_000_000 // len(piece)))
        stream.write(end)
    command = [sys.executable, "-c", READ_IN_LITTLE_MEMORY, str(tmp_path / name), document]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    lines = lines if len(expected) == len(lines) else lines[-1:]  # of a traceback in this test
    assert len(lines) == len(expected)
    for line, part in zip(lines, expected, strict=True):
        assert part in line


def test_max_characters_bounds_lines_and_documents(tmp_path):
    (tmp_path / "a.txt").write_text("あ" * 10 + "\n\n" + "い" * 11 + "\n\n" + "う\n" * 5 + "\n" + "え\n" * 6)
    found = read(tmp_path / "a.txt", document="paragraph", max_characters=10)
    assert [row if isinstance(row, str) else row.reason for row in found] == [
        *("あ" * 10, "longer than max_characters (10)", "う\nう\nう\nう\nう", "longer than max_characters (10)"),
    ]
    row = json.dumps({"text": "あ" * 1000}).encode()  # six bytes a character
    (tmp_path / "a.jsonl").write_bytes(row + b"\n")
    assert read(tmp_path / "a.jsonl", max_characters=1000) == ["あ" * 1000]
