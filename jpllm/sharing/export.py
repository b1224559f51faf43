"""Write a model as it is given away: a folder of weights, tokenizer, settings and card, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jpllm.runtime import InputError
from jpllm.tokenizer.load import MODEL_FILE_NAME, sentencepiece_file
from jpllm.tokenizer.model_file import without_paths

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

Dtype = Literal["float32", "bfloat16", "float16"]
MAX_SHARD_SIZE = "5GB"
_MACHINE_KEYS = ("is_local", "local_files_only", "name_or_path")  # of tokenizer_config.json, about where it was loaded
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_PICKLE_BEGINNINGS = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
_VOCABULARIES = ("tokenizer.json", "vocab.json")  # whose words may look like anything


def set_dtype(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Convert the weights; tables that are computed when a model is loaded, such as rotary angles, stay float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, model_dir: Path, folder: Path, sampling: dict | None
) -> None:
    """Write weights in the dtype that the model has, and the tokenizer that was loaded from `model_dir`.

    `sampling` are settings of a run that become the defaults of `generate`; None leaves the model's own.
    """
    if model.can_generate():
        model.generation_config = generation_config(model, tokenizer, sampling)
    model.config._name_or_path = ""
    model.save_pretrained(folder, max_shard_size=MAX_SHARD_SIZE)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    tokenizer.save_pretrained(folder)
    if model_file := sentencepiece_file(model_dir):
        (folder / MODEL_FILE_NAME).write_bytes(without_paths(model_file.read_bytes()))
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    for key in _MACHINE_KEYS:
        settings.pop(key, None)
    if settings.get("tokenizer_class") == "TokenizersBackend":  # transformers 4 knows it by the other name, 5 by both
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sampling: dict | None
) -> GenerationConfig:
    """Return the defaults of `generate`: the run's sampling, and the ids that begin, end and fill a text."""
    from transformers import GenerationConfig

    own = model.generation_config
    ends = own.eos_token_id  # a list is a publisher's word that a turn of a conversation ends otherwise than a document
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": ends if isinstance(ends, list) else tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    }
    if sampling is None:
        own.update(**{key: value for key, value in ids.items() if value is not None})
        return own
    values = {key: sampling[key] for key in ("max_new_tokens", "repetition_penalty") if key in sampling}
    if sampling.get("no_repeat_ngram_size"):
        values["no_repeat_ngram_size"] = sampling["no_repeat_ngram_size"]
    if sampling.get("temperature"):
        values |= {"do_sample": True, "temperature": sampling["temperature"], "top_p": sampling["top_p"], "top_k": 0}
    return GenerationConfig(**ids, **values)


def refuse_unwanted(folder: Path, private: Sequence[Path]) -> None:
    """Check the finished folder: no pickle is in it, and no path of this machine.

    Raises:
        InputError: a file is a pickle or an archive of some, or names one of the `private` folders.
    """
    names = [str(path.resolve()) for path in private if len(path.resolve().parts) > 1]
    patterns = {name: re.compile(rb"(?<![\w./~-])" + re.escape(name.encode()) + rb"(?![\w.-])") for name in names}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            beginning = stream.read(4)
        is_known = file.suffix in (".safetensors", ".gguf")
        if file.suffix in _PICKLE_SUFFIXES or (not is_known and beginning.startswith(_PICKLE_BEGINNINGS)):
            raise InputError(f"{file.name}: a pickle, which runs code when it is loaded")
        if file.suffix not in (".json", ".md", ".jinja") or file.name in _VOCABULARIES:
            continue
        content = file.read_bytes()
        for name, pattern in patterns.items():
            if pattern.search(content):
                raise InputError(f"{file.name}: it names a folder of this machine, {name}")
