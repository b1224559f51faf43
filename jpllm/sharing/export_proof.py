"""Prove an exported folder: a fresh process without this project gives the same ids and the same logits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm.demo import builtin
from jpllm.models.build import num_positions
from jpllm.runtime import InputError
from jpllm.tokenizer.proof import NASTY_STRINGS

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

AUTO_CLASSES = {
    "text-generation": "AutoModelForCausalLM",
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
}
NUM_IDS = 64
_SCRIPT = Path(__file__).with_name("load_alone.py")
_NUM_SENTENCES, _TEXT_BYTES = 300, 60_000
_ID_STRIDE = 7919  # a prime, so that the ids are spread over any vocabulary


@dataclass(frozen=True)
class Proof:
    """What was found equal between a model and its exported folder.

    Attributes:
        num_texts: texts whose ids are equal.
        largest_difference: of a logit to the model that was exported; 0 unless it was converted to another dtype.
        transformers: version that loaded it.
    """

    num_texts: int
    largest_difference: float
    transformers: str


def proof_texts() -> list[str]:
    """Return strings that tokenizers stumble over, and a few hundred Japanese sentences."""
    sentences = []
    for document in builtin.documents(seed=0, num_bytes=_TEXT_BYTES):
        sentences += [line for line in document.splitlines() if line]
    return [*NASTY_STRINGS, *sentences[:_NUM_SENTENCES]]


def proof_ids(model: PreTrainedModel) -> list[int]:
    """Return ids of a sequence that the model can read, the same each time."""
    length = min(NUM_IDS, num_positions(model) or NUM_IDS)
    return [(index * _ID_STRIDE + 1) % model.config.get_text_config().vocab_size for index in range(length)]


def logits(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    """Return logits, float32 (1, tokens, ids) or (1, classes), computed on the CPU in one thread."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return model.eval()(torch.tensor([ids])).logits.float().numpy()
    finally:
        torch.set_num_threads(num_threads)


def prove(
    folder: Path,
    tag: str,
    tokenizer: PreTrainedTokenizerFast,
    ids: list[int],
    original: np.ndarray,
    expected: np.ndarray,
) -> Proof:
    """Load `folder` in a process of its own, and compare ids and logits.

    `original` are the logits of the model as it was, `expected` those after a conversion to another dtype (the same
    without one).

    Raises:
        InputError: it cannot be loaded there, or something differs.
    """
    import numpy as np

    texts = proof_texts()
    with tempfile.TemporaryDirectory() as scratch:
        request, answer = Path(scratch) / "request.json", Path(scratch) / "answer.npy"
        content = {"auto_class": AUTO_CLASSES[tag], "ids": ids, "texts": texts}
        request.write_text(json.dumps(content), encoding="utf-8")
        found = _run(folder, request, answer)
        alone = np.load(answer)
    if found["modules_of_jpllm"]:
        raise InputError(f"{folder}: loading it imports {found['modules_of_jpllm'][0]}, which others do not have")
    for text, own in zip(texts, found["ids"], strict=True):
        if own != tokenizer(text, verbose=False)["input_ids"]:
            raise InputError(f"{folder}: the exported tokenizer gives other ids for {text[:80]!r}")
    if not np.array_equal(alone, expected):
        difference = np.abs(alone - expected).max() if alone.shape == expected.shape else f"shape {alone.shape}"
        raise InputError(
            f"{folder}: the exported model is not the one that was saved: its logits differ by {difference}"
        )
    return Proof(len(texts), float(np.abs(alone - original).max()), found["transformers"])


def _run(folder: Path, request: Path, answer: Path) -> dict:
    """Run `load_alone.py`, kept by -I from modules of the environment and the current folder; return what it prints."""
    command = [sys.executable, "-I", str(_SCRIPT), str(folder.resolve()), str(request), str(answer)]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        command, cwd=request.parent, env={**os.environ, **quiet}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{folder}: a fresh process with transformers cannot load it: {reason}")
    return json.loads(done.stdout.strip().splitlines()[-1])
