"""Load and save a tokenizer folder, and compute the fingerprint of a tokenizer."""

from __future__ import annotations

import hashlib
import json
import shutil
import typing
from pathlib import Path

from jpllm.runtime import InputError, is_panic
from jpllm.tokenizer.regexes import refuse_costly

if typing.TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MODEL_FILE_NAME = "tokenizer.model"
_DESCRIBING_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")


def load(path: str | Path, needs_eos: bool = True) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a folder, or of a model on the Hugging Face Hub.

    A folder is read without the network; one with only GPT-2's `vocab.json` and `merges.txt` is read as GPT-2's.

    Raises:
        InputError: there is no tokenizer, it is a bare SentencePiece model (AutoTokenizer would give wrong ids), it has
            no fast backend, it needs Python code of its own, its rules take too long, or it has no EOS token though
            `needs_eos`.
    """
    from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

    folder = Path(path)
    _refuse_missing_or_bare(folder)
    files = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    is_bare_gpt2 = {"vocab.json", "merges.txt"} <= files and files.isdisjoint(_DESCRIBING_FILES)
    loader = GPT2Tokenizer if is_bare_gpt2 else AutoTokenizer
    try:
        tokenizer = loader.from_pretrained(path, local_files_only=folder.is_dir(), trust_remote_code=False)
    except Exception as error:  # tokenizers raises nothing narrower for a broken tokenizer.json
        raise InputError(f"{path}: no tokenizer can be loaded from it: {_reason(error)}") from error
    except BaseException as error:
        if not is_panic(error):
            raise
        raise InputError(f"{path}: no tokenizer can be loaded from it; the file is damaged: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"{path}: the tokenizer has no fast backend (tokenizer.json), which jpllm needs")
    refuse_costly(tokenizer, path)
    if needs_eos and tokenizer.eos_token_id is None:
        raise InputError(f"{path}: the tokenizer has no EOS token; set eos_token in tokenizer_config.json")
    return tokenizer


def save(tokenizer: PreTrainedTokenizerFast, path: str | Path, folder: Path) -> None:
    """Save a tokenizer that was loaded from `path` into `folder`, with the SentencePiece model where there is one."""
    tokenizer.save_pretrained(folder)
    if model_file := sentencepiece_file(Path(path)):
        shutil.copyfile(model_file, folder / MODEL_FILE_NAME)


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the SHA-256 (hex) of what determines the ids of a corpus; saving and loading do not change it."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # set by the latest call, and not used for a corpus
        backend.pop(state, None)
    special_ids = [getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")]
    return hashlib.sha256(json.dumps([backend, special_ids], sort_keys=True).encode()).hexdigest()


def _refuse_missing_or_bare(path: Path) -> None:
    if path.is_dir():
        for file in path.glob("*.json"):
            if file.exists() and not file.is_file() and not file.is_dir():
                raise InputError(f"{file}: no regular file")  # reading a pipe would never end
        models = [] if (path / "tokenizer.json").exists() else sorted(path.glob("*.model"))
        if not models and not any(path.glob("tokenizer*")) and not any(path.glob("vocab*")):
            # AutoTokenizer would make an empty one of the model's config.json
            raise InputError(f"{path}: no tokenizer can be loaded from it: it holds no tokenizer file")
    elif path.suffix == ".model" and path.is_file():
        models = [path]
    elif _is_local(path):
        raise InputError(f"{path}: no such folder; name a tokenizer folder, or OWNER/NAME of a model on the Hub")
    else:
        return
    if models:
        raise InputError(
            f"{path}: a SentencePiece model alone would be loaded with wrong ids; convert it first: "
            f"jpllm tokenizer convert --input {models[0]} --output_dir DIR"
        )


def _reason(error: Exception) -> str:
    """Return why transformers loads no tokenizer, in one line."""
    if "custom code" in str(error):
        return "it needs the Python code beside it (auto_map), which is never run here; take another tokenizer"
    if isinstance(error, ImportError):
        return f"it is in a format that needs another package: {str(error).strip().splitlines()[0]}"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _is_local(path: Path) -> bool:
    """Return whether a path that is no folder cannot be meant as NAME or OWNER/NAME on the Hub."""
    is_in_a_folder = len(path.parts) == 2 and path.parent.is_dir()
    return path.exists() or path.is_absolute() or len(path.parts) > 2 or is_in_a_folder


def sentencepiece_file(folder: Path) -> Path | None:
    """Return `tokenizer.model` in the folder, or else its only `.model` file; None without either."""
    if (folder / MODEL_FILE_NAME).is_file():
        return folder / MODEL_FILE_NAME
    files = list(folder.glob("*.model")) if folder.is_dir() else []
    return files[0] if len(files) == 1 else None
