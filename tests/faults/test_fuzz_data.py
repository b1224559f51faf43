"""Whatever bytes a corpus or a shard folder holds: rows, bad rows or one message, within seconds, never a traceback.

The fast suite tries few examples of each test. A longer run, of about ten minutes:

    JPLLM_FUZZ_EXAMPLES=20000 python -m pytest tests/faults/test_fuzz_data.py

An example that failed is written below it as an `@example`, so that it is tried for ever.
"""

import bz2
import gzip
import io
import json
import lzma
import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jpllm.data.read.files import find_files, kind_of, label_of, printable, without_suffix
from jpllm.data.read.formats import read_table
from jpllm.data.read.quarantine import BadRow
from jpllm.data.read.sources import SourceConfig
from jpllm.data.read.texts import read_texts
from jpllm.data.shards import token_shards
from jpllm.runtime import InputError

fuzz = settings(
    max_examples=int(os.environ.get("JPLLM_FUZZ_EXAMPLES", "60")),
    deadline=timedelta(seconds=5),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    database=None,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
rows = st.dictionaries(st.sampled_from(["text", "n", "d", "meta", "\ud800"]), json_values, max_size=4).map(
    lambda row: json.dumps(row).encode()
)
scraps = st.sampled_from(
    [
        *(
            b"\n",
            b"\r",
            b"\r\n",
            b"\x00",
            b"\xef\xbb\xbf",
            b"\xff\xfe",
            b"\xfe\xff",
            b"\x1b$B",
            b'"',
            b",",
            b"\t",
            b"{",
            b"[",
        ),
        *(b"\x82\xa0", b"\xa4\xa2", b"\xe3\x81", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"text", b"text,n", b"[" * 2000),
        *(
            b"1" * 5000,
            b"<mediawiki>",
            b"<page>",
            b"<revision>",
            b"<text>",
            b"</text>",
            b"</revision>",
            b"</page>",
            b"&amp;",
        ),
        *(b"{", b"[", b"&amp;", b"&lol;", b"<!DOCTYPE a>", b"<title>a</title>", b"</mediawiki>", b"<ns>0</ns>"),
        *('{"text": "よい行。"}\n'.encode(), b'{"text": "a", "text": "b"}', b"\xe3\x80\x80"),
    ]
)
contents = st.lists(st.one_of(scraps, rows, st.binary(max_size=20)), max_size=12).map(b"".join)


odd_facts = st.sampled_from([0, -1, 2**40, 10**30, "<u4", "<f8", "|O"])


def whole_parquet() -> bytes:
    columns = {"text": ["一", None, "三"], "n": [1, 2, 3], "d": pyarrow.array([0, 1, 2], pyarrow.date32())}
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
            ".zst": lambda content: pyarrow.compress(content, codec="zstd", asbytes=True)}  # fmt: skip


