"""Padding, a mask and the EOS between two texts: each gets an id of its own, and every other id stays as it is."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import BertProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jpllm.runtime import InputError
from jpllm.tokenizer.encoder import corpus_encoder
from jpllm.tokenizer.load import load, save
from jpllm.tokenizer.special_tokens import MASK_TOKEN, ensure_mask_token, ensure_pad_token, mark_boundaries

TEXT = "むかし、[MASK]があった。</s>"
WORDS = {"<unk>": 0, "</s>": 1, "<s>": 2, "a": 3, "b": 4, "c": 5}


def word_tokenizer(post_processor=None, **special_tokens):
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if post_processor:
        backend.post_processor = post_processor
    tokens = {"unk_token": "<unk>", "eos_token": "</s>", "bos_token": "<s>"} | special_tokens
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)


def test_an_eos_between_the_texts():
    tokenizer = word_tokenizer()
    assert tokenizer("a b", "c")["input_ids"] == [3, 4, 5]  # which could be any pair
    mark_boundaries(tokenizer, at_beginning=False)
    assert tokenizer("a b", "c")["input_ids"] == [3, 4, 1, 5]
    assert tokenizer("a b")["input_ids"] == [3, 4]
    assert tokenizer("a b a", "c", truncation=True, max_length=4)["input_ids"] == [3, 4, 1, 5]


def test_an_eos_before_the_first_text_for_an_encoder():
    tokenizer = word_tokenizer()
    mark_boundaries(tokenizer, at_beginning=True)
    assert tokenizer("a b", "c")["input_ids"] == [1, 3, 4, 1, 5]
    assert tokenizer("a b")["input_ids"] == [1, 3, 4]


def test_a_tokenizer_that_marks_them_is_left_alone():
    bert = BertProcessing(("</s>", 1), ("<s>", 2))
    for at_beginning in (True, False):
        tokenizer = word_tokenizer(bert)
        mark_boundaries(tokenizer, at_beginning)
        assert tokenizer("a", "b")["input_ids"] == [2, 3, 1, 4, 1]


def test_saved_and_typed_control_strings_are_text(tmp_path):
    tokenizer = word_tokenizer()
    ensure_pad_token(tokenizer)
    mark_boundaries(tokenizer, at_beginning=False)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for one in (tokenizer, loaded):
        assert one("a <pad>", "b")["input_ids"] == [3, 0, 1, 4]
        assert one.pad_token_id == 6


def test_ids_of_single_texts_stay(tokenizer_dir):
    text = "むかし、あるところに</s>"
    tokenizer = load(tokenizer_dir)
    before = tokenizer(text)["input_ids"]
    mark_boundaries(tokenizer, at_beginning=False)
    assert tokenizer(text)["input_ids"] == before
    assert tokenizer(text, text)["input_ids"] == [*before, tokenizer.eos_token_id, *before]


@pytest.mark.parametrize("shared", ["</s>", "<s>", "<unk>", None])
def test_padding_gets_an_id_of_its_own(shared):
    tokenizer = word_tokenizer(**({"pad_token": shared} if shared else {}))
    assert ensure_pad_token(tokenizer) is True
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", 6)
    assert tokenizer("a b </s>")["input_ids"] == [3, 4, 1]
    assert ensure_pad_token(tokenizer) is False


def test_nothing_to_part_texts_by():
    with pytest.raises(InputError, match="it has no EOS token to part texts by; set eos_token"):
        mark_boundaries(word_tokenizer(eos_token=None), at_beginning=False)


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
