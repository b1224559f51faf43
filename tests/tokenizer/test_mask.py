"""A mask token is one new id; every other id, and every corpus, stays as it is."""

import pytest

from jpllm.runtime import InputError
from jpllm.tokenizer.encoder import corpus_encoder
from jpllm.tokenizer.load import load, save
from jpllm.tokenizer.mask import MASK_TOKEN, ensure_mask_token

TEXT = "むかし、[MASK]があった。</s>"


def test_one_new_id(tokenizer_dir, tmp_path):
    tokenizer = load(tokenizer_dir)
    old, size = tokenizer.get_vocab(), len(tokenizer)
    expected = corpus_encoder(tokenizer, tokenizer_dir).encode([TEXT])[0].tolist()
    ensure_mask_token(tokenizer)
    assert (tokenizer.mask_token, tokenizer.mask_token_id, len(tokenizer)) == (MASK_TOKEN, size, size + 1)
    assert tokenizer.get_vocab() == old | {MASK_TOKEN: size}
    ensure_mask_token(tokenizer)
    assert len(tokenizer) == size + 1

    save(tokenizer, tokenizer_dir, tmp_path)
    loaded = load(tmp_path)
    assert loaded.mask_token_id == size
    assert loaded("むかし、[MASK]が")["input_ids"].count(size) == 1
    assert corpus_encoder(loaded, tmp_path).encode([TEXT])[0].tolist() == expected  # typed, it is text


def test_a_piece_of_that_name_is_not_taken(tokenizer_dir):
    tokenizer = load(tokenizer_dir)
    tokenizer.add_tokens([MASK_TOKEN])
    with pytest.raises(InputError, match=r"\[MASK\] is in its vocabulary, but not as its mask token"):
        ensure_mask_token(tokenizer)
