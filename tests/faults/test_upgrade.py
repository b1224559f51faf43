"""What jpllm 0.1.0 has left is read and gone on with, or refused with one message that names the way."""

import json
import re
import shutil
from pathlib import Path

import pytest

import jpllm
from tests.faults import small_runs
from tests.faults.small_runs import digests, log, results, rows

FIXTURES = Path(__file__).parent / "fixtures" / "0.1.0"
ROOT = FIXTURES.parent.parent.parent.parent


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
    return tmp_path


def again(folder, name: str, **changes) -> int:
    """The same command, or one with changes; returns its exit code."""
    return small_runs.run(folder, {"config": f"{name}/config.yaml"} | changes)


def test_a_run_goes_on_from_its_checkpoint(folder):
    before, shards = rows(folder / "killed"), digests(folder / "shards")
    assert again(folder, "killed") == 0, log(folder)
    assert "token shards of corpus found in shards/corpus-96321e4cc0f4" in log(folder)
    assert "going on from killed/checkpoints/checkpoint-4" in log(folder)
    del shards[".corpus.content-hash.json"]
    del shards["corpus-96321e4cc0f4/meta.json"]  # gets the checksums of what was found
    assert digests(folder / "shards").items() >= shards.items()
    found = rows(folder / "killed")
    kept = [row for row in before if row["step"] <= 4]
    assert found[: len(kept)] == kept
    assert [row["step"] for row in found if "loss" in row] == list(range(1, 13))
    assert (results(folder / "killed")["step"], results(folder / "killed")["tokens"]) == (12, 768)


def test_its_losses_are_those_that_0_1_0_would_have_had(folder):
    """Up to the step at which it was killed; the last digits are the machine's."""
    before = {row["step"]: row["loss"] for row in rows(folder / "killed") if "loss" in row}
    assert max(before) == 6
    assert again(folder, "killed") == 0, log(folder)
    after = {row["step"]: row["loss"] for row in rows(folder / "killed") if "loss" in row}
    for step in (5, 6):
        assert after[step] == pytest.approx(before[step], rel=1e-4)


def test_another_run_is_refused_there_too(folder):
    before = digests(folder / "killed")
    assert again(folder, "killed", learning_rate=0.004) == 2
    assert "learning_rate: 0.01 when it was written, 0.004 now" in log(folder)
    assert digests(folder / "killed") == before
    smaller = {"learning_rate": 0.004, "per_device_train_batch_size": 2, "resume_changed": "true"}
    assert again(folder, "killed", **smaller) == 0, log(folder)
    tokens = {row["step"]: row["tokens"] for row in rows(folder / "killed")}
    assert tokens[4] == 4 * 64
    assert tokens[24] == results(folder / "killed")["tokens"] == 4 * 64 + 20 * 32


def test_a_best_model_that_was_moved_to_be_proved_is_taken_back(folder):
    assert again(folder, "proof") == 0, log(folder)
    proof = folder / "proof"
    assert (results(proof)["best_step"], results(proof)["step"]) == (0, 4)
    expected = next(row["eval_loss"] for row in rows(FIXTURES / "proof") if row["step"] == 0)
    assert results(proof)["reloaded_loss"] == pytest.approx(expected, abs=1e-5)
    weights = (FIXTURES / "proof" / "model.unproved" / "model.safetensors").read_bytes()
    assert (proof / "model" / "model.safetensors").read_bytes() == weights


def test_a_best_model_that_is_lost_is_told_before_anything_is_trained(folder):
    """0.1.0 deleted it when a better one came, and forgot that one when it was killed before the next checkpoint."""
    shutil.rmtree(folder / "proof" / "model.unproved")
    before = digests(folder / "proof")
    assert again(folder, "proof") == 2
    assert "its best model until then is lost (there is no proof/best-0); name a new output_dir, or go on" in log(
        folder
    )
    assert digests(folder / "proof") == before
    assert again(folder, "proof", resume_changed="true") == 0, log(folder)
    assert results(folder / "proof")["best_step"] >= 4


def test_a_run_without_a_checkpoint(folder):
    before = digests(folder / "begun")
    assert again(folder, "begun", learning_rate=0.004) == 2
    assert "it holds rows of another run, which has no checkpoint yet" in log(folder)
    assert digests(folder / "begun") == before
    assert again(folder, "begun") == 0, log(folder)
    assert results(folder / "begun")["step"] == 12


def test_a_finished_run_stays_finished(folder, capsys):
    before = digests(folder / "finished")
    assert again(folder, "finished") == 0
    assert "finished is finished: the model is in" in log(folder)
    assert again(folder, "finished", seed=1) == 2
    assert "holds a finished run with another seed" in log(folder)
    assert digests(folder / "finished") == before
    from jpllm import cli

    assert cli.main(["compare", *(str(folder / name) for name in ("finished", "killed"))]) == 0
    assert "finished" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["killed", "begun", "finished"])
def test_a_key_that_an_earlier_version_did_not_know_counts_with_its_default(folder, name):
    """As if this version had brought the keys, of the run and of a source."""
    file = folder / name / "config.yaml"
    words = r"^(label_smoothing|  licence|max_grad_norm|no_repeat_ngram_size): .*\n"
    text, num_keys = re.subn(words, "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert num_keys == 4
    file.write_text(text, encoding="utf-8")
    for manifest_file in folder.glob(f"{name}/checkpoints/*/manifest.json"):
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        for key in ("label_smoothing", "max_grad_norm", "no_repeat_ngram_size"):
            del manifest["facts"]["configuration"][key]
        manifest_file.write_text(json.dumps(manifest), encoding="utf-8")
    assert again(folder, name) == 0, log(folder)
    assert results(folder / name)["step"] == 12
    assert again(folder, name, max_grad_norm=0.5) == 2
    assert "max_grad_norm" in log(folder)


def test_the_numbers_of_all_formats_are_in_one_place():
    """A number that is written down anywhere else would be forgotten when the format changes."""
    numbers = {"TOKEN_SHARDS_FORMAT", "CHECKPOINT_FORMAT", "RUN_FORMAT"}
    assert numbers <= vars(jpllm).keys()
    for file in (ROOT / "jpllm").rglob("*.py"):
        if file.name != "__init__.py":
            found = re.findall(r"^_?\w*FORMAT(?:_VERSION)? = \d+", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert found == [], file
