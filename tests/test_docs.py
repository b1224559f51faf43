"""The documentation: messages that it explains exist, links lead somewhere, both languages have the same parts."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")


def name(page) -> str:
    return page.name


@pytest.mark.parametrize("page", ["troubleshooting.md", "troubleshooting.ja.md"])
def test_the_messages_that_are_explained_exist(page) -> None:
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "jpllm").rglob("*.py")]
    constants = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    texts = [value for value in constants if isinstance(value, str)]
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 15
    assert [row for row in rows if not any(row in text for text in texts)] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name.endswith(".ja.md")], ids=name)
def test_both_languages_have_the_same_parts(page) -> None:
    english = page.with_name(page.name.replace(".ja.md", ".md")).read_text(encoding="utf-8")
    japanese = page.read_text(encoding="utf-8")
    for start in ("## ", "```"):
        lines = [[line for line in text.splitlines() if line.startswith(start)] for text in (english, japanese)]
        assert len(lines[0]) == len(lines[1]), start
