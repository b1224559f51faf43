"""The same wikitext gives the same text from a dump, from Parquet and from JSON lines."""

import bz2
from xml.sax.saxutils import escape

import pyarrow
import pyarrow.parquet
import pytest

from jpllm.data.clean.pipeline import CleanRule
from jpllm.data.documents import read_documents
from jpllm.data.read.jsonl import write_jsonl
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.fingerprints import document_fingerprint

PAGES = {
    "距離は{{convert|10|km}}である。": "距離は10 kmである。",
    "{{small|小さな}}字。\n{{quote|引いた文。}}": "小さな字。\n\n引いた文。",
    "面積は x<sup>2</sup>、水は H<sub>2</sub>O。": "面積は x^2、水は H2O。",
    "文。\n\n== 関連事項 ==\n* [[山]]\n\n== 外部リンク ==\n* [https://a.example 頁]": "文。",
    "文。\n== 空 ==\n{{節スタブ}}\n== 次 ==\n続き。": "文。\n\n次\n続き。",
    "{{読み仮名|山田|やまだ}}は、<nowiki>[[山]]</nowiki>と&lt;b&gt;を書く。": "山田（やまだ）は、[[山]]と<b>を書く。",
}  # fmt: skip


def dump(folder):
    page = "<page><title>頁</title><ns>0</ns><revision><text>{}</text></revision></page>"
    pages = "".join(page.format(escape(wikitext)) for wikitext in PAGES)
    file = folder / "wiki.xml.bz2"
    file.write_bytes(bz2.compress(f"<mediawiki>{pages}</mediawiki>".encode()))
    return file


def parquet(folder):
    file = folder / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": list(PAGES)}), file)
    return file


def jsonl(folder):
    file = folder / "b.jsonl"
    write_jsonl(({"text": wikitext} for wikitext in PAGES), file)
    return file


@pytest.mark.parametrize("write", [dump, parquet, jsonl])
def test_every_door_gives_the_same_text(write, tmp_path):
    source = SourceConfig(str(write(tmp_path)), clean=[CleanRule("wikipedia"), CleanRule("whitespace")])
    assert list(read_documents(source)) == list(PAGES.values())


def test_a_dump_needs_no_rule_and_none_runs_twice(tmp_path):
    source = SourceConfig(str(dump(tmp_path)))
    assert list(read_documents(source)) == list(PAGES.values())
    assert [rule.rule for rule in source.rules_for("plain")] == []


def test_a_dump_beside_other_files_is_known_file_by_file(tmp_path):
    dump(tmp_path)
    write_jsonl([{"text": "'''印'''は残る。"}], tmp_path / "z.jsonl")
    assert list(read_documents(SourceConfig(str(tmp_path)))) == [*PAGES.values(), "'''印'''は残る。"]


def test_only_shards_of_wikitext_know_its_version(tmp_path, monkeypatch):
    sources = [SourceConfig(str(dump(tmp_path))), SourceConfig(str(jsonl(tmp_path)), clean=[CleanRule("wikipedia")])]
    plain = SourceConfig(str(jsonl(tmp_path)), clean=[CleanRule("whitespace")])
    before = [document_fingerprint(source) for source in [*sources, plain]]
    monkeypatch.setattr("jpllm.data.shards.fingerprints.WIKITEXT_VERSION", 1)
    after = [document_fingerprint(source) for source in [*sources, plain]]
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, False, True]
