"""Let llama.cpp read a GGUF file, and compare it with the model: ids of texts and prompts, and what is predicted."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jpllm.runtime import InputError
from jpllm.sharing import serving
from jpllm.sharing.export_proof import proof_ids, proof_texts
from jpllm.sharing.gguf.cuts import Difference, as_llama_cpp_reads
from jpllm.sharing.gguf.vocabulary import SURVIVING
from jpllm.tokenizer.load import sentencepiece_file
from jpllm.tokenizer.proof import first_difference

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Unknown = Literal["refuse", "unk"]
Prompts = Literal["refuse", "differ"]
MAX_DIVERGENCE_NATS = 1e-4
MAX_LOSS_NATS = 1.0  # of a rounded file, on average: beyond it no model is left
_Agreement = Literal["equal", "unknown", "marks", "space"]
_SCRIPT = Path(__file__).with_name("llama_cpp_alone.py")
_PROMPT_LENGTHS = (1, 2, 7, 23, 48)
_NUM_MEASURED, _MEASURED_LENGTH, _MEASURED_CHARACTERS = 64, 48, 20_000
_MAX_SHOWN = 60


@dataclass(frozen=True)
class Tolerance:
    """Differences that may be: characters without a piece that become <unk>, and prompts with other ids."""

    unknown: Unknown = "refuse"
    prompts: Prompts = "refuse"


@dataclass(frozen=True)
class Loss:
    """What rounding the weights of a file cost, measured by llama.cpp on its own predictions.

    Attributes:
        before, after: bits per byte without and with it.
        divergence_nats: mean Kullback-Leibler divergence of the next token's distribution.
        num_tokens: how many tokens were predicted.
        num_bytes, num_bytes_before: sizes of the files.
    """

    before: float
    after: float
    divergence_nats: float
    num_tokens: int
    num_bytes: int
    num_bytes_before: int


@dataclass(frozen=True)
class GgufProof:
    """How what llama.cpp reads in a file compares with the model.

    Attributes:
        num_texts: texts with equal ids.
        num_with_unknown: those among them in which characters without a piece became <unk>, as was allowed.
        num_with_marks: those among them with marks apart from their letters, which llama.cpp reads otherwise.
        num_with_space: those among them in which llama.cpp writes one more space, at the beginning of words.
        num_prompts: conversations of which the file's chat template makes prompts with equal ids.
        other_prompt: a difference in a prompt, as was allowed.
        divergence_nats: Kullback-Leibler divergence of the next token's distribution from the model's, the largest.
        largest_difference: of a log-probability.
        program: what read the file.
        loss: what rounding cost, where weights are rounded; then the two figures above are without that.
    """

    num_texts: int
    num_with_unknown: int
    num_with_marks: int
    num_with_space: int
    num_prompts: int
    other_prompt: str | None
    divergence_nats: float
    largest_difference: float
    program: str
    loss: Loss | None = None


def prove(
    file: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    model_dir: Path,
    tolerance: Tolerance,
    more_texts: Sequence[str] = (),
) -> GgufProof:
    """Let llama.cpp read the file, and compare it with the float32 model and its tokenizer.

    Raises:
        InputError: ids differ (the message has the first such text), or what is predicted.
    """
    import numpy as np

    texts, ids = [*proof_texts(), *more_texts], proof_ids(model)
    prompts = [ids[:length] for length in _PROMPT_LENGTHS if length < len(ids)]
    conversations = serving.sample_conversations(tokenizer)
    answer = _read_by_llama_cpp(
        file, tokenizer, model.config.vocab_size, prompts, texts, [found.messages for found in conversations]
    )
    compare = _comparison(tokenizer, model_dir, tolerance.unknown)
    kinds = [compare(text, found) for text, found in zip(texts, answer["ids"], strict=True)]
    other_prompt = _compare_prompts(conversations, answer["conversations"], tokenizer, tolerance)
    own, theirs = _log_probabilities(model, prompts), _normalized(answer["log_probabilities"])
    divergence = float((np.exp(own) * (own - theirs)).sum(axis=-1).max())
    if not divergence <= MAX_DIVERGENCE_NATS:
        raise InputError(
            f"gguf: llama.cpp predicts something else than the model: {divergence:.2e} nats apart, more than "
            f"{MAX_DIVERGENCE_NATS:g}"
        )
    return GgufProof(
        num_texts=len(texts),
        num_with_unknown=kinds.count("unknown"),
        num_with_marks=kinds.count("marks"),
        num_with_space=kinds.count("space"),
        num_prompts=0 if other_prompt else len(conversations),
        other_prompt=other_prompt,
        divergence_nats=divergence,
        largest_difference=float(np.abs(own - theirs).max()),
        program=f"xllamacpp {importlib.metadata.version('xllamacpp')}",
    )


def with_loss(
    found: GgufProof,
    file: Path,
    unrounded: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    more_texts: Sequence[str],
) -> GgufProof:
    """Return the proof of the unrounded file with what rounding cost, on `more_texts` or else on built-in texts.

    Raises:
        InputError: it costs so much that no model is left.
    """
    import numpy as np

    texts = "\n".join(more_texts or proof_texts()[-_NUM_MEASURED:])[:_MEASURED_CHARACTERS]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    around = tokenizer("", verbose=False)["input_ids"]
    first = [index for index in around[:1] if index == tokenizer.bos_token_id]
    length = min(_MEASURED_LENGTH, len(proof_ids(model)) - len(first) - 1, len(ids) - 1)
    starts = np.unique(np.linspace(0, len(ids) - length - 1, _NUM_MEASURED).astype(int)).tolist()
    prompts, nexts = [[*first, *ids[i : i + length]] for i in starts], [ids[i + length] for i in starts]
    rows = [
        _normalized(_read_by_llama_cpp(path, tokenizer, model.config.vocab_size, prompts)["log_probabilities"])
        for path in (unrounded, file)
    ]
    tokens_per_byte = len(ids) / len(texts.encode())
    before, after = (float(-np.log2(np.exp(row[range(len(nexts)), nexts])).mean() * tokens_per_byte) for row in rows)
    divergence = float((np.exp(rows[0]) * (rows[0] - rows[1])).sum(axis=-1).mean())
    if not divergence <= MAX_LOSS_NATS:
        raise InputError(
            f"gguf: rounding the weights leaves no model: predictions are {divergence:.2g} nats apart on average, more "
            f"than {MAX_LOSS_NATS:g}; choose --gguf f16"
        )
    sizes = [path.stat().st_size for path in (file, unrounded)]
    return dataclasses.replace(found, loss=Loss(before, after, divergence, len(nexts), *sizes))


def describe(name: str, proof: GgufProof) -> str:
    """Return what was proved of a file, in sentences."""
    remarks = ""
    if proof.num_with_unknown:
        remarks += (
            f" In {proof.num_with_unknown:,} of them characters without a piece of their own become `<unk>`, which "
            "transformers spells in bytes: llama.cpp has no bytes for such a tokenizer, so it does not know these "
            "characters."
        )
    if proof.num_with_marks:
        remarks += (
            f" In {proof.num_with_marks:,} of them marks stand apart from their letters, as in Hindi or in a kana with "
            "its voicing mark apart: llama.cpp reads those with other ids than transformers."
        )
    if proof.num_with_space:
        remarks += (
            f" {proof.num_with_space:,} of them begin with a space or go on behind a special token: llama.cpp writes "
            "one more space there."
        )
    if proof.num_prompts:
        remarks += f" Its chat template makes prompts with equal ids of {proof.num_prompts} conversations."
    if proof.other_prompt:
        remarks += f" Of a conversation llama.cpp makes another prompt: {proof.other_prompt}."
    num_others = proof.num_with_marks + proof.num_with_space
    equal = f"equal ids, but for {num_others:,}," if num_others else "equal ids"
    of_file = "Without rounding, the" if proof.loss else "The"
    measured = (
        f"`{name}` was read by llama.cpp ({proof.program}): {equal} on {proof.num_texts:,} texts.{remarks} {of_file} "
        f"distribution of the next token is at most {proof.divergence_nats:.1e} nats (Kullback-Leibler) from that in "
        f"transformers, a log-probability at most {proof.largest_difference:.1e}."
    )
    if (loss := proof.loss) is None:
        return measured
    return (
        f"{measured} Rounding makes the file {loss.num_bytes / loss.num_bytes_before:.2f} times as large as one in f16 "
        f"and costs {loss.after - loss.before:+.4f} bits per byte ({loss.before:.4f} before, {loss.after:.4f} after) "
        f"and {loss.divergence_nats:.2g} nats (Kullback-Leibler, mean of {loss.num_tokens} tokens)."
    )


def refuse_unknown(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise InputError for the first text with characters that llama.cpp would make <unk> of."""
    for text in texts:
        ids = tokenizer(text, verbose=False)["input_ids"]
        if _bytes_as_unknown(ids, tokenizer) != ids:
            raise _without_bytes(text, ids)


