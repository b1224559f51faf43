"""The table of families says what the code does, for every family."""

import re
import sys

import pytest

from tests.configs.test_configs import ROOT, load_recipe

sys.path.insert(0, str(ROOT / "benchmarks"))  # as for a script of that folder
families = load_recipe(ROOT / "benchmarks" / "model_families.py")
PAGES = [ROOT / name for name in families.PAGES]
MUST_WORK = ("loads as", "around a text", "trains", "resumes", "LoRA, error of merging")
ENGLISH = [column.english for column in families.COLUMNS]


def rows_of(page) -> dict[str, list[str]]:
    """Return the cells of each family on a page, with the words of the refusals in the place of their numbers."""
    text = page.read_text(encoding="utf-8")
    text = text[text.index(families.BEGIN) : text.index(families.END)]
    notes = re.findall(r"^(\d+)\. (.+(?:\n   .+)*)", text, re.MULTILINE)
    words = {f"– ({number})": " ".join(note.split()) for number, note in notes}
    rows = re.findall(r"^\| (?!---)(.+) \|$", text, re.MULTILINE)[1:]
    cells = [row.split(" | ") for row in rows]
    return {name: [words.get(cell, cell) for cell in answers] for name, *answers in cells}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_have_all_families_and_the_same_answers(page):
    rows = rows_of(page)
    assert list(rows) == list(families.FAMILIES)
    assert rows == rows_of(PAGES[0])
    assert {len(cells) for cells in rows.values()} == {len(families.COLUMNS)}
    assert not [cell for cells in rows.values() for cell in cells if re.match(r"\w+(Error|Exception): ", cell)]


@pytest.mark.slow
@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_family_is_as_the_page_says(name, monkeypatch):
    monkeypatch.setattr("jpllm.runtime.use_all_cores", lambda: None)
    cells, refusals = families.row_of(families.FAMILIES[name])
    assert [refusals[ENGLISH.index(column)] for column in MUST_WORK if ENGLISH.index(column) in refusals] == []
    merging = ENGLISH.index("LoRA, error of merging")
    assert float(cells[merging]) < 1e-5
    expected = rows_of(PAGES[0])[name]
    found = [refusals.get(number, cell) for number, cell in enumerate(cells)]
    found[merging] = expected[merging]  # differs from machine to machine
    assert found == expected
