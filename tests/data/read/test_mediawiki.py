import bz2
import gzip
import io
import re
import tracemalloc
from xml.sax.saxutils import escape

import pytest

from jpllm.data.clean.wikitext.plain_text import plain_text
from jpllm.data.read.mediawiki import read_pages
from jpllm.runtime import InputError

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="ja">
  <siteinfo>
    <sitename>見本</sitename>
    <dbname>samplewiki</dbname>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="10" case="first-letter">Template</namespace>
    </namespaces>
  </siteinfo>
"""
TAIL = "</mediawiki>\n"


def revision(text: str | None, timestamp: str = "2026-01-01T00:00:00Z", model: str = "wikitext", attributes: str = ""):
    body = "" if text is None else escape(text)
    return f"""    <revision>
      <id>7</id>
      <timestamp>{timestamp}</timestamp>
      <contributor><username>誰か</username><id>3</id></contributor>
      <comment>題 &lt;title&gt;</comment>
      <origin>7</origin>
      <model>{model}</model>
      <format>text/x-wiki</format>
      <text bytes="{len(body.encode())}" xml:space="preserve" {attributes}>{body}</text>
      <sha1>0</sha1>
    </revision>
"""


def page(title: str, *revisions: str, ns: int = 0, extra: str = "") -> str:
    return f"  <page>\n    <title>{title}</title>\n    <ns>{ns}</ns>\n{extra}{''.join(revisions)}  </page>\n"


PAGES = [
    page("山", revision("'''山'''は[[地形]]の一つ。")),
    page("やま", revision("#転送 [[山]]"), extra='    <redirect title="山" />\n'),
    page("昔の転送", revision("#REDIRECT [[山]]")),
    page("見本.css", revision("p { }", model="sanitized-css")),
    page("Template:箱", revision("箱"), ns=10),
    page(
        "川 &amp; 海",
        revision("古い", "2024-01-01T00:00:00Z"),
        revision("新しい。\n\n2 < 3", "2026-01-01T00:00:00Z"),
        revision("中ごろ", "2025-01-01T00:00:00Z"),
    ),
    page("消えた版", revision(None, attributes='deleted="deleted"').replace('bytes="0"', 'bytes="9"')),
    page("失われた版", revision(None).replace('bytes="0"', 'bytes="9"')),
    page("白紙", revision("")),
    page("谷", revision("谷の文。")),
]
DUMP = (HEAD + "".join(PAGES) + TAIL).encode()
ARTICLES = [("山", "山は地形の一つ。"), ("川 & 海", "新しい。\n\n2 < 3"), ("谷", "谷の文。")]


def read_dump(stream, name: str, **settings) -> list[tuple[str, str]]:
    return [(title, plain_text(wikitext)) for title, wikitext in read_pages(stream, name, **settings)]


def read(data: bytes, **settings) -> list[tuple[str, str]]:
    return read_dump(io.BytesIO(data), "a.xml", **settings)


def test_articles_of_a_dump():
    assert read(DUMP) == ARTICLES


def test_multistream_bz2_and_gzip():
    parts = [HEAD.encode(), *(p.encode() for p in PAGES), TAIL.encode()]
    multistream = b"".join(bz2.compress(part) for part in parts)
    assert (read_dump(bz2.BZ2File(io.BytesIO(multistream)), "a.xml.bz2")) == ARTICLES
    assert (read_dump(gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(DUMP))), "a.xml.gz")) == ARTICLES


def test_namespaces_and_wikitext():
    assert read(DUMP, namespaces=[10]) == [("Template:箱", "箱")]
    assert next(read_pages(io.BytesIO(DUMP), "a.xml")) == ("山", "'''山'''は[[地形]]の一つ。")


def test_export_without_a_version_namespace_and_ns_element():
    old = "<mediawiki><page><title>a</title><revision><text>b</text></revision></page></mediawiki>"
    assert read(old.encode()) == [("a", "b")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a.xml: not a MediaWiki XML export, or cut off before its first page: malformed or incomplete XML (no"),
        (b"text", "a.xml: not a MediaWiki XML export"),
        (b"<html><p/></html>", "a.xml: not a MediaWiki XML export: its root is <html>, not <mediawiki>"),
        (DUMP[: DUMP.index("<title>谷".encode())], "a.xml: after page '白紙': malformed or incomplete XML (no element"),
        (DUMP.replace("中ごろ".encode(), b"<b>"), "a.xml: after page 'Template:箱': malformed or incomplete XML (mis"),
        (DUMP.replace("古い".encode(), b"\xff"), "a.xml: after page 'Template:箱': malformed or incomplete XML (not"),
        (
            (HEAD + page("山", revision(None, attributes='location="tt:1"')) + TAIL).encode(),
            "a.xml: page '山' has no text; a stub dump holds none, use …-pages-articles.xml.bz2",
        ),
    ],
)
def test_bad_xml_names_file_and_place(data, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read(data)


@pytest.mark.parametrize(("pack", "unpack"), [(bz2.compress, bz2.open), (gzip.compress, gzip.open)])
@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"x" + data])
def test_damaged_compressed_file(pack, unpack, damage):
    stream = unpack(io.BytesIO(damage(pack(DUMP))))
    with pytest.raises(InputError, match=r"a\.xml\.z: .*damaged or incomplete compressed file"):
        list(read_pages(stream, "a.xml.z"))


class Repeated(io.RawIOBase):
    """A stream of `head`, `num_parts` times `part`, and `tail`, that is never in memory as a whole."""

    def __init__(self, head: str, part: str, num_parts: int, tail: str) -> None:
        self._parts = (text.encode() for texts in ([head], (part for _ in range(num_parts)), [tail]) for text in texts)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        part = next(self._parts, b"")
        buffer[: len(part)] = part
        return len(part)


@pytest.mark.parametrize("many", ["pages", "revisions"])
def test_memory_is_that_of_one_page(many):
    head, part, tail, count = HEAD, page("山", revision("文。" * 600)), TAIL, 2000
    if many == "revisions":
        start, end = part.index("    <revision>"), part.index("  </page>")
        head, part, tail = head + part[:start], part[start:end], part[end:] + tail
    stream = io.BufferedReader(Repeated(head, part, count, tail), 1 << 16)
    tracemalloc.start()
    num_pages = sum(1 for _ in read_pages(stream, "a.xml"))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_pages == (count if many == "pages" else 1)
    assert peak_bytes < 1 << 20  # of 8 MB
