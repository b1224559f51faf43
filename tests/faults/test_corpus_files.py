"""A corpus that changes under the hands of a command; what is in a folder, and what kind each file is."""

import bz2
import gzip
import json
import logging
import lzma
import os
import shutil

import numpy as np
import pyarrow
import pytest

from jpllm.cli import main
from jpllm.data.documents import read_documents
from jpllm.data.read.files import kind_of, without_suffix
from jpllm.data.read.jsonl import write_jsonl
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.fingerprints import content_hash, file_states, remembered_hash
from jpllm.data.shards.pack import pack
from jpllm.data.shards.token_shards import TokenShards
from jpllm.runtime import InputError

ROW = '{"text": "日本語の文。"}\n'
REVISION = "<revision><model>wikitext</model><text>'''山'''は[[地形]]。</text></revision>"
DUMP = f"<mediawiki><page><title>山</title><ns>0</ns>{REVISION}</page></mediawiki>".encode()


def texts_of(path, **settings):
    return list(read_documents(SourceConfig(str(path), **settings)))


# A corpus that changes


class ChangingEncoder:
    """Encodes bytes, and has somebody write to the corpus while it is at it."""

    eos_token_id, bos_token_id, vocab_size, fingerprint = 0, None, 257, "bytes"

    def __init__(self, change):
        self.change = change

    def encode(self, texts):
        self.change()
        self.change = lambda: None
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + 1 for text in texts]


def replace_keeping_size_and_time(file, content):
    """Do what `cp -p` and `rsync -t` do."""
    before = file.stat()
    assert len(content) == before.st_size
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", ["append", "replace", "add a file", "remove"])
def test_a_corpus_that_changes_while_it_is_packed_is_refused(tmp_path, encoder, change):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.jsonl").write_text(ROW * 10)
    (folder / "b.jsonl").write_text(ROW * 10)

    def changed():
        if change == "append":
            with (folder / "a.jsonl").open("a") as stream:
                stream.write(ROW)
        elif change == "replace":
            replace_keeping_size_and_time(folder / "a.jsonl", (ROW * 10).replace("日", "月").encode())
        elif change == "add a file":
            (folder / "c.jsonl").write_text(ROW)
        else:
            (folder / "b.jsonl").unlink()

    source = SourceConfig(str(folder))
    with pytest.raises(InputError, match=r"docs: the source changed while it was read.*run the same command again"):
        pack(source, ChangingEncoder(changed), tmp_path / "shards", 0)
    assert [path.name for path in (tmp_path / "shards").iterdir() if path.is_dir()] == []
    shards = TokenShards(pack(source, encoder, tmp_path / "shards", 0))
    assert shards.size.num_rows == {"append": 21, "replace": 20, "add a file": 21, "remove": 10}[change]


def test_the_same_size_and_time_with_other_content_is_noticed(tmp_path, encoder):
    file = tmp_path / "a.jsonl"
    file.write_text(ROW * 1000)
    source = SourceConfig(str(file))
    first = pack(source, encoder, tmp_path / "shards", 0)
    replace_keeping_size_and_time(file, (ROW * 999 + ROW.replace("日", "月")).encode())
    second = pack(source, encoder, tmp_path / "shards", 0)
    assert first != second
    assert (second / "tokens.bin").read_bytes() != (first / "tokens.bin").read_bytes()


