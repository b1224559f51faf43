"""A checkpoint is whole or passed over, and only for the run that it belongs to."""

import hashlib
import json
import shutil

import pytest

from jpllm.runtime import InputError
from jpllm.training import checkpoint
from jpllm.training.facts import Facts

FACTS = Facts("data-1", "tokenizer-1", {"learning_rate": 0.01, "seed": 0}, 2, "DDP")


def write(folder, step, facts=FACTS):
    partial = folder / "partial" / f"checkpoint-{step}"
    (partial / "shard").mkdir(parents=True)
    (partial / "weights.bin").write_bytes(bytes([step]) * 1000)
    (partial / "shard" / "optimizer.bin").write_bytes(b"optimizer")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n' * step)
    logs = {"metrics.jsonl": folder / "metrics.jsonl", "samples.jsonl": folder / "samples.jsonl"}
    more = {"position": {"tokens": 64 * step, "epoch": 0.5}, "best": None}
    return checkpoint.finish(partial, folder / f"checkpoint-{step}", step, facts, logs, **more)


def test_manifest(tmp_path):
    written = write(tmp_path, 3)
    manifest = json.loads((tmp_path / "checkpoint-3" / "manifest.json").read_text())
    assert checkpoint.newest(tmp_path) == written
    assert written.step == 3
    assert manifest["logs"] == {"metrics.jsonl": 36, "samples.jsonl": 0}
    expected = {"weights.bin": b"\3" * 1000, "shard/optimizer.bin": b"optimizer"}
    assert manifest["files"] == {
        name: [len(content), hashlib.sha256(content).hexdigest()] for name, content in expected.items()
    }
    assert not (tmp_path / "partial" / "checkpoint-3").exists()


def test_every_bit_of_the_manifest_is_protected(tmp_path):
    write(tmp_path, 3)
    file = tmp_path / "checkpoint-3" / "manifest.json"
    content = file.read_bytes()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        with pytest.raises(InputError, match=r"checkpoint-3: its manifest\.json "):
            checkpoint.verify(tmp_path / "checkpoint-3")
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"checkpoint-3: its manifest\.json "):
            checkpoint.verify(tmp_path / "checkpoint-3")
    file.write_bytes(content)
    assert checkpoint.verify(tmp_path / "checkpoint-3")["step"] == 3


def sealed(manifest):
    """A manifest as text, by the words of docs/training.md: the last key is the SHA-256 of what stands before it."""
    body = json.dumps(manifest, indent=1, sort_keys=True)[: -len("\n}")]
    return f'{body},\n "sha256": "{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'


def test_a_manifest_of_a_later_version_is_not_passed_over(tmp_path):
    """Going on from an older checkpoint would take back what the later version has trained."""
    write(tmp_path, 3)
    write(tmp_path, 6)
    file = tmp_path / "checkpoint-6" / "manifest.json"
    manifest = json.loads(file.read_text())
    assert hashlib.sha256(file.read_text().rpartition(",\n")[0].encode()).hexdigest() == manifest.pop("sha256")
    file.write_text(sealed(manifest | {"version": 99}))
    for look in (checkpoint.newest, checkpoint.newest_facts):
        with pytest.raises(InputError, match="checkpoint-6: it was written by a later version of jpllm; update jpllm"):
            look(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"step": 4},
        {"files": {}},
        {"files": {"weights.bin": 5}},
        {"files": {"../weights.bin": [1, "0" * 64]}},
        {"files": {"w" * 300: [1, "0" * 64]}},
        {"files": {"\x1b[2J": [1, "0" * 64]}},
        {"files": {"weights.bin": [5, "short"]}},
        {"facts": []},
        {"logs": {"metrics.jsonl": "5"}},
    ],
)
def test_a_manifest_of_another_shape(tmp_path, change):
    """Those of jpllm 0.1.0 have no digest of themselves."""
    write(tmp_path, 3)
    file = tmp_path / "checkpoint-3" / "manifest.json"
    manifest = json.loads(file.read_text()) | {"version": 1}
    del manifest["sha256"], manifest["best"], manifest["position"]
    file.write_text(json.dumps(manifest))
    assert checkpoint.newest(tmp_path).step == 3
    file.write_text(json.dumps(manifest | change))
    with pytest.raises(InputError, match=r"its manifest\.json is not what was written"):
        checkpoint.verify(tmp_path / "checkpoint-3")


def flip_a_byte(folder):
    content = bytearray((folder / "weights.bin").read_bytes())
    content[500] ^= 1
    (folder / "weights.bin").write_bytes(content)


DAMAGES = {
    "weights.bin is not what was written": flip_a_byte,
    "weights.bin has 999 bytes, 1,000 were written": lambda f: (f / "weights.bin").write_bytes(b"\5" * 999),
    "shard/optimizer.bin is missing": lambda f: shutil.rmtree(f / "shard"),
    "it has no manifest.json": lambda f: (f / "manifest.json").unlink(),
    "its manifest.json cannot be read": lambda f: (f / "manifest.json").write_text('{"step": 5'),
    "of another version": lambda f: (f / "manifest.json").write_text('{"version": 0}'),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_the_newest_whole_one_is_taken(tmp_path, caplog, reason):
    for step in (5, 10, 9):  # by number, not by name or time
        write(tmp_path, step)
    DAMAGES[reason](tmp_path / "checkpoint-10")
    assert checkpoint.newest(tmp_path).step == 9
    assert f"passed over {tmp_path / 'checkpoint-10'}" in caplog.text
    assert reason in caplog.text


def test_none_is_whole(tmp_path):
    assert checkpoint.newest(tmp_path / "nothing") is None
    write(tmp_path, 1)
    flip_a_byte(tmp_path / "checkpoint-1")
    with pytest.raises(InputError, match="none of the 1 checkpoints is whole; move the run's folder away"):
        checkpoint.newest(tmp_path)


def test_rotation_keeps_whole_ones(tmp_path, caplog):
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
    (tmp_path / "checkpoint-3" / "weights.bin").unlink()
    checkpoint.rotate(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        *("checkpoint-2", "checkpoint-3", "checkpoint-4"),
    ]
    assert "does not count as a checkpoint" in caplog.text


def test_a_damaged_one_is_replaced_when_its_step_comes_again(tmp_path):
    write(tmp_path, 7)
    flip_a_byte(tmp_path / "checkpoint-7")
    write(tmp_path, 7)
    assert checkpoint.newest(tmp_path).step == 7


def test_changes(tmp_path):
    written = write(tmp_path, 1).manifest["facts"]
    assert FACTS.changes(json.loads(json.dumps(written))) == []
    other = Facts("data-2", "tokenizer-1", {"learning_rate": 0.02, "dropout": 0.1}, 4, "DDP")
    assert other.changes(written) == [
        "world_size: 2 when it was written, 4 now",
        "data: another one",
        "dropout: not set when it was written, 0.1 now",
        "learning_rate: 0.01 when it was written, 0.02 now",
        "seed: 0 when it was written, not set now",
    ]
