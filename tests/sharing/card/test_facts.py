import pytest

from jpllm.sharing.card import facts as card_facts
from jpllm.sharing.card.facts import TrainedOn
from jpllm.tracking.runs import read_run
from tests.sharing.card import card_runs
from tests.tracking.run_folders import write_rows


@pytest.mark.parametrize(
    ("kind", "found", "tag", "base"),
    [
        ("scratch", "scratch", "text-generation", (None, False)),
        ("masked", "scratch", "fill-mask", (None, False)),
        ("continued", "continued", "text-generation", ("openai-community/gpt2", True)),
        ("instructed", "instructed", "text-generation", ("base", False)),
        ("classifier", "classifier", "text-classification", ("base", False)),
    ],
)
def test_each_recipe(kind, found, tag, base, tmp_path):
    run = read_run(card_runs.write(tmp_path / "a", kind), "a")
    assert card_facts.kind_of(run) == found
    assert card_facts.pipeline_tag(card_runs.KINDS[kind][2]) == tag
    assert card_facts.base_model(run) == base
    assert card_facts.hardware(run) == "2 × Example GPU"
    assert card_facts.commits(run) == card_runs.COMMIT
    assert card_facts.versions(run) == {"jpllm": "0.1.0", "torch": "2.13.0"}


def test_sources_with_licences_and_shares(tmp_path):
    run = read_run(card_runs.write(tmp_path / "a", "continued"), "a")
    aozora = TrainedOn("aozora", "CC BY 4.0", "globis-university/aozorabunko-clean", 0.75, 0.75, 3000.0, 1.5)
    assert card_facts.trained_on(run, {}) == [aozora, TrainedOn("diary", None, None, 0.25, 0.25, 1000.0, 1.5)]
    assert card_facts.trained_on(run, {"diary": "MIT"})[1].licence == "MIT"
    run = read_run(card_runs.write(tmp_path / "b", "classifier"), "b")
    assert card_facts.trained_on(run, {}) == [TrainedOn("diary", None)]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([{"text": "吾輩は猫である。"}, {"text": "12"}, {"text": "名前はまだ無い。"}], ["ja"]),
        ([{"messages": [{"role": "user", "content": "はい。"}]}], ["ja"]),
        ([{"text": "I am a cat.", "source": "ねこ", "label": "よい"}], []),
        ([{"text": "吾輩は猫である。"}, {"text": "a"}, {"text": "b"}], []),
        ([], []),
    ],
)
def test_japanese_is_told_by_its_kana(rows, found, tmp_path):
    write_rows(tmp_path / "held_out.jsonl", rows)
    assert card_facts.languages_of(tmp_path) == found


def test_without_a_record(tmp_path):
    assert card_facts.languages_of(tmp_path) == []
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}')
    run = read_run(tmp_path, "a")
    assert card_facts.kind_of(run) == "unknown"
    assert card_facts.trained_on(run, {}) == []
    assert (card_facts.hardware(run), card_facts.commits(run), card_facts.versions(run)) == (None, None, {})
