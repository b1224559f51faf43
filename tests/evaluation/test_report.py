"""What is kept of earlier results, and how results are shown; the tables have tests beside their own modules."""

import json
import re

import pytest

from jpllm.evaluation import report, results
from jpllm.runtime import InputError

RESULTS = {
    "model": "runs/a_*b*",
    "jglue_finetuned_skipped": {"marc_ja": "no file in a_|b"},
    "forgetting": {
        "models": ["old_1", "<new>|"],
        "bits_per_byte": {"held_out": [1.5, 2.0]},
        "context_length": 1024,
        "stride": 1023,
    },
    "samples": [{"prompt": "猫。", "text": "は|*\n<b>二</b>"}],
}
IDENTITY = {"model": "m", "weights_sha256": "w", "config_sha256": "c", "tokenizer_sha256": "t", "commit": "new"}


def test_results_of_the_same_model_stay(tmp_path):
    report.save({**IDENTITY, "commit": "old", "jglue": []}, tmp_path)
    assert results.with_earlier(IDENTITY, tmp_path) == {**IDENTITY, "jglue": []}
    assert results.with_earlier(IDENTITY, tmp_path / "new") == results.with_earlier(IDENTITY, None) == IDENTITY


@pytest.mark.parametrize("key", ["weights_sha256", "config_sha256", "tokenizer_sha256"])
def test_results_of_another_model_are_left_as_they_are(tmp_path, key):
    report.save({**IDENTITY, key: "other", "jglue": []}, tmp_path)
    other = rf"results of another model \(m: other {key.removesuffix('_sha256')}\); name another output_dir"
    with pytest.raises(InputError, match=other):
        results.with_earlier(IDENTITY, tmp_path)
    assert json.loads((tmp_path / results.RESULTS_NAME).read_text())[key] == "other"


def test_broken_results_are_refused(tmp_path):
    for content, problem in ((json.dumps(IDENTITY)[:-5], "broken JSON"), ("[]", "not a file of recipes/evaluate.py")):
        (tmp_path / results.RESULTS_NAME).write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=rf"evaluation\.json: {problem}"):
            results.with_earlier(IDENTITY, tmp_path)


def test_results_as_markdown(tmp_path, capsys):
    report.write(RESULTS, tmp_path)
    text = r"""marc_ja was skipped: no file in a\_\|b.

| bits per byte | old_1 | \<new\>\| |
| --- | ---: | ---: |
| held_out | 1.5000 | 2.0000 (+0.5000) |

All models read the texts with a context of 1,024 tokens, stride 1,023.

> <b>猫。</b>は\|\*<br>\<b\>二\</b\>
"""
    assert (tmp_path / report.TABLE_NAME).read_text(encoding="utf-8") == "# runs/a\\_\\*b\\*\n\n" + text
    assert capsys.readouterr().out == text  # no terminal


def test_results_on_a_terminal(capsys, monkeypatch):
    """As they are, without the marks of Markdown."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    report.write(RESULTS, None)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines]
    assert ["bits per byte", "old_1", "<new>|"] in cells
    assert ["held_out", "1.5000", "2.0000 (+0.5000)"] in cells
    assert lines[0] == "marc_ja was skipped: no file in a_|b."
    assert lines[-3:] == ["猫。は|*", "<b>二</b>", ""]
