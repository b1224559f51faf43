"""What many tests share: the real data where it lies, and a tokenizer small enough to train in a second."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = ROOT.parent / "shared" / "data"

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that would need the network fails at once instead of waiting for it
os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass
class ByteEncoder:
    """An encoder whose ids can be computed by hand: byte value + 1, EOS 0."""

    eos_token_id: int = 0
    vocab_size: int = 257
    fingerprint: str = "bytes"
    bos_token_id: int | None = None
    num_calls: int = field(default=0)

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        self.num_calls += 1
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64) + 1 for text in texts]


@pytest.fixture
def encoder() -> ByteEncoder:
    return ByteEncoder()


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command configures logging for its process, on streams that pytest closes after the test."""
    root, ours = logging.getLogger(), logging.getLogger("jpllm")
    handlers, level = root.handlers[:], ours.level
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real texts; tests that need it skip where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data at {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 kB of the built-in corpus as .jsonl."""
    from jpllm.data.read.jsonl import write_jsonl
    from jpllm.demo.builtin import documents

    file = tmp_path_factory.mktemp("corpus") / "builtin.jsonl"
    write_jsonl(({"text": text} for text in documents(seed=1, num_bytes=200_000)), file)
    return file


@pytest.fixture(scope="session")
def tokenizer_dir(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 1,200 ids, trained on `corpus_file`."""
    from jpllm.data.documents import read_documents
    from jpllm.data.read.sources import SourceConfig
    from jpllm.tokenizer.train import TokenizerConfig, train_and_export

    folder = tmp_path_factory.mktemp("tokenizer") / "tok"
    train_and_export(read_documents(SourceConfig(str(corpus_file))), TokenizerConfig(vocab_size=1200), folder)
    return folder