@st.composite
def damaged(draw, wholes: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with some of them changed, and cut at some place."""
    content = bytearray(draw(wholes))
    for _ in range(draw(st.integers(0, 3)) if content else 0):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


def assert_read(folder: Path, **keys: object) -> None:
    """Read a folder: texts that can be encoded, bad rows that can be shown, or one message."""
    try:
        for text in read_texts(SourceConfig(str(folder), **keys)):
            if isinstance(text, BadRow):
                assert str(text).isprintable()
                json.dumps(text.detail, ensure_ascii=False).encode()
            else:
                text.encode()
    except InputError as error:
        str(error).encode()


def only_file(folder: Path, name: str, content: bytes) -> Path:
    for file in folder.iterdir():
        file.unlink()
    (folder / name).write_bytes(content)
    return folder / name


@fuzz
@given(
    content=contents,
    name=st.sampled_from(["a.jsonl", "a.json", "a.txt", "a.csv", "a.tsv", "a.xml"]),
    compression=st.sampled_from(list(COMPRESS)),
    encoding=st.sampled_from(["utf-8", "cp932", "euc_jp", "euc_jis_2004"]),
    document=st.sampled_from(["file", "paragraph", "line"]),
    keys=st.sampled_from([{}, {"where": {"n": "1"}}, {"where": {"meta.a": "x"}}, {"template": "{text}{n}"}]),
    max_characters=st.sampled_from([1, 100, 4_000_000]),
)
@example(b"\xef\xbb\xbf", "a.jsonl", "", "utf-8", "file", {}, 100)
@example(b"\r", "a.txt", "", "utf-8", "paragraph", {}, 100)
@example(b'text\n"a', "a.csv", "", "utf-8", "file", {}, 1)
@example(b'{"text": {"\\ud823\\udd09": null}}', "a.jsonl", "", "utf-8", "file", {}, 1)
def test_texts(tmp_path, content, name, compression, encoding, document, keys, max_characters):
    file = only_file(tmp_path, name + compression, COMPRESS[compression](content))
    keys = {"encoding": encoding, "document": document, "max_characters": max_characters, **keys}
    assert_read(file, **keys)
    assert_read(tmp_path, **keys)


@fuzz
@given(
    content=damaged(contents.flatmap(lambda content: st.sampled_from([pack(content) for pack in COMPRESS.values()]))),
    name=st.sampled_from(["a.jsonl", "a.txt", "a.xml", "a.csv"]),
    compression=st.sampled_from(list(COMPRESS)),
)
def test_damaged_compression(tmp_path, content, name, compression):
    assert_read(only_file(tmp_path, name + compression, content))
    assert_read(tmp_path)


@fuzz
@given(content=damaged(st.just(whole_parquet())), where=st.sampled_from([{}, {"d": "1970-01-02"}]))
@example(whole_parquet().replace(b"text", b"\x80ext"), {})
def test_damaged_parquet(tmp_path, content, where):
    assert_read(only_file(tmp_path, "a.parquet", content), where=where)


@fuzz
@given(content=contents, name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv"]))
def test_tables(tmp_path, content, name):
    try:
        for _, row in read_table(only_file(tmp_path, name, content)):
            assert isinstance(row, dict)
    except InputError:
        pass


@fuzz
@given(name=st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=300))
@example(".jsonl")
@example("a.jsonl.gz.jsonl")
@example(".xml-p1p2.bz2")
def test_names(tmp_path, name):
    assert kind_of(name) is None or without_suffix(name) != name
    label = label_of(without_suffix(name))
    assert 0 < len(label.encode()) <= 200
    assert len(printable(name).splitlines()) <= 1
    try:
        only_file(tmp_path, name, b'{"text": "a"}\n')
    except (OSError, UnicodeEncodeError):  # the file system has no such names
        return
    try:
        assert find_files(tmp_path) == [tmp_path / name]
    except InputError as error:
        str(error).encode()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> tuple[Path, dict, bytes]:
    """A finished folder, its facts without checksums, and the bytes of its `meta.json`."""
    directory = tmp_path_factory.mktemp("shards")
    size = token_shards.ShardsSize(num_rows=2, num_documents=2, num_tokens=6)
    writer = token_shards.ShardWriter(directory, np.dtype("<u2"))
    writer.append(token_shards.Batch(0, size, [np.array([1, 2, 0, 3, 4, 0])], [], []))
    writer.close()
    facts = {"dtype": "<u2", "vocab_size": 5, "source": {"label": "s"}, "identity": {"eos_token_id": 0}}
    token_shards.write_meta(directory, size, **facts)
    meta = token_shards.read_meta(directory)
    del meta["files"]
    return directory, meta, (directory / "meta.json").read_bytes()


def assert_opened(directory: Path) -> None:
    """Open and check a folder: it can be read, or there is one message."""
    try:
        problem = token_shards.damage(directory)
        opened = token_shards.TokenShards(directory)
    except InputError as error:
        problem, opened = str(error), None
    assert not problem or "`jpllm data pack`" in problem
    if opened and not problem:
        assert opened.tokens(0, opened.size.num_tokens).max(initial=0) < 5


@fuzz
@given(data=st.data())
def test_damaged_meta(shards, data):
    directory, _, whole = shards
    (directory / "meta.json").write_bytes(data.draw(damaged(st.just(whole))))
    assert_opened(directory)
    (directory / "meta.json").write_bytes(whole)
    assert token_shards.damage(directory) == ""


@fuzz
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 30), json_values | st.sampled_from([0, -1, 10**30, "<u4", "<f8"])), max_size=3
    )
)
def test_other_facts_in_a_meta_without_checksums(shards, changes):
    directory, meta, whole = shards
    meta = json.loads(json.dumps(meta))
    for place, value in changes:
        places = [(meta, key) for key in meta]
        places += [(inner, key) for inner in meta.values() if isinstance(inner, dict) for key in inner]
        owner, key = places[place % len(places)]
        owner[key] = value
    (directory / "meta.json").write_text(json.dumps(meta))
    assert_opened(directory)
    (directory / "meta.json").write_bytes(whole)


@fuzz
@given(content=st.binary(max_size=100) | contents)
def test_any_bytes_as_meta(shards, content):
    directory, _, whole = shards
    (directory / "meta.json").write_bytes(content)
    assert_opened(directory)
    (directory / "meta.json").write_bytes(whole)
