"""The texts of a run: what is trained on is not evaluated on."""

from pathlib import Path

import pytest

from jpllm.data.corpus import DataConfig, evaluation_texts, weights_with_replay
from jpllm.data.read.sources import SourceConfig
from jpllm.runtime import InputError


def config(sources, eval_sources):
    return DataConfig(sources=sources, eval_sources=eval_sources, shards_dir=Path("shards"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "works.jsonl"
    path.write_text(
        '{"text": "雪が降る。", "year": "1906"}\n{"text": "雨が降る。", "year": "1914"}\n', encoding="utf-8"
    )
    return path


def test_a_text_that_is_trained_on_is_not_evaluated_on(file):
    other_name_of_it = file.parent / "." / "link.jsonl"
    other_name_of_it.symlink_to(file)
    texts = config([SourceConfig(str(file))], [SourceConfig(str(other_name_of_it))])
    with pytest.raises(InputError, match=r"eval_sources: .*link\.jsonl is trained on as well \(works\), so its loss"):
        evaluation_texts(texts, None, [])


def test_other_rows_of_the_same_file_are_another_text(file, encoder):
    rows = {"year": "1906"}, {"year": "1914"}
    texts = config(*([SourceConfig(str(file), where=where)] for where in rows))
    (text,) = evaluation_texts(texts, encoder, [])
    assert text.documents == ["雨が降る。"]


def test_a_weight_of_a_text_to_evaluate_on_cannot_act(file):
    problems = list(config([SourceConfig("a.txt")], [SourceConfig(str(file), weight=2.0)]).check())
    assert ("eval_sources", "weight: it acts among sources only; remove it") in problems


def test_replayed_sources_share_by_size():
    assert weights_with_replay([30, 10], None, [100, 300], 0.2) == pytest.approx([0.6, 0.2, 0.05, 0.15])
    assert weights_with_replay([30, 10], [1, 1], [5], 0.5) == [0.25, 0.25, 0.5]
