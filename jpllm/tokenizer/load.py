"""Load a tokenizer folder, encode a corpus with it fast, and tell tokenizers apart.

SentencePiece encodes 5 to 19 times as fast as tokenizers, so it does the corpus where the folder has its model and
its ids are proven equal. Corpus text never becomes a control id, whatever somebody typed in it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import typing
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from jpllm.runtime import InputError
from jpllm.tokenizer.train import without_surrogates

if typing.TYPE_CHECKING:
    import numpy as np
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

Encode = Callable[[list[str]], list["np.ndarray"]]

MODEL_FILE_NAME = "tokenizer.model"
NASTY_STRINGS = (
    *("", " ", "   ", "\u3000", "\n", "\n\n", "\t", "\r\n", "a\r\nb\r\n", "\n\n  a", "\tif x:\n\t\treturn"),
    *(" a", "a ", "  a  b  ", "\u3000吾輩は　猫。\n\u3000名前は\u3000無い。", "a\u3000 \u3000b", "a \n b"),
    *("\0", "a\0b", "\x01\x07\x1b[0m", "\x0b\x0c\x1c\x85", "\u2028a\u2029b", "\xa0a\xa0", "\u2003a\u2009b"),
    *("</s>", "<s>", "<unk>", "<pad>", "a</s>b", "はい。</s>", "</s></s>", "＜/ｓ＞", "＜ｐａｄ＞", "<unk", "</"),
    *("<0x0A>", "<0xE3><0x81><0x82>", "a<0x00>b", "＜０ｘ０Ａ＞", "<0x", "<mask>", "[CLS]", "<|endoftext|>"),
    *("👨‍👩‍👧‍👦", "👍🏽", "🇯🇵", "❤️", "𠮷野家で𩸽を𠮟る", "葛\U000e0100城市", "辻\ufe00", "\xad", "a\xadb"),
    *("ｶﾞｷﾞｸﾞ ﾊﾟﾋﾟ", "ｱｲｳｰ｡｢｣", "\uff9e", "か\u3099", "は\u309a", "\u3099", "\u309a", "゛゜", "e\u0301"),
    *("a\u0308\u0323", "\u0301", "´", "¨a", "㍿", "①②③", "ﷺ", "㋿", "㌔", "ﬁ", "½", "№", "ⅣⅷⅯ", "ＡＢＣ１２３"),
    *("（）！？：；～〜－―…‥", "“”‘’«»", "▁", "▁▁", "▁a▁", " ▁ a ▁ ", "a▁", "\u2585", "\ufffd", "\ufeffa"),
    *("\u200b", "a\u200bb", "\u200d", "\u2060", "\u202eabc\u202c", "שָׁלוֹם", "مُحَمَّد", "हिन्दी", "ไทย", "Привет"),
    *("\u1112\u1161\u11ab", "한글", "ㅎㅏㄴ", "Tiếng Việt", "\U0010ffff", "\ue000", "\ufdd0", "3.14", "1,000円"),
    *("https://example.com/a_b?q=%E3%81%82&x=1#y", "x_1 = y[0] * 2  # ﾒﾓ", "A" * 3000, "あ" * 1000, "―" * 7),
    *(" " * 50, "\u3000" * 50, "\n" * 50, "!?" * 200, "𠮷" * 100),
)

_FLOAT32_TOLERANCE = 1e-5
_NUM_PROOF_CHARACTERS = 100_000
_MAX_SHOWN = 200
_DESCRIBING_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")
_UNTYPABLE = "\U0010fffe"  # a noncharacter

logger = logging.getLogger(__name__)


def load(path: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, or of a model on the Hugging Face Hub.

    A folder is read without the network; one with only GPT-2's `vocab.json` and `merges.txt` is read as GPT-2's.
    Raises InputError when there is none, when it is a bare SentencePiece model (AutoTokenizer would load it with
    wrong ids), or when it has no fast backend or no EOS token.
    """
    from transformers import AutoTokenizer, GPT2TokenizerFast

    folder = Path(path)
    _refuse_missing_or_bare(folder)
    files = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    is_bare_gpt2 = {"vocab.json", "merges.txt"} <= files and files.isdisjoint(_DESCRIBING_FILES)
    loader = GPT2TokenizerFast if is_bare_gpt2 else AutoTokenizer
    try:
        tokenizer = loader.from_pretrained(path, local_files_only=folder.is_dir())
    except Exception as error:  # tokenizers raises nothing narrower for a broken tokenizer.json
        raise InputError(f"{path}: no tokenizer can be loaded from it: {error}") from error
    if not tokenizer.is_fast:
        raise InputError(f"{path}: the tokenizer has no fast backend (tokenizer.json), which jpllm needs")
    if tokenizer.eos_token_id is None:
        raise InputError(f"{path}: the tokenizer has no EOS token; set eos_token in tokenizer_config.json")
    return tokenizer


