"""The documentation: messages that it explains exist, links lead somewhere, both languages have the same parts."""

from __future__ import annotations

import ast
import re

import pytest

from jpllm.models.build import transformers_config
from jpllm.models.presets import PRESETS, ModelConfig
from jpllm.planning.size import VocabularyOnly, model_size
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")
LINK_TO_PART = re.compile(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)")


PATH = re.compile(r"`((?:jpllm|recipes|tests|benchmarks|docs)/[\w./-]+)`")


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


def parts(page) -> set[str]:
    """The names by which GitHub links to the headings of a page."""
    headings = re.findall(r"^#+ (.+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_parts_of_pages(page) -> None:
    links = LINK_TO_PART.findall(page.read_text(encoding="utf-8"))
    assert [(target, part) for target, part in links if part not in parts(page.parent / (target or page.name))] == []


@pytest.mark.parametrize("page", [page for page in PAGES if not page.name.startswith("tracking")], ids=name)
def test_the_keys_in_tables_exist(page) -> None:
    """In the first column below `key` or `キー`; those of tracking.md are columns of metrics.jsonl."""
    sources = [file.read_text(encoding="utf-8") for file in [*ROOT.glob("jpllm/**/*.py"), *ROOT.glob("recipes/*.py")]]
    known = set(re.findall(r"^    (\w+): .+ = option\(", "\n".join(sources), re.MULTILINE))
    assert len(known) > 150
    tables = re.findall(r"^\| (?:key|キー) \|.*\n.*\n((?:\|.*\n)+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    cells = [row.split(" | ")[0] for table in tables for row in table.splitlines()]
    assert {key for cell in cells for key in re.findall(r"`(\w+)", cell)} - known == set()


@pytest.mark.parametrize("page", ["pretrain_scratch.md", "pretrain_scratch.ja.md"])
def test_the_table_of_presets(page) -> None:
    """Width × layers, heads, positions and parameters at 32,000 ids of every preset."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    expected = {}
    for preset, shape in PRESETS.items():
        size = model_size(transformers_config(ModelConfig(model=preset), VocabularyOnly(32_000)), shape.is_encoder)
        numbers = shape.hidden_size, shape.num_layers, shape.num_heads, shape.max_positions, size.num_parameters
        expected[preset] = [*numbers, shape.tie_embeddings]
    cell = r"([\d,]+)"
    found = re.findall(
        rf"^\| `([\w-]+)` \| [^|]+ \| {cell} × {cell} \| {cell} \| {cell} \| (\S+) .*\| {cell} \|$", text, re.M
    )
    rows = {preset: [int(x.replace(",", "")) for x in (*numbers, total)] for preset, *numbers, tied, total in found}
    assert {preset: [*rows[preset], tied in ("tied", "埋め込みと共有")] for preset, *_, tied, _ in found} == expected


@pytest.mark.parametrize("page", [page for page in PAGES if page.name.endswith(".ja.md")], ids=name)
def test_both_languages_have_the_same_parts(page) -> None:
    english = page.with_name(page.name.replace(".ja.md", ".md")).read_text(encoding="utf-8")
    japanese = page.read_text(encoding="utf-8")
    for start in ("## ", "```"):
        lines = [[line for line in text.splitlines() if line.startswith(start)] for text in (english, japanese)]
        assert len(lines[0]) == len(lines[1]), start


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_prose_is_wrapped(page) -> None:
    """At 120 characters, as code is; a row of a table, a link and a word cannot be broken."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "!["))]
    assert [line for line in lines if len(line) > 120 and " " in line.strip()] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CONTRIBUTING.ja.md"])
def test_the_places_for_changes_exist(page) -> None:
    paths = set(PATH.findall((ROOT / page).read_text(encoding="utf-8")))
    assert len(paths) > 20
    assert [path for path in sorted(paths) if "NAME" not in path and not (ROOT / path).exists()] == []


def test_both_languages_name_the_same_places_for_changes() -> None:
    pages = (ROOT / "CONTRIBUTING.md", ROOT / "CONTRIBUTING.ja.md")
    english, japanese = (set(PATH.findall(page.read_text(encoding="utf-8"))) for page in pages)
    assert english == japanese


def test_the_make_targets_of_the_documentation_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY: (.+)", makefile, re.MULTILINE)[0].split()
    named = {target for page in PAGES for target in re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8"))}
    assert len(named) > 8
    assert sorted(named - set(targets)) == []