def _read_by_llama_cpp(
    file: Path,
    tokenizer: PreTrainedTokenizerFast,
    num_ids: int,
    prompts: Sequence[list[int]],
    texts: Sequence[str] = (),
    conversations: Sequence[list[dict[str, str]]] = (),
) -> dict:
    """Return what llama.cpp answers, in a process of its own. Raises InputError when it cannot read the file."""
    import numpy as np

    request = {"prompts": prompts, "num_ids": num_ids, "texts": texts, "conversations": conversations}
    request["parse_special"] = not tokenizer.split_special_tokens
    with tempfile.TemporaryDirectory() as scratch:
        question, answer, rows = (Path(scratch) / name for name in ("request.json", "answer.json", "rows.npy"))
        question.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, str(_SCRIPT), *map(str, (file, question, answer, rows))]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode or not answer.exists():
            reason = next((line for line in reversed(done.stderr.splitlines()) if "error" in line.lower()), "")
            raise InputError(f"gguf: llama.cpp cannot read the file (exit code {done.returncode}): {reason.strip()}")
        return {**json.loads(answer.read_text(encoding="utf-8")), "log_probabilities": np.load(rows)}


def _comparison(
    tokenizer: PreTrainedTokenizerFast, model_dir: Path, unknown: Unknown
) -> Callable[[str, list[int]], _Agreement]:
    """Return a function of a text and llama.cpp's ids that says how they agree, or raises InputError."""
    is_reference, (difference, as_llama_cpp) = _reference(model_dir), _as_llama_cpp_reads(tokenizer)

    def compare(text: str, found: list[int]) -> _Agreement:
        own = tokenizer(text, verbose=False)["input_ids"]
        if found == own or is_reference(text, found):
            return "equal"
        if difference and found == as_llama_cpp(text):
            return difference
        without_bytes = _bytes_as_unknown(own, tokenizer)
        if without_bytes == own or found != without_bytes:
            raise InputError(
                f"gguf: the tokenizer does not survive it: {_shown(text)} gives the ids {own[:40]}, llama.cpp "
                f"{found[:40]}"
            )
        if unknown == "refuse":
            raise _without_bytes(text, own)
        return "unknown"

    return compare


