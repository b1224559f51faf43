"""Write a model as one GGUF file and let llama.cpp prove it: equal ids of texts and prompts, and equal predictions."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm.runtime import InputError
from jpllm.sharing.export_proof import proof_texts
from jpllm.sharing.gguf import architectures, proof, quantize, tensors, vocabulary
from jpllm.sharing.gguf.proof import GgufProof, Tolerance
from jpllm.sharing.gguf.quantize import GgufType

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

_PACKAGES = ("gguf", "xllamacpp")
_UNROUNDED: GgufType = "f16"  # the type of the file that a rounded one is compared with


def write_and_prove(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    model_dir: Path,
    file: Path,
    precision: GgufType,
    tolerance: Tolerance,
    more_texts: Sequence[str] = (),
) -> GgufProof:
    """Write a float32 model and its tokenizer, which was loaded from `model_dir`, and let llama.cpp read the file.

    A file that is rounded to fewer bits cannot predict the same, so the model is also written without that, and for as
    long as it takes, beside it: of that file the predictions have to be equal, of the rounded one the loss is measured.

    Raises:
        InputError: what `write` or `jpllm.sharing.gguf.proof.prove` refuse.
    """
    if precision not in quantize.ROUNDED:
        write(model, tokenizer, model_dir, file, precision)
        return proof.prove(file, model, tokenizer, model_dir, tolerance, more_texts)
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        unrounded = Path(scratch) / "unrounded.gguf"
        write(model, tokenizer, model_dir, unrounded, _UNROUNDED)
        found = proof.prove(unrounded, model, tokenizer, model_dir, tolerance, more_texts)
        write(model, tokenizer, model_dir, file, precision)
        return proof.with_loss(found, file, unrounded, model, tokenizer, more_texts)


def write(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, model_dir: Path, file: Path, precision: GgufType
) -> None:
    """Write a float32 model and its tokenizer, which was loaded from `model_dir`, to a GGUF file.

    Raises:
        InputError: a package is missing, or llama.cpp cannot compute the model or cut texts as its tokenizer does.
    """
    ends = model.generation_config.eos_token_id if model.generation_config else None
    converted = _vocabulary(model.config, type(model).__name__, tokenizer, model_dir, precision)
    vocabulary.add_ends(converted, ends if isinstance(ends, list) else [])
    writer = architectures.new_writer(model, str(file))
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
    precision: GgufType,
    tolerance: Tolerance,
    more_texts: Sequence[str] = (),
) -> None:
    """Raise InputError for what `write_and_prove` is known to refuse, before there is a model or a file."""
    converted = _vocabulary(config, architecture, tokenizer, model_dir, precision)
    if converted.has_no_bytes and tolerance.unknown == "refuse":
        proof.refuse_unknown([*proof_texts(), *more_texts], tokenizer)


def _vocabulary(
    config: PretrainedConfig,
    architecture: str,
    tokenizer: PreTrainedTokenizerFast,
    model_dir: Path,
    precision: GgufType,
) -> vocabulary.Vocabulary:
    """Return the vocabulary as llama.cpp reads it.

    Raises:
        InputError: a package is missing, or llama.cpp cannot compute the model or cut texts as its tokenizer does.
    """
    for name in _PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"gguf: needs the package {name}: pip install 'jpllm[gguf]'")
    quantize.refuse_unavailable(precision)
    if found := list(architectures.problems(config, architecture)):
        raise InputError(f"gguf: the model does not survive it: {'; '.join(found)}")
    try:
        return vocabulary.vocabulary(tokenizer, model_dir, config.vocab_size)
    except InputError as error:
        raise InputError(f"gguf: the tokenizer does not survive it: {error}") from error
