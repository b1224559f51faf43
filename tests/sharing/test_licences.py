import pytest

from jpllm.sharing import licences
from jpllm.sharing.licences import Licence
from jpllm.tracking.runs import Run

LLAMA = Licence("llama3.1", link="https://example.com/licence")
NOTICE = (
    "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved."
)


def folder_with(path, card=None, **files):
    path.mkdir(parents=True)
    if card is not None:
        (path / "README.md").write_text(f"---\n{card}\n---\n# X\n", encoding="utf-8")
    for name, text in files.items():
        (path / name.replace("_txt", ".txt")).write_text(text)
    return path


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("license: llama3.1", ("llama3.1", None, None, "llama3.1")),
        (
            "license: other\nlicense_name: qwen-research\nlicense_link: LICENSE",
            ("other", "qwen-research", "LICENSE", "qwen-research"),
        ),
        ("license: unknown", (None, None, None, None)),
        ("language: ja", (None, None, None, None)),
        ("license: [a, b]", (None, None, None, None)),
        ("license: {", (None, None, None, None)),
        (None, (None, None, None, None)),
    ],
)
def test_read_from_the_card(card, expected, tmp_path):
    found = licences.licence_of(folder_with(tmp_path / "Llama-3.1-8B", card))
    assert (found.identifier, found.name, found.link, found.known_as) == expected


def test_files_of_a_licence(tmp_path):
    folder = folder_with(tmp_path / "m", "license: gemma", LICENSE_txt="text", NOTICE="notice", config="{}")
    found = licences.licence_of(folder)
    assert [path.name for path in found.files] == ["LICENSE.txt", "NOTICE"]
    (tmp_path / "to").mkdir()
    licences.copy_files(found, tmp_path / "to")
    assert {path.name: path.read_text() for path in (tmp_path / "to").iterdir()} == {
        "LICENSE.txt": "text",
        "NOTICE": "notice",
    }
    assert licences.describe(Licence(None, files=found.files)) == ["unknown: look into LICENSE.txt, NOTICE"]


def test_the_model_of_another_run_names_the_model_before(tmp_path):
    from tests.sharing.card import card_runs

    base = folder_with(tmp_path / "base", "license: llama3.1")
    first = card_runs.write(tmp_path / "first", "continued", model=str(base))
    second = card_runs.write(tmp_path / "second", "instructed", model=str(first / "model"))
    for run in (first, second):
        found = licences.of_base(licences.read_run(run, run.name))
        assert found.known_as == "llama3.1"
    assert licences.of_base(licences.read_run(card_runs.write(tmp_path / "new", "scratch"), "new")) is None
    assert licences.of_base(Run("x", "finished", settings={"model": "nobody/nothing"})) == Licence(None)


def test_duties_of_llama():
    assert licences.describe(LLAMA)[:4] == [
        "llama3.1 (https://example.com/licence)",
        'the name of a model made from it begins with "Llama"',
        'its card displays "Built with Llama"',
        "a model made from it comes under the same licence",
    ]
    assert list(licences.problems(LLAMA, None, {"title": "Llama-3.1-neko"})) == []
    licence, name = licences.problems(LLAMA, "apache-2.0", {"title": "neko"})
    assert licence.startswith(
        "license: the model was made from one under llama3.1, which passes to models made from it"
    )
    assert name.endswith("""begins with "Llama"; 'neko' does not: "Llama-neko" does""")
    assert licences.words_missing(LLAMA, "a card") == ["Built with Llama", NOTICE]
    assert licences.words_missing(LLAMA, f"Built with Llama.\n> {NOTICE[:30]}\n> {NOTICE[30:]}") == [NOTICE]
    assert licences.words_missing(LLAMA, f"x\n> Built with\n> Llama. {NOTICE}") == []


def test_other_licences():
    assert list(licences.problems(Licence("apache-2.0"), "mit", {"title": "neko"})) == []
    assert list(licences.problems(Licence("mine"), "mit", {"title": "neko"})) == []
    assert licences.describe(Licence("mine")) == ["mine", "what it asks is not known here: read it"]
    assert licences.describe(Licence(None)) == ["unknown: look where the model was published"]
    assert "The model must not be used commercially." in licences.describe(Licence("cc-by-nc-4.0"))
    assert Licence("llama3").duties.begins_with == "Llama 3"
    assert Licence("other", "qwen-research").duties.shown == "Built with Qwen"


def test_every_identifier_is_one_of_the_hub_or_a_name():
    from jpllm.sharing.hub import LICENCES

    assert {name for name in licences.DUTIES if name not in LICENCES} == {
        *("qwen", "qwen-research", "tongyi-qianwen", "llama4"),
    }