def save(tokenizer: PreTrainedTokenizerFast, path: str | Path, folder: Path) -> None:
    """Save a tokenizer that was loaded from `path` into `folder`, with the SentencePiece model where there is one."""
    tokenizer.save_pretrained(folder)
    if model_file := _sentencepiece_file(Path(path)):
        shutil.copyfile(model_file, folder / MODEL_FILE_NAME)


def corpus_encoder(tokenizer: PreTrainedTokenizerFast, path: str | Path) -> CorpusEncoder:
    """The fastest encoder of documents that is proven to give the tokenizer's ids.

    `path` is what the tokenizer was loaded from. If it is a folder with a SentencePiece model whose ids equal
    the tokenizer's, on NASTY_STRINGS and on the first documents to encode, that model does the work.
    """
    return CorpusEncoder(
        encode=_fastest_encode(tokenizer, path),
        eos_token_id=tokenizer.eos_token_id,
        vocab_size=len(tokenizer),
        fingerprint=fingerprint(tokenizer),
    )


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 (hex) of what determines the ids of a corpus; the same after saving and loading again."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # left behind by the latest call, and not used for a corpus
        backend.pop(state, None)
    special_ids = [getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")]
    return hashlib.sha256(json.dumps([backend, special_ids], sort_keys=True).encode()).hexdigest()


def first_difference(
    reference: SentencePieceProcessor, texts: Sequence[str], encoded: Sequence[Sequence[int]]
) -> str | None:
    """The first text whose ids are not those of the reference, with both lists of ids; None if there is none.

    The two harmless differences that the docstring of `convert` names do not count.
    """
    has_nfkc = reference.normalize("①").endswith("1")
    for text, ids in zip(texts, encoded, strict=True):
        actual, expected = [int(index) for index in ids], reference.encode(text)
        if actual == expected or _is_tie(reference, actual, expected):
            continue
        sorted_marks = reference.encode(unicodedata.normalize("NFKC", text)) if has_nfkc else expected
        if actual != sorted_marks and not _is_tie(reference, actual, sorted_marks):
            return _shown_difference(text, actual, expected)
    return None


def _is_tie(reference: SentencePieceProcessor, ids: list[int], others: list[int]) -> bool:
    """Whether both spell the same text with the same sum of scores, as far as 32 bits can tell."""
    if max(*ids, *others, 0) >= len(reference) or reference.decode(ids) != reference.decode(others):
        return False
    score, other_score = (sum(map(reference.get_score, one)) for one in (ids, others))
    return abs(score - other_score) <= _FLOAT32_TOLERANCE * abs(score)


def _shown_difference(text: str, actual: list[int], expected: list[int]) -> str:
    """Text and both lists of ids; from the first difference on, and not for ever, if they are long."""
    begin = 0
    if max(len(actual), len(expected)) > _MAX_SHOWN:
        begin = next(i for i, (one, other) in enumerate(zip_longest(actual, expected)) if one != other)
    shown, shown_expected = (ids[begin : begin + _MAX_SHOWN] for ids in (actual, expected))
    where = f" from number {begin} on" if begin else ""
    excerpt = repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")
    return f"{excerpt} gives the ids{where} {shown}, SentencePiece {shown_expected}"


def _refuse_missing_or_bare(path: Path) -> None:
    if path.is_dir():
        models = [] if (path / "tokenizer.json").exists() else sorted(path.glob("*.model"))
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


def _is_local(path: Path) -> bool:
    """Whether a path that is no folder cannot be meant as NAME or OWNER/NAME on the Hub."""
    is_in_a_folder = len(path.parts) == 2 and path.parent.is_dir()
    return path.exists() or path.is_absolute() or len(path.parts) > 2 or is_in_a_folder


def _fastest_encode(tokenizer: PreTrainedTokenizerFast, path: str | Path) -> Encode:
    encode = _backend_encode(tokenizer)
    model_file = _sentencepiece_file(Path(path))
    if model_file is None:
        logger.info("encoding with tokenizers: %s holds no SentencePiece model", path)
        return encode
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(model_file))
    added_words = [str(token) for token in tokenizer.added_tokens_decoder.values() if not token.special]
    if added_words:  # no sample of text can prove that they never occur
        found = f"the tokenizer has words that the model lacks: {added_words[0]!r}"
    else:
        found = first_difference(processor, NASTY_STRINGS, encode(list(NASTY_STRINGS)))
    if found:
        _log_fallback(model_file, found)
        return encode
    return _proven_on_first_documents(processor, encode, model_file)


