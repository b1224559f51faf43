"""Tables in four formats give the same rows; what cannot be read is named by its place."""

import json

import pytest

from jpllm.data.read.formats import read_table
from jpllm.runtime import InputError

ROWS = [{"文": "一,二", "label": "a"}, {"文": '"三"', "label": "b"}]


def write_csv(file):
    file.write_text('\ufeff文,label\r\n"一,二",a\r\n"""三""",b\r\n', encoding="utf-8", newline="")


def write_tsv(file):
    file.write_text('文\tlabel\n一,二\ta\n"三"\tb\n', encoding="utf-8")


def write_json(file):
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def write_parquet(file):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)


@pytest.mark.parametrize(
    ("name", "write", "places"),
    [
        ("t.csv", write_csv, [":2", ":3"]),
        ("t.tsv", write_tsv, [":2", ":3"]),
        ("t.jsonl", write_json, [":1", ":2"]),
        ("t.json", write_json, [":1", ":2"]),
        ("t.parquet", write_parquet, [": row 1", ": row 2"]),
    ],
)
def test_formats_give_the_same_rows(tmp_path, name, write, places):
    file = tmp_path / name
    write(file)
    assert list(read_table(file)) == [(f"{file}{place}", row) for place, row in zip(places, ROWS, strict=True)]


def test_a_quoted_field_spans_lines_and_blank_lines_are_no_rows(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text('text,label\n"一\n二",a\n\n三,b\n', encoding="utf-8")
    assert list(read_table(file)) == [
        (f"{file}:2", {"text": "一\n二", "label": "a"}),
        (f"{file}:5", {"text": "三", "label": "b"}),
    ]


def test_encoding_of_older_spreadsheets(tmp_path):
    file = tmp_path / "t.csv"
    file.write_bytes("本文,label\n猫だ,a\n".encode("cp932"))
    assert list(read_table(file, "cp932")) == [(f"{file}:2", {"本文": "猫だ", "label": "a"})]
    with pytest.raises(InputError, match=r"t\.csv:1: invalid UTF-8.*convert the file to UTF-8, or set encoding"):
        list(read_table(file))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "text,label\na,b,c\n", r"t\.csv:2: 3 fields, and the first line names 2 columns \(text, label\)"),
        ("t.csv", "text,text\n", r"t\.csv:1: two columns are called 'text'"),
        ("t.csv", 'text,label\n"open,a\n', r"t\.csv:2: cannot be read as CSV: unexpected end of data"),
        ("t.jsonl", '{"text": "a", "text": "b"}\n', r"t\.jsonl:1: duplicate key in the JSON object"),
        ("t.jsonl", '{"text": "a"}\n[1]\n', r"t\.jsonl:2: not a JSON object"),
        ("t.parquet", "no parquet", r"not a readable Parquet file"),
        ("t.xlsx", "", r"t\.xlsx: unknown file type; readable are \.csv, \.tsv"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        list(read_table(tmp_path / name))


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv: no such file"):
        list(read_table(tmp_path / "gone.csv"))
