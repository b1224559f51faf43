"""Samples say how they were drawn, and are drawn again only where that is otherwise; their measures counted by hand."""

import pytest

from jpllm.evaluation import samples
from jpllm.evaluation.generate import Answer, SamplingConfig
from jpllm.evaluation.samples import SampleQuality, sample_quality
from jpllm.models.build import build_from_scratch
from jpllm.models.presets import ModelConfig
from jpllm.tokenizer.load import load


@pytest.fixture(scope="module")
def model_and_tokenizer(tokenizer_dir):
    tokenizer = load(tokenizer_dir)
    shape = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "max_positions": 64}
    return build_from_scratch(ModelConfig(model="neox-tiny", **shape), tokenizer, seed=0).eval(), tokenizer


def test_samples_and_their_settings(model_and_tokenizer, monkeypatch):
    results, sampling = {}, SamplingConfig(max_new_tokens=4, temperature=0.5, top_p=0.9)
    samples.add_missing(results, *model_and_tokenizer, ["むかし", "猫"], sampling, seed=3)
    assert [row["prompt"] for row in results["samples"]] == ["むかし", "猫"]
    assert results["sample_quality"]["num_texts"] == 2
    settings = results["sample_settings"]
    assert settings.pop("versions")["torch"]
    assert "commit" in settings
    settings["commit"] = "earlier"
    assert settings == {
        "prompts": ["むかし", "猫"],
        "seed": 3,
        "max_new_tokens": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 0,
        "commit": "earlier",
    }
    samples.add_missing(results, *model_and_tokenizer, ["むかし", "猫"], sampling, seed=3)
    assert results["sample_settings"]["commit"] == "earlier"
    samples.add_missing(results, *model_and_tokenizer, ["むかし", "猫"], sampling, seed=4)
    assert (results["sample_settings"]["seed"], len(results["samples"])) == (4, 2)
    samples.add_missing(results, *model_and_tokenizer, ["猫"], sampling, seed=4)
    assert [row["prompt"] for row in results["samples"]] == ["猫"]


def quality(*texts, ended=()):
    return sample_quality([Answer(text, index in ended, 1) for index, text in enumerate(texts)])


def test_all_measures():
    found = quality("あいうえ、abc", "ああ　ああ\nああ", ended={1})
    assert found == SampleQuality(
        num_texts=2,
        num_characters=8 + 6,
        japanese=pytest.approx(10 / 13),  # あいうえ and six あ, of those and abc
        repeated=pytest.approx(2 / 8),  # ああああ comes three times
        distinct_1=pytest.approx(8 / 14),  # あいうえ、abc
        distinct_2=pytest.approx(8 / 12),  # seven in the first text, ああ in the second
        ended=0.5,
    )


def test_width_of_characters_does_not_matter():
    assert quality("ＡＢｱ").japanese == pytest.approx(1 / 3)


def test_nothing_to_count():
    assert quality("") == SampleQuality(1, 0, None, None, None, None, 0.0)
    assert quality() == SampleQuality(0, 0, None, None, None, None, None)
    assert quality("、。").japanese is None
