import pytest

from jpllm.commands.card import weights_of
from jpllm.commands.compare import keep_own
from jpllm.tokenizer.load import load
from jpllm.tracking.runs import Run
from tests.models.test_build import tiny_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, tokenizer_dir):
    folder = tmp_path_factory.mktemp("run") / "model"
    tokenizer = load(tokenizer_dir)
    tiny_model("llama-tiny", num_ids=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def evaluated(model, *weights):
    return Run("r", "finished", model=model and str(model), evaluations=[{"weights_sha256": one} for one in weights])


def kept(run):
    keep_own([run])
    return [found["weights_sha256"] for found in run.evaluations], run.remarks


def test_evaluations_of_other_weights_are_left_out(model_dir):
    own = weights_of(model_dir)
    assert kept(evaluated(model_dir, "0", own, None)) == (
        [own],
        ["2 of 3 evaluations are left out: of other weights"],
    )
    assert kept(evaluated(model_dir, own, own)) == ([own, own], [])
    assert kept(evaluated(model_dir, "0")) == ([], ["1 of 1 evaluations are left out: of other weights"])


def test_without_a_model_nobody_knows_whose_they_are(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{")
    unknown = "its evaluations may be of other weights: it has no model that they can be compared with"
    several = "2 of 2 evaluations are left out: of different weights, and no model tells which are its own"
    for model in (None, tmp_path / "model"):
        assert kept(evaluated(model, "0", "0")) == (["0", "0"], [unknown])
        assert kept(evaluated(model, "0", None)) == ([], [several])
    assert kept(evaluated(None)) == ([], [])
