"""Write a model as one GGUF file and let llama.cpp prove it: equal ids of texts and equal predictions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jpllm.runtime import InputError
from jpllm.sharing.export_proof import proof_ids, proof_texts
from jpllm.sharing.gguf import tensors, vocabulary
from jpllm.sharing.gguf.tensors import GgufType
from jpllm.tokenizer.load import sentencepiece_file
from jpllm.tokenizer.proof import first_difference

if TYPE_CHECKING:
    import numpy as np
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

Unknown = Literal["refuse", "unk"]
MAX_DIVERGENCE_NATS = 1e-4
_SCRIPT = Path(__file__).with_name("llama_cpp_alone.py")
_PACKAGES = ("gguf", "xllamacpp")
_PROMPT_LENGTHS = (1, 2, 7, 23, 48)
_MAX_SHOWN = 60


@dataclass(frozen=True)
class GgufProof:
    """How what llama.cpp reads in a file compares with the model.

    Attributes:
        num_texts: texts with equal ids.
        num_with_unknown: those among them in which characters without a piece became <unk>, as was allowed.
        divergence_nats: Kullback-Leibler divergence of the next token's distribution from the model's, the largest.
        largest_difference: of a log-probability.
        program: what read the file.
    """

    num_texts: int
    num_with_unknown: int
    divergence_nats: float
    largest_difference: float
    program: str


def write(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, model_dir: Path, file: Path, precision: GgufType
) -> None:
    """Write a float32 model and its tokenizer, which was loaded from `model_dir`, to a GGUF file.

    Raises:
        InputError: a package is missing, or llama.cpp cannot compute the model or cut texts as its tokenizer does.
    """
    converted = _vocabulary(model.config, type(model).__name__, tokenizer, model_dir)
    writer = tensors.new_writer(model, str(file))
    vocabulary.add_vocabulary(writer, converted)
    tensors.add_tensors(writer, model, precision)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def refuse_impossible(
    config: PretrainedConfig,
    architecture: str,
    tokenizer: PreTrainedTokenizerFast,
    model_dir: Path,
    unknown: Unknown,
    more_texts: Sequence[str] = (),
) -> None:
    """Raise InputError for what `write` and `prove` are known to refuse, before there is a model or a file."""
    if not _vocabulary(config, architecture, tokenizer, model_dir).has_no_bytes or unknown == "unk":
        return
    for text in [*proof_texts(), *more_texts]:
        ids = tokenizer(text, verbose=False)["input_ids"]
        if _bytes_as_unknown(ids, tokenizer) != ids:
            raise _without_bytes(text, ids)


def _vocabulary(
    config: PretrainedConfig, architecture: str, tokenizer: PreTrainedTokenizerFast, model_dir: Path
) -> vocabulary.Vocabulary:
    """Return the vocabulary as llama.cpp reads it.

    Raises:
        InputError: a package is missing, or llama.cpp cannot compute the model or cut texts as its tokenizer does.
    """
    for name in _PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"gguf: needs the package {name}: pip install 'jpllm[gguf]'")
    if found := list(tensors.problems(config, architecture)):
        raise InputError(f"gguf: the model does not survive it: {'; '.join(found)}")
    try:
        return vocabulary.vocabulary(tokenizer, model_dir, config.vocab_size)
    except InputError as error:
        raise InputError(f"gguf: the tokenizer does not survive it: {error}") from error


def prove(
    file: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    model_dir: Path,
    unknown: Unknown,
    more_texts: Sequence[str] = (),
) -> GgufProof:
    """Let llama.cpp read the file, and compare it with the float32 model and its tokenizer.

    Raises:
        InputError: ids differ (the message has the first such text), or what is predicted.
    """
    import numpy as np

    texts = [*proof_texts(), *more_texts]
    ids = proof_ids(model)
    prompts = [ids[:length] for length in _PROMPT_LENGTHS if length < len(ids)]
    request = {"texts": texts, "parse_special": not tokenizer.split_special_tokens, "prompts": prompts}
    answer = _read_by_llama_cpp(file, {**request, "num_ids": model.config.vocab_size})
    num_with_unknown = _compare_ids(texts, answer["ids"], tokenizer, model_dir, unknown)
    own = _log_probabilities(model, prompts)
    theirs = np.array(answer["log_probabilities"])
    theirs -= np.log(np.exp(theirs).sum(axis=-1, keepdims=True))  # rounded to float32 they do not add up to 1
    divergence = float((np.exp(own) * (own - theirs)).sum(axis=-1).max())
    if not divergence <= MAX_DIVERGENCE_NATS:
        raise InputError(
            f"gguf: llama.cpp predicts something else than the model: {divergence:.2e} nats apart, more than "
            f"{MAX_DIVERGENCE_NATS:g}"
        )
    program = f"xllamacpp {importlib.metadata.version('xllamacpp')}"
    return GgufProof(len(texts), num_with_unknown, divergence, float(np.abs(own - theirs).max()), program)


def describe(name: str, proof: GgufProof) -> str:
    """Return what was proved of a file, in sentences."""
    unknown = ""
    if proof.num_with_unknown:
        unknown = (
            f" In {proof.num_with_unknown:,} of them characters without a piece of their own become `<unk>`, which "
            "transformers spells in bytes: llama.cpp has no bytes for such a tokenizer, so it does not know these "
            "characters."
        )
    return (
        f"`{name}` was read by llama.cpp ({proof.program}): equal ids on {proof.num_texts:,} texts.{unknown} The "
        f"distribution of the next token is at most {proof.divergence_nats:.1e} nats (Kullback-Leibler) from that in "
        f"transformers, a log-probability at most {proof.largest_difference:.1e}."
    )


def _read_by_llama_cpp(file: Path, request: dict) -> dict:
    """Return what llama.cpp answers, in a process of its own. Raises InputError when it cannot read the file."""
    with tempfile.TemporaryDirectory() as scratch:
        question, answer = Path(scratch) / "request.json", Path(scratch) / "answer.json"
        question.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, str(_SCRIPT), str(file), str(question), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode or not answer.exists():
            reason = next((line for line in reversed(done.stderr.splitlines()) if "error" in line.lower()), "")
            raise InputError(f"gguf: llama.cpp cannot read the file (exit code {done.returncode}): {reason.strip()}")
        return json.loads(answer.read_text(encoding="utf-8"))


def _compare_ids(
    texts: Sequence[str],
    theirs: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerFast,
    model_dir: Path,
    unknown: Unknown,
) -> int:
    """Return in how many texts unknown characters differ, as is allowed; any other difference is an InputError."""
    same = _reference(model_dir)
    num_with_unknown = 0
    for text, found in zip(texts, theirs, strict=True):
        own = tokenizer(text, verbose=False)["input_ids"]
        if found == own or same(text, found):
            continue
        without_bytes = _bytes_as_unknown(own, tokenizer)
        if without_bytes != own and found == without_bytes:
            if unknown == "unk":
                num_with_unknown += 1
                continue
            raise _without_bytes(text, own)
        raise InputError(
            f"gguf: the tokenizer does not survive it: {_shown(text)} gives the ids {own[:40]}, llama.cpp {found[:40]}"
        )
    return num_with_unknown


def _without_bytes(text: str, ids: Sequence[int]) -> InputError:
    return InputError(
        "gguf: the tokenizer does not survive it: llama.cpp has no byte fallback for this kind, so characters without "
        f"a piece of their own become <unk>; the first text in which that happens is {_shown(text)}: ids {ids[:20]}. "
        f"--gguf_unknown unk accepts that; a model trained with a tokenizer of `{vocabulary.SURVIVING}` survives whole"
    )


def _reference(model_dir: Path):
    """Return a test of whether ids of a text are SentencePiece's; the tokenizer may differ harmlessly."""
    file = sentencepiece_file(model_dir)
    if file is None:
        return lambda text, ids: False
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(file))
    return lambda text, ids: first_difference(processor, [text], [ids]) is None


def _bytes_as_unknown(ids: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids with each run of byte pieces replaced by one <unk>."""
    from jpllm.tokenizer.pieces import byte_piece_ids

    of_bytes = set(byte_piece_ids(tokenizer))
    found: list[int] = []
    for index in ids:
        replaced = tokenizer.unk_token_id if index in of_bytes else index
        if not (index in of_bytes and found[-1:] == [replaced]):
            found.append(replaced)
    return found


def _log_probabilities(model: PreTrainedModel, prompts: Sequence[list[int]]) -> np.ndarray:
    """Return log-probabilities of the token that follows each prompt, float64 (prompts, ids)."""
    import numpy as np
    import torch

    rows = []
    with torch.no_grad():
        for prompt in prompts:
            rows.append(model.eval()(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1).numpy())
    return np.stack(rows)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")
