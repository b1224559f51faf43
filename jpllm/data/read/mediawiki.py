"""Read a MediaWiki XML dump as titles and wikitext, in memory for one page.

Format: https://www.mediawiki.org/wiki/Help:Export (schema export-0.11; older versions are read too).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO
from xml.etree import ElementTree

from jpllm.data.read.files import DECOMPRESSION_ERRORS
from jpllm.runtime import InputError

_MAX_PAGE_BYTES, _MAX_PAGE_ELEMENTS = 1 << 26, 1 << 16  # thirty times what MediaWiki lets a page have, and more
_REDIRECT = re.compile(r"\s*#(?:redirect|転送|リダイレクト)\b", re.IGNORECASE)


def read_pages(stream: BinaryIO, name: str, namespaces: Sequence[int] = (0,)) -> Iterator[tuple[str, str]]:
    """Yield title and wikitext of the latest revision of each page; one page is in memory at a time.

    Left out are redirects, pages whose content model is not wikitext, and empty or deleted texts.

    Args:
        stream: the decompressed bytes of the dump.
        name: what error messages call it, such as the path of the file.
        namespaces: numbers of the namespaces to read; 0 holds the articles.

    Raises:
        InputError: malformed or truncated XML, a damaged compressed file (as `stream` reports it), something that is
            not a MediaWiki export, or one without texts.
    """
    where, wanted = "not a MediaWiki XML export, or cut off before its first page", set(map(str, namespaces))
    try:
        for title, namespace, wikitext in _all_pages(stream, name):
            where = f"after page {title!r}"
            if namespace in wanted and wikitext.strip() and not _REDIRECT.match(wikitext):
                yield title, wikitext
    except ElementTree.ParseError as error:
        raise InputError(f"{name}: {where}: malformed or incomplete XML ({error})") from None
    except DECOMPRESSION_ERRORS as error:
        raise InputError(f"{name}: {where}: damaged or incomplete compressed file ({error})") from None


def _all_pages(stream: BinaryIO, name: str) -> Iterator[tuple[str, str, str]]:
    """Yield title, namespace and wikitext of each page; the wikitext is empty for what is no article."""
    root: ElementTree.Element | None = None
    page: ElementTree.Element | None = None
    prefix = ""
    bounded = _BoundedPages(stream, name)
    for event, element in ElementTree.iterparse(bounded, events=("start", "end")):
        bounded.count_element()
        if root is None:
            root, prefix = element, element.tag.removesuffix("mediawiki")
            if prefix and not re.fullmatch(r"\{[^{}]*\}", prefix):
                raise InputError(f"{name}: not a MediaWiki XML export: its root is <{element.tag}>, not <mediawiki>")
        elif event == "start":
            page = element if element.tag == f"{prefix}page" else page
        elif page is not None and element.tag == f"{prefix}revision":
            revisions = page.findall(element.tag)
            if len(revisions) > 1:  # of a full history only the latest stays in memory
                page.remove(min(revisions, key=lambda revision: revision.findtext(f"{prefix}timestamp", "")))
            bounded.begin()
        elif element.tag == f"{prefix}page":
            title = element.findtext(f"{prefix}title", "")
            yield title, element.findtext(f"{prefix}ns", "0"), _wikitext(element, prefix, title, name)
            root.clear()
            bounded.begin()


class _BoundedPages:
    """The bytes of a dump, as long as pages and their revisions end before memory does."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self._name = stream, name
        self.begin()

    def begin(self) -> None:
        """Begin to count anew, at the end of a page or a revision."""
        self._num_bytes = self._num_elements = 0

    def count_element(self) -> None:
        """Count an element's beginning or end. Raises InputError when a page does not end."""
        self._num_elements += 1
        if self._num_elements > _MAX_PAGE_ELEMENTS:
            raise InputError(f"{self._name}: a page of more than {_MAX_PAGE_ELEMENTS:,} elements; no wiki has such")

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes. Raises InputError when a page does not end."""
        content = self._stream.read(size)
        self._num_bytes += len(content)
        if self._num_bytes > _MAX_PAGE_BYTES:
            raise InputError(f"{self._name}: a page of more than {_MAX_PAGE_BYTES:,} bytes; no wiki has such")
        return content


def _wikitext(page: ElementTree.Element, prefix: str, title: str, name: str) -> str:
    revision = page.find(f"{prefix}revision")
    if revision is None or page.find(f"{prefix}redirect") is not None:
        return ""
    if revision.findtext(f"{prefix}model", "wikitext") != "wikitext":
        return ""
    text = revision.find(f"{prefix}text")
    if text is None or "deleted" in text.attrib:
        return ""
    if not text.text and ("location" in text.attrib or "id" in text.attrib):
        raise InputError(f"{name}: page {title!r} has no text; a stub dump holds none, use …-pages-articles.xml.bz2")
    return text.text or ""
