"""What is kept of earlier results; the tables have tests beside their own modules."""

import json

import pytest

from jpllm.evaluation import report
from jpllm.runtime import InputError

IDENTITY = {"model": "m", "weights_sha256": "w", "config_sha256": "c", "tokenizer_sha256": "t", "commit": "new"}


def test_results_of_the_same_model_stay(tmp_path):
    report.save({**IDENTITY, "commit": "old", "jglue": []}, tmp_path)
    assert report.with_earlier(IDENTITY, tmp_path) == {**IDENTITY, "jglue": []}
    assert report.with_earlier(IDENTITY, tmp_path / "new") == report.with_earlier(IDENTITY, None) == IDENTITY


@pytest.mark.parametrize("key", ["weights_sha256", "config_sha256", "tokenizer_sha256"])
def test_results_of_another_model_are_replaced(tmp_path, caplog, key):
    report.save({**IDENTITY, key: "other", "jglue": []}, tmp_path)
    assert report.with_earlier(IDENTITY, tmp_path) == IDENTITY
    assert f"results of another model ({key.removesuffix('_sha256')}) are replaced" in caplog.text


def test_broken_results_are_refused(tmp_path):
    (tmp_path / report.RESULTS_NAME).write_text(json.dumps(IDENTITY)[:-5], encoding="utf-8")
    with pytest.raises(InputError, match=r"evaluation\.json: broken JSON"):
        report.with_earlier(IDENTITY, tmp_path)
