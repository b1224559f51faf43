from html.parser import HTMLParser

import pytest
from rich.console import Console

from jpllm.evaluation import leaderboard_page
from jpllm.evaluation.leaderboard import Table
from jpllm.runtime import InputError

TABLES = [
    Table("Results", ["model", "text, bits/byte"], [["<b>a|b</b>", "1.5"]], [["xz -9", "2.5"]], ["a & b"]),
    Table("Not compared", ["results", "reason"], [["x", "y"]], is_text=True),
]


class Cells(HTMLParser):
    """The texts of the cells, row by row; everything that loads something is an error."""

    def __init__(self):
        super().__init__()
        self.rows, self.inside = [], False

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "img", "b")
        assert not {name for name, _ in attributes} & {"src", "href"}
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_page_is_whole_and_escaped(tmp_path):
    file = tmp_path / "new" / "board.html"
    leaderboard_page.write(file, TABLES)
    page = file.read_text(encoding="utf-8")
    cells = Cells()
    cells.feed(page)
    header, model, line, *others = cells.rows
    assert (header, model, line) == (["model", "text, bits/byte"], ["<b>a|b</b>", "1.5"], ["xz -9", "2.5"])
    assert others == [["results", "reason"], ["x", "y"]]
    assert "<li>a &amp; b</li>" in page
    assert "color-scheme: light dark" in page
    assert 'name="viewport"' in page


def test_markdown(tmp_path):
    leaderboard_page.write(tmp_path / "board.md", TABLES)
    assert (tmp_path / "board.md").read_text(encoding="utf-8").splitlines() == [
        "# Leaderboard",
        "",
        "## Results",
        "",
        "| model | text, bits/byte |",
        "| --- | --- |",
        r"| \<b\>a\|b\</b\> | 1.5 |",
        "| *xz -9* | *2.5* |",
        "",
        "- a &amp; b",
        "",
        "## Not compared",
        "",
        "| results | reason |",
        "| --- | --- |",
        "| x | y |",
    ]


def test_terminal():
    console = Console(width=60, record=True)
    for table in leaderboard_page.terminal(TABLES):
        console.print(table)
    shown = console.export_text()
    assert "<b>a|b</b>" in shown
    assert "a & b" in shown
    assert shown.index("a|b") < shown.index("xz -9") < shown.index("Not compared")


def test_other_names_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"ends with \.md or \.html"):
        leaderboard_page.write(tmp_path / "board.txt", TABLES)
    assert not list(tmp_path.iterdir())