def test_a_remembered_hash_is_one_of_today(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(ROW)
    source = SourceConfig(str(file))
    memory = tmp_path / ".a.content-hash.json"
    assert remembered_hash(source, tmp_path, file_states(source)) == content_hash(source)
    known = json.loads(memory.read_text())
    memory.write_text(json.dumps(known | {"content": "0" * 64}))
    assert remembered_hash(source, tmp_path, file_states(source)) == "0" * 64  # the file is not read again
    for torn in ("", "{", "null", "[1]", "{}", '{"key": 1}', "[" * 100_000):
        memory.write_text(torn)
        assert remembered_hash(source, tmp_path, file_states(source)) == content_hash(source)
        assert json.loads(memory.read_text()) == known


@pytest.mark.parametrize("is_written_to", [False, True])
def test_a_build_that_was_killed_begins_anew_for_a_corpus_that_was_written_to(
    tmp_path, encoder, monkeypatch, is_written_to
):
    monkeypatch.setattr("jpllm.data.documents.BATCH_CHARACTERS", 20)  # 4 rows: 13 batches
    file = tmp_path / "a.jsonl"
    file.write_text(ROW * 50)
    encode, calls = encoder.encode, []

    def encode_until_killed(texts):
        calls.append(texts)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return encode(texts)

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode", encode_until_killed)
        with pytest.raises(KeyboardInterrupt):
            pack(SourceConfig(str(file)), encoder, tmp_path / "shards", 0)
    if is_written_to:
        replace_keeping_size_and_time(file, (ROW * 50).replace("日", "月").encode())
        replace_keeping_size_and_time(file, (ROW * 50).encode())
    encoder.num_calls = 0
    shards = pack(SourceConfig(str(file)), encoder, tmp_path / "shards", 0)
    assert encoder.num_calls == (13 if is_written_to else 8)
    names = sorted(path.name for path in shards.iterdir())
    assert names == ["held_out.jsonl", "meta.json", "quarantine.jsonl", "tokens.bin"]


def test_a_corpus_that_changes_while_its_duplicates_are_looked_for_is_refused(tmp_path, monkeypatch, capfd):
    file = tmp_path / "a.jsonl"
    file.write_text(ROW * 10)
    from jpllm.data.dedup import drop_list

    hash_of = drop_list.document_fingerprint

    def changed_meanwhile(source):
        with file.open("a") as stream:
            stream.write(ROW)
        return hash_of(source)

    monkeypatch.setattr("jpllm.data.shards.fingerprints.document_fingerprint", changed_meanwhile)
    assert main(["data", "dedup", "--sources", str(file), "--output_dir", str(tmp_path / "drop")]) == 2
    assert "the source changed while it was read" in capfd.readouterr().err
    assert not (tmp_path / "drop").exists()


# What kind a file is


@pytest.mark.parametrize(
    ("name", "file_format", "compression", "label"),
    [
        ("a.jsonl", "jsonl", "", "a"),
        ("A.JSONL", "jsonl", "", "A"),
        ("a.ndjson.gz", "jsonl", ".gz", "a"),
        ("c4-ja.tfrecord-00000-of-01024.json.gz", "json", ".gz", "c4-ja.tfrecord-00000-of-01024"),
        ("a.Jsonl.Zst", "jsonl", ".zst", "a"),
        ("a.txt.xz", "txt", ".xz", "a"),
        ("a.TXT", "txt", "", "a"),
        ("a.csv.bz2", "csv", ".bz2", "a"),
        ("jawiki-20240101-pages-articles.xml.bz2", "xml", ".bz2", "jawiki-20240101-pages-articles"),
        ("jawiki-articles1.xml-p1p114794.bz2", "xml", ".bz2", "jawiki-articles1-p1p114794"),
        ("jawiki-articles1.xml-p1p114794", "xml", "", "jawiki-articles1-p1p114794"),
        ("train-00000-of-00004.parquet", "parquet", "", "train-00000-of-00004"),
        ("2024.01.02.txt", "txt", "", "2024.01.02"),
        ("a.jsonl.txt", "txt", "", "a.jsonl"),
        ("notes.jsonl.d", None, None, "notes.jsonl.d"),
        ("a.parquet.gz", None, None, "a.parquet.gz"),
        ("a.jsonl-p1p2.gz", None, None, "a.jsonl-p1p2.gz"),
        ("a.jsonl.bak", None, None, "a.jsonl.bak"),
        ("jsonl", None, None, "jsonl"),
    ],
)
def test_kinds(name, file_format, compression, label):
    kind = kind_of(name)
    assert (kind and kind.format, kind and kind.compression) == (file_format, compression)
    assert without_suffix(name) == label


def zstd(data: bytes) -> bytes:
    return pyarrow.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    "name", ["a.json", "a.json.gz", "a.JSON.GZ", "a.jsonl.bz2", "a.jsonl.xz", "A.JSONL.ZST", "a.ndjson"]
)
def test_names_of_publishers_are_read(tmp_path, name):
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}
    (tmp_path / name).write_bytes(compress.get(name.rsplit(".", 1)[1].lower(), bytes)((ROW * 3).encode()))
    assert texts_of(tmp_path / name) == texts_of(tmp_path) == ["日本語の文。"] * 3