def _sentencepiece_file(folder: Path) -> Path | None:
    """`tokenizer.model`, or else the only file whose name ends so."""
    if (folder / MODEL_FILE_NAME).is_file():
        return folder / MODEL_FILE_NAME
    files = list(folder.glob("*.model")) if folder.is_dir() else []
    return files[0] if len(files) == 1 else None


def _proven_on_first_documents(processor: SentencePieceProcessor, encode: Encode, model_file: Path) -> Encode:
    """Encoding with SentencePiece, if it agrees with `encode` on the first documents that come; else `encode`."""

    def encode_with_sentencepiece(texts: list[str]) -> list[np.ndarray]:
        clean_texts = [without_surrogates(text) for text in texts]
        return processor.encode(clean_texts, num_threads=os.cpu_count() or 1, return_type="numpy")

    chosen: list[Encode] = []

    def encode_proven(texts: list[str]) -> list[np.ndarray]:
        if not chosen and texts:
            sample = _first_characters(texts)
            found = first_difference(processor, sample, encode(sample))
            chosen.append(encode if found else encode_with_sentencepiece)
            if found:
                _log_fallback(model_file, found)
            else:
                logger.info("encoding with SentencePiece: %s gives the tokenizer's ids", model_file)
        return chosen[0](texts) if texts else []

    return encode_proven


def _first_characters(texts: list[str]) -> list[str]:
    """The texts up to `_NUM_PROOF_CHARACTERS` characters in all."""
    sample: list[str] = []
    num_left = _NUM_PROOF_CHARACTERS
    for text in texts:
        sample.append(without_surrogates(text[:num_left]))
        num_left -= len(text)
        if num_left <= 0:
            break
    return sample


def _log_fallback(model_file: Path, found: str) -> None:
    logger.warning("encoding with tokenizers, several times slower: %s differs: %s", model_file, found)


def _backend_encode(tokenizer: PreTrainedTokenizerFast) -> Encode:
    import numpy as np

    backend = _without_special_tokens(tokenizer.backend_tokenizer)

    def encode(texts: list[str]) -> list[np.ndarray]:
        clean_texts = [without_surrogates(text) for text in texts]
        encodings = backend.encode_batch_fast(clean_texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    return encode


def _without_special_tokens(backend: Tokenizer) -> Tokenizer:
    """A copy that has the same ids for text, and no special token that a text could spell.

    Special tokens stand in two places: in the list of added tokens, and in the vocabulary, where a unigram model
    can choose one by its score. The first is emptied of them; in the second each gets a name nobody can type.
    """
    from tokenizers import Tokenizer

    state = json.loads(backend.to_str())
    special = {token["id"]: token["content"] for token in state["added_tokens"] if token["special"]}
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] not in special]
    state |= {"post_processor": None, "truncation": None, "padding": None}
    model = state["model"]
    if isinstance(model["vocab"], list):  # unigram: [piece, score] by id
        for index in special.keys() & set(range(len(model["vocab"]))):
            model["vocab"][index][0] = f"{_UNTYPABLE}{index}"
    else:  # the model looks its unknown token up by name, and the result of a merge
        needed = {model.get("unk_token"), *("".join(merge) for merge in model.get("merges", ()))}
        for index, content in special.items():
            if content not in needed and model["vocab"].get(content) == index:
                model["vocab"][f"{_UNTYPABLE}{index}"] = model["vocab"].pop(content)
    return Tokenizer.from_str(json.dumps(state))


@dataclass(frozen=True)
class CorpusEncoder:
    """Encodes documents; call it, or its `encode`.

    Attributes:
        encode: texts → one int32 array of ids each, without special tokens; what somebody typed never becomes a
            control id, and lone surrogates are left out.
        eos_token_id: id to write between documents.
        vocab_size: ids are below it.
        fingerprint: of the tokenizer; changes whenever an id would.
    """

    encode: Encode
    eos_token_id: int
    vocab_size: int
    fingerprint: str

    def __call__(self, texts: list[str]) -> list[np.ndarray]:
        return self.encode(texts)
