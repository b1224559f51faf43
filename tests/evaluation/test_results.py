"""What results are of (whatever changes a model's answers changes a checksum), and how they are read back."""

import json

import pytest

from jpllm.evaluation.results import SUMS, identity, measured_with, read
from jpllm.models.build import build_from_scratch, load_trained
from jpllm.models.presets import ModelConfig
from jpllm.runtime import InputError
from jpllm.tokenizer.load import load
from tests.evaluation.test_leaderboard import jnli, text, write


def test_results_are_read_without_averages(tmp_path):
    folder = write(tmp_path / "a", "m", [text(1.5), {"text": "average", "bits_per_byte": 1.5}], [jnli()])
    for path in (folder, folder / "evaluation.json"):
        results = read(path)
        assert (results.label, results.perplexity, results.jglue) == ("m", [text(1.5)], [jnli()])
        assert [versions["lm_eval"] for versions in results.versions] == ["0.4.13"]


def test_versions_are_those_of_the_rows(tmp_path):
    rows = [jnli(versions={"torch": "2.9"}), jnli(metric="balanced_acc", versions={"torch": "2.9"})]
    results = read(write(tmp_path / "a", "m", [text(1.5, versions={"torch": "2.8"})], rows))
    assert results.versions == [{"torch": "2.8"}, {"torch": "2.9"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "names no model"),
        ({"jglue": [jnli()]}, "names no model"),
        ({"model": "m"}, "none of perplexity, jglue, jglue_finetuned was measured"),
        ({"model": "m", "jglue": {"acc": 1}}, "jglue is no list of rows"),
        ({"model": "m", "jglue": [jnli(), jnli("high")]}, "jglue, row 2: value is 'high', not a number"),
        ({"model": "m", "jglue": [jnli(task=None)]}, "jglue, row 1: task is None, not a text"),
        ({"model": "m", "jglue": [jnli(metric="bleu")]}, "jglue, row 1: unknown metric 'bleu'"),
        ({"model": "m", "perplexity": [{"text": "t"}]}, "perplexity, row 1: num_bytes is missing"),
        ({"model": "m", "jglue_finetuned": [{"n": 1}]}, "jglue_finetuned, row 1: value is missing"),
        (b"\xff", "broken JSON"),
    ],
)
def test_what_cannot_be_compared(tmp_path, content, message):
    file = tmp_path / "evaluation.json"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read(tmp_path)


HITS = {"left_out": "items", "num_left_out": 30, "n": 2400, "value": 0.39, "standard_error": 0.01}
NONE_LEFT = {**HITS, "n": 0, "value": None, "standard_error": None}


def test_scores_without_hits_are_read(tmp_path):
    rows = [jnli(without_hits=[HITS, {**HITS, "standard_error": None}, NONE_LEFT]), jnli(without_hits=[])]
    assert read(write(tmp_path / "a", "m", [], rows)).jglue == rows


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"items": HITS}, "without_hits is no list of entries"),
        (None, "without_hits is no list of entries"),
        ([HITS, "items"], "without_hits is no list of entries"),
        *(
            ([HITS, {key: HITS[key] for key in HITS if key != absent}], f"without_hits, entry 2: {absent} is missing")
            for absent in HITS
        ),
        ([{**HITS, "left_out": 3}], "without_hits, entry 1: left_out is 3, not a text"),
        ([{**HITS, "num_left_out": "30"}], "without_hits, entry 1: num_left_out is '30', not a number"),
        ([{**HITS, "n": None}], "without_hits, entry 1: n is None, not a number"),
        ([{**HITS, "value": None}], "without_hits, entry 1: value is None, not a number"),
        ([{**HITS, "standard_error": [0.01]}], r"without_hits, entry 1: standard_error is \[0\.01\], not a number"),
        ([{**NONE_LEFT, "value": "none"}], "without_hits, entry 1: value is 'none', not a number"),
    ],
)
def test_broken_scores_without_hits(tmp_path, entries, message):
    folder = write(tmp_path / "a", "m", [], [jnli(), jnli(without_hits=entries)])
    again = "; evaluate the model again into a new output_dir"
    with pytest.raises(InputError, match=f"evaluation.json: jglue, row 2: {message}{again}$"):
        read(folder)


@pytest.fixture(scope="module")
def made(tokenizer_dir, tmp_path_factory):
    tokenizer = load(tokenizer_dir)
    shape = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "max_positions": 64}
    build_from_scratch(ModelConfig(model="neox-tiny", **shape), tokenizer, seed=0).save_pretrained(
        folder := tmp_path_factory.mktemp("model")
    )
    return folder, tokenizer


def test_a_copy_is_the_same_model(made, tmp_path):
    folder, tokenizer = made
    load_trained(folder).save_pretrained(tmp_path)
    first, second = (identity("m", load_trained(place), tokenizer) for place in (folder, tmp_path))
    assert first == second
    assert set(first) == {"model", *SUMS}


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.config, "trained_sequence_length", 32),
        lambda model: model.config.rope_parameters.update(rope_theta=500.0),
        lambda model: setattr(model.generation_config, "eos_token_id", [2, 5]),
    ],
)
def test_settings_of_the_same_weights_are_another_model(made, change):
    folder, tokenizer = made
    model = load_trained(folder)
    before = identity("m", model, tokenizer)
    change(model)
    after = identity("m", model, tokenizer)
    assert [key for key in SUMS if before[key] != after[key]] == ["config_sha256"]


def test_measured_with():
    found = measured_with()
    assert set(found) == {"versions", "commit"}
    assert {"jpllm", "torch", "transformers"} < set(found["versions"])