@pytest.mark.parametrize(
    "name", ["jawiki-articles1.xml-p1p114794.bz2", "jawiki.XML.BZ2", "jawiki.xml.xz", "jawiki.xml-p1p9"]
)
def test_a_part_of_a_dump(tmp_path, name):
    compress = {"bz2": bz2.compress, "xz": lzma.compress}
    (tmp_path / name).write_bytes(compress.get(name.rsplit(".", 1)[1].lower(), bytes)(DUMP))
    assert texts_of(tmp_path / name) == ["山は地形。"]


def test_csv_by_column(tmp_path):
    (tmp_path / "a.csv").write_text('\ufefftext,n\r\n"一,二\r\n三",1\r\n四,2\r\n', newline="")
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress('text\tn\n"五\t3\n'.encode()))
    assert texts_of(tmp_path) == ["一,二\r\n三", "四", '"五']
    assert texts_of(tmp_path / "a.csv", text_column="n") == ["1", "2"]


def test_long_texts_in_csv(tmp_path):
    (tmp_path / "a.csv").write_text(f"text\n{'あ' * 200_000}\n")
    assert [len(text) for text in texts_of(tmp_path / "a.csv")] == [200_000]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.json",
            "[\n" + ROW + "]",
            r"a\.json: one JSON array, not one object a line; .* jq -c '\.\[\]'",
        ),
        ("a.json", '\ufeff{\n "text": "a"\n}', r"a\.json: one JSON value over several lines, .* jq -c '\.' FILE"),
        ("a.zip", "PK", r"a\.zip: unknown file type; unpack; readable are \.jsonl, \.json \(one object a line\), "),
        ("a.xlsx", "PK", r"a\.xlsx: unknown file type; export as \.csv; "),
        ("a", "x", r"a: unknown file type; readable are "),
    ],
)
def test_what_is_not_read_is_refused_with_the_way_out(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        texts_of(tmp_path / name)


def test_a_dump_beside_its_index(tmp_path, encoder):
    (tmp_path / "jawiki-pages-articles-multistream.xml.bz2").write_bytes(bz2.compress(DUMP))
    alone = texts_of(tmp_path)
    (tmp_path / "jawiki-pages-articles-multistream-index.txt.bz2").write_bytes(bz2.compress(b"600:1:x\n"))
    (tmp_path / "jawiki-pages-articles-multistream-index1.txt-p1p114794.bz2").write_bytes(bz2.compress(b"600:1:x\n"))
    assert texts_of(tmp_path) == alone == ["山は地形。"]
    directory = pack(SourceConfig(str(tmp_path), name="wiki"), encoder, tmp_path.parent / "shards", 0)
    assert bytes((TokenShards(directory).tokens(0, 15) - 1).astype(np.uint8)).decode() == "山は地形。"


def test_a_dump_beside_other_texts_is_cleaned_as_if_alone(tmp_path):
    (tmp_path / "jawiki.xml").write_bytes(DUMP)
    (tmp_path / "a.jsonl").write_text(ROW)
    (tmp_path / "b.txt").write_text("'''そのまま'''")
    assert texts_of(tmp_path) == ["日本語の文。", "'''そのまま'''", "山は地形。"]


def test_the_suffix_is_that_of_the_file(tmp_path):
    folder = tmp_path / "x.jsonl.d" / "wiki.xml"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("平文。")
    assert texts_of(tmp_path / "x.jsonl.d") == texts_of(folder) == texts_of(folder / "a.txt") == ["平文。"]


# Folders


def test_what_a_folder_leaves_out_is_said_by_kind(tmp_path, caplog):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.jsonl").write_text(ROW)
    (folder / "b.json").write_text(ROW * 2)
    (folder / "c.JSONL").write_text(ROW)
    for name in (
        "LICENSE.txt",
        "Readme_ja.txt",
        "NOTICE.TXT",
        "dataset_info.json",
        "x.pdf",
        "y.pdf",
        "z.zip",
        "Makefile",
    ):
        (folder / name).write_text('{"text": "no text of the corpus"}')
    (folder / "d.csv").write_text("text\nこんにちは\n")
    (folder / "e.jsonl.bz2").write_bytes(b"BZh")
    (folder / "f.txt").mkdir()
    with caplog.at_level(logging.WARNING):
        assert texts_of(folder) == [*["日本語の文。"] * 4, "こんにちは"]
    (line,) = caplog.messages
    assert line.split("; readable")[0] == (
        f"{folder}: left out 1 .bz2 cut off at its beginning, 1 .json that is not one object a line, 2 .pdf, "
        "1 .zip (unpack), 3 licence or readme, 1 without suffix"
    )


def test_hidden_files_and_folders_are_left_out(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_text(ROW)
    (tmp_path / "._a.jsonl").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "a-checkpoint.jsonl").write_text(ROW)
    with caplog.at_level(logging.WARNING):
        assert texts_of(tmp_path) == ["日本語の文。"]
    assert "left out 2 hidden;" in caplog.text
    hidden = tmp_path / ".corpus"
    hidden.mkdir()
    (hidden / "a.jsonl").write_text(ROW)
    assert texts_of(hidden) == ["日本語の文。"]  # named by the user


def test_links_are_followed_once(tmp_path):
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "b.jsonl").write_text(ROW)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jsonl").write_text(ROW.replace("日", "月"))
    (folder / "link").symlink_to(outside)
    (folder / "again").symlink_to(outside / "deep")
    (folder / "loop").symlink_to(folder)
    (folder / "z.jsonl").symlink_to(folder / "a.jsonl")
    (folder / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    assert texts_of(folder) == ["月本語の文。", "日本語の文。"]


def test_files_of_the_hub_cache_are_links_to_blobs_without_suffix(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0f3a").write_text(ROW)
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "train.jsonl").symlink_to("../../blobs/0f3a")
    assert texts_of(tmp_path) == texts_of(snapshot) == ["日本語の文。"]


@pytest.mark.timeout(20)
def test_nothing_waits_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text(ROW)
    assert texts_of(tmp_path) == ["日本語の文。"]
    with pytest.raises(InputError, match=r"a\.jsonl: neither a file nor a folder"):
        texts_of(tmp_path / "a.jsonl")


def test_a_folder_packed_before_keeps_its_fingerprint(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "b.txt").write_text("y")
    # sha256 of ".jsonl 14\n" + content + ".txt 1\n" + content, as version 0.1.0 wrote it
    assert content_hash(SourceConfig(str(tmp_path))) == (
        "1c1950a21681de6ea9a0b094ff2dae6d048d990314134ac4849794612c2bf92b"
    )


def test_dedup_and_pack_see_the_same_files(tmp_path, encoder, capfd):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.json").write_text(ROW * 2)
    shutil.copy(folder / "a.json", folder / "B.JSONL")
    write_jsonl([{"text": "別の文。"}], folder / "c.jsonl")
    assert main(["data", "dedup", "--sources", str(folder), "--output_dir", str(tmp_path / "drop")]) == 0
    assert "3 exact and 0 near duplicates among 5 documents" in capfd.readouterr().out
    source = SourceConfig(str(folder), exclude=str(tmp_path / "drop" / "docs.duplicates.jsonl"))
    size = TokenShards(pack(source, encoder, tmp_path / "shards", 0)).size
    assert (size.num_documents, size.num_duplicate_documents) == (2, 3)
