"""From texts to a proved tokenizer folder: train, convert, compare ids."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from jpllm import runtime
from jpllm.tokenizer.convert import convert
from jpllm.tokenizer.train import TokenizerConfig, train

MAX_PROOF_DOCUMENTS = 2000
MAX_PROOF_CHARACTERS = 1000


def train_and_export(texts: Iterable[str], config: TokenizerConfig, output_dir: Path) -> int:
    """Train on a stream of documents and write a folder that AutoTokenizer loads.

    Before the folder appears, its ids are compared with SentencePiece's on nasty strings and on the beginnings of the
    first documents. Returns the number of those documents. Raises InputError when the texts cannot be read, are empty
    or do not fit `vocab_size`, or when `output_dir` is in use.
    """
    runtime.refuse_used(output_dir)
    proof_texts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        model_file = Path(folder) / "tokenizer.model"
        train(_remembering(texts, proof_texts), config, model_file)
        convert(model_file, output_dir, proof_texts)
    return len(proof_texts)


def _remembering(texts: Iterable[str], kept: list[str]) -> Iterator[str]:
    """The texts; the beginnings of the first ones are added to `kept` on their way."""
    for text in texts:
        if len(kept) < MAX_PROOF_DOCUMENTS:
            kept.append(text[:MAX_PROOF_CHARACTERS])
        yield text
