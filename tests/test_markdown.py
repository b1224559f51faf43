from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from jpllm import markdown

TEXTS = [
    "a|b",
    "\\|",
    "\\",
    "*a* **b** `c` ~~d~~ $e$",
    "_a_ __b__ a_b _c a_ a__b ._a",
    "held_out 猫_犬 (_x_)",
    "<script>alert(1)</script>",
    "[a](b) ![c](d) [1]",
    "x\ny\r\n\nz",
    "AT&T &lt;b&gt; &#35;",
    "# - 1. > +",
]


class Shown(HTMLParser):
    """What a browser shows of cells, row by row, and all tags."""

    def __init__(self):
        super().__init__()
        self.rows, self.tags, self.is_cell = [], set(), False

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.is_cell = True
        if tag == "br":
            self.rows[-1][-1] += "\n"

    def handle_endtag(self, tag):
        self.is_cell = self.is_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.is_cell:
            self.rows[-1][-1] += data


@pytest.mark.parametrize("text", TEXTS)
def test_a_renderer_shows_what_was_written(text):
    shown = Shown()
    source = markdown.table(["", text], [[text, ""], ["x", text]], [[text, "y"]], are_numbers=True)
    shown.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(source))
    expected = text.replace("\r\n", "\n")
    assert shown.rows == [["", expected], [expected, ""], ["x", expected], [expected, "y"]]
    assert shown.tags <= {"table", "thead", "tbody", "tr", "th", "td", "br", "em"}


def test_rows_below_and_numbers():
    found = markdown.table(["a", "b", "c"], [["1", "2", "3"]], [["x|", "", "*"]], are_numbers=True)
    assert found == "| a | b | c |\n| --- | ---: | ---: |\n| 1 | 2 | 3 |\n| *x\\|* |  | *\\** |\n"


def test_a_terminal_shows_texts_as_they_are():
    console = Console(width=60, record=True)
    console.print(markdown.terminal_table(["", "[bold]a"], [["a_|*", "\\[x]"]]))
    lines = console.export_text().splitlines()
    assert [cell.strip() for cell in lines[1].strip("┃").split("┃")] == ["", "[bold]a"]
    assert [cell.strip() for cell in lines[3].strip("│").split("│")] == ["a_|*", "\\[x]"]


def test_a_table_shows_texts_as_they_are():
    found = markdown.table(["", "a|b"], [["<script>", "x\ny"], ["*_`#~$[]\\", ""]])
    assert found == ("|  | a\\|b |\n| --- | --- |\n| \\<script\\> | x<br>y |\n| \\*\\_\\`\\#\\~\\$\\[\\]\\\\ |  |\n")


def test_an_entity_is_shown_as_it_was_written():
    assert markdown.escaped("AT&T &lt;b&gt; &#35;") == "AT&amp;T &amp;lt;b&amp;gt; &amp;\\#35;"