def _compare_prompts(
    conversations: Sequence[serving.Conversation],
    answers: Sequence[list[int] | str],
    tokenizer: PreTrainedTokenizerFast,
    tolerance: Tolerance,
) -> str | None:
    """Return the first difference in a prompt, None where all have equal ids.

    Raises:
        InputError: there is one, and it is not allowed.
    """
    for conversation, found in zip(conversations, answers, strict=True):
        allowed = [conversation.ids]
        if tolerance.unknown == "unk":
            allowed.append(_bytes_as_unknown(conversation.ids, tokenizer))
        if found in allowed:
            continue
        roles = ", ".join(message["role"] for message in conversation.messages)
        if isinstance(found, str):
            difference = f"it cannot use the chat template on a conversation of {roles}: {_shown(found)}"
        else:
            place = next(
                (i for i, (a, b) in enumerate(zip(found, conversation.ids, strict=False)) if a != b),
                min(len(found), len(conversation.ids)),
            )
            ids = [tokenizer.convert_ids_to_tokens(row[place : place + 5]) for row in (conversation.ids, found)]
            difference = f"a conversation of {roles} becomes … {ids[1]} where transformers has … {ids[0]}"
        if tolerance.prompts == "differ":
            return difference
        raise InputError(
            f"gguf: the chat template does not survive it: {difference}. --gguf_prompts differ accepts that, and the "
            "card says it"
        )
    return None


def _without_bytes(text: str, ids: Sequence[int]) -> InputError:
    return InputError(
        "gguf: the tokenizer does not survive it: llama.cpp has no byte fallback for this kind, so characters without "
        f"a piece of their own become <unk>; the first text in which that happens is {_shown(text)}: ids {ids[:20]}. "
        f"--gguf_unknown unk accepts that; a model trained with a tokenizer of `{SURVIVING}` survives whole"
    )


def _reference(model_dir: Path) -> Callable[[str, list[int]], bool]:
    """Return a test of whether ids of a text are SentencePiece's; the tokenizer may differ harmlessly."""
    file = sentencepiece_file(model_dir)
    if file is None:
        return lambda text, ids: False
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(file))
    return lambda text, ids: first_difference(processor, [text], [ids]) is None


def _as_llama_cpp_reads(tokenizer: PreTrainedTokenizerFast) -> tuple[Difference | None, Callable[[str], list[int]]]:
    """Return on what texts llama.cpp is known to give other ids, None where on none, and a function that gives them."""
    from tokenizers import Tokenizer

    known = as_llama_cpp_reads(json.loads(tokenizer.backend_tokenizer.to_str()))
    if known is None:
        return None, lambda text: []
    backend = Tokenizer.from_str(json.dumps({**known[1], "truncation": None, "padding": None}))
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return known[0], lambda text: backend.encode(text).ids


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


def _normalized(log_probabilities: np.ndarray) -> np.ndarray:
    """Return rows of log-probabilities, float64, that add up to 1; rounded to float32 they do not."""
    import numpy as np

    rows = log_probabilities.astype(np.float64)
    return rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")
