"""Whatever a manifest holds: the checkpoint is whole, passed over or refused in one message, never a traceback.

A manifest of version 2 carries a digest of itself, so what is damaged never gets as far as its shape. Those of jpllm
0.1.0 have none: here each value of one is replaced. See `tests/faults/fuzzing.py` for a longer run.
"""

import hashlib
import json
import tempfile
from pathlib import Path

from hypothesis import strategies as st

from jpllm.runtime import InputError
from jpllm.training import checkpoint
from jpllm.training.facts import Facts
from tests.faults.fuzzing import ODD_VALUES, changed, check_many

CONTENT = b"weights"
FACTS = Facts("data-1", "tokenizer-1", {"learning_rate": 0.01, "seed": 0}, 2, "DDP")
WHOLE = {
    "version": 1,
    "step": 3,
    "facts": FACTS.record(),
    "logs": {"metrics.jsonl": 0},
    "files": {"weights.bin": [len(CONTENT), hashlib.sha256(CONTENT).hexdigest()]},
}


def is_used(content: bytes) -> bool:
    """Do what a start of a run does with its checkpoints; returns whether the one with this manifest is used."""
    with tempfile.TemporaryDirectory() as temporary:
        checkpoints = Path(temporary)
        directory = checkpoints / "checkpoint-3"
        directory.mkdir()
        (directory / "weights.bin").write_bytes(CONTENT)
        (directory / "manifest.json").write_bytes(content)
        for manifest in checkpoint.manifests(checkpoints):
            assert manifest["step"] == 3
        try:
            earlier = checkpoint.newest_facts(checkpoints)
            if earlier is not None:
                FACTS.changes(earlier[1])
                FACTS.obstacles(earlier[1])
            found = checkpoint.newest(checkpoints)
        except InputError:
            found = None
        checkpoint.rotate(checkpoints, 1)
        assert directory.exists()  # what cannot be read is not deleted
        return found is not None


def resume_from(content: bytes) -> None:
    is_used(content)


def test_a_whole_manifest_is_used():
    assert is_used(json.dumps(WHOLE).encode())


def test_odd_values():
    manifests = changed(WHOLE) | ODD_VALUES
    encoded = manifests.map(lambda value: json.dumps(value).encode("utf-8", errors="surrogatepass"))
    check_many(resume_from, encoded, num_examples=60)


def test_torn_bytes():
    whole = json.dumps(WHOLE).encode()
    cut = st.tuples(st.integers(0, len(whole)), st.binary(max_size=20), st.integers(0, 50))
    torn = cut.map(lambda drawn: whole[: drawn[0]] + drawn[1] + whole[drawn[0] + drawn[2] :])
    check_many(resume_from, torn, num_examples=60)
