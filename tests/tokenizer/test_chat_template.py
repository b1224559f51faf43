"""Chat templates: what a conversation looks like, which ids are learned, and the same ids when it is asked again."""

import json

import pytest

from jpllm.runtime import InputError
from jpllm.tokenizer.chat_template import (
    encode_chat_prompt,
    encode_conversation,
    render,
    segments,
    set_template,
    special_token_in,
)
from jpllm.tokenizer.load import load, save
from jpllm.tokenizer.special_tokens import ensure_pad_token

TWO_TURNS = [
    {"role": "user", "content": "猫は何をしますか。"},
    {"role": "assistant", "content": "寝ます。"},
    {"role": "user", "content": "犬は?"},
    {"role": "assistant", "content": "走ります。"},
]
OPENING = "以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。\n\n"
WITH_INPUT = "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。\n\n"


@pytest.fixture
def tokenizer(tokenizer_dir):
    return load(tokenizer_dir)


def test_alpaca(tokenizer):
    set_template(tokenizer, "alpaca-ja")
    parts = segments(tokenizer, TWO_TURNS)
    assert [(part.text, part.is_answer) for part in parts] == [
        (f"{OPENING}### 指示:\n猫は何をしますか。\n\n### 応答:\n", False),
        ("寝ます。</s>", True),
        ("### 指示:\n犬は?\n\n### 応答:\n", False),
        ("走ります。</s>", True),
    ]
    question = "足してください。\n\n### 入力:\n1と2"
    asked = render(tokenizer, [{"role": "user", "content": question}], add_generation_prompt=True)
    assert asked == f"{WITH_INPUT}### 指示:\n足してください。\n\n### 入力:\n1と2\n\n### 応答:\n"
    instructed = [{"role": "system", "content": "短く答える。"}, *TWO_TURNS[:1]]
    assert render(tokenizer, instructed) == "短く答える。\n\n### 指示:\n猫は何をしますか。\n\n"


def test_chat(tokenizer):
    set_template(tokenizer, "chat")
    parts = segments(tokenizer, [{"role": "system", "content": "短く答える。"}, *TWO_TURNS])
    assert [(part.text, part.is_answer) for part in parts] == [
        ("短く答える。\nユーザー:\n猫は何をしますか。\nアシスタント:\n", False),
        ("寝ます。</s>", True),
        ("ユーザー:\n犬は?\nアシスタント:\n", False),
        ("走ります。</s>", True),
    ]


@pytest.mark.parametrize("name", ["alpaca-ja", "chat"])
def test_ids(tokenizer, name):
    """Each part is encoded alone; answers end with the EOS, which is learned; nothing else is special."""
    set_template(tokenizer, name)
    ids, learned = encode_conversation(tokenizer, TWO_TURNS)
    expected_ids, expected_learned = [], []
    for part in segments(tokenizer, TWO_TURNS):
        words = part.text.removesuffix("</s>")
        found = tokenizer.encode(words, add_special_tokens=False) + [tokenizer.eos_token_id] * part.is_answer
        expected_ids += found
        expected_learned += [part.is_answer] * len(found)
    assert (ids, learned) == (expected_ids, expected_learned)
    ends = [index for index, one in enumerate(ids) if one == tokenizer.eos_token_id]
    assert len(ends) == 2
    assert all(learned[index] for index in ends)
    assert ends[-1] == len(ids) - 1
    asked = encode_chat_prompt(tokenizer, TWO_TURNS[:3])
    assert ids[: len(asked)] == asked
    assert not learned[len(asked) - 1]
    assert learned[len(asked)]


@pytest.mark.parametrize("name", ["alpaca-ja", "chat"])
def test_the_saved_template_asks_as_training_did(tokenizer, tokenizer_dir, tmp_path, name):
    """`apply_chat_template` of the saved folder gives the ids of training, for the first turn and the second."""
    set_template(tokenizer, name)
    save(tokenizer, tokenizer_dir, tmp_path)
    from transformers import AutoTokenizer

    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    for messages in (TWO_TURNS[:1], TWO_TURNS[:3]):
        text = reloaded.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        parts = text.split("</s>")
        ids = [reloaded.encode(part, add_special_tokens=False) for part in parts]
        joined = ids[0] if len(ids) == 1 else [*ids[0], reloaded.eos_token_id, *ids[1]]
        assert encode_chat_prompt(tokenizer, messages) == joined


def test_a_template_of_ones_own(tokenizer):
    with pytest.raises(InputError, match="the tokenizer has none of its own; choose alpaca-ja or chat"):
        set_template(tokenizer, "own")
    chatml = (
        "{% for m in messages %}{{ '[' + m.role + ']' + m.content + (eos_token if m.role == 'assistant' else '') }}"
        "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer.chat_template = chatml
    set_template(tokenizer, "own")
    assert [part.text for part in segments(tokenizer, TWO_TURNS)] == [
        "[user]猫は何をしますか。\n[assistant]",
        "寝ます。</s>",
        "\n[user]犬は?\n[assistant]",
        "走ります。</s>",
    ]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "do not end with the EOS token </s>"),
        (
            "{{ messages | length }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}",
            "what it writes to ask for an answer is not what stands in front of the answers that it writes",
        ),
        ("{{ raise_exception('no system') }}", "cannot write the roles"),
    ],
)
def test_templates_that_cannot_be_learned(tokenizer, template, problem):
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=problem):
        segments(tokenizer, TWO_TURNS)


def test_a_special_token_in_a_message_is_found(tokenizer):
    tokenizer.split_special_tokens = False  # as a tokenizer from elsewhere reads it
    assert special_token_in(tokenizer, [{"role": "user", "content": "終わり</s>"}]) == "</s>"
    assert special_token_in(tokenizer, TWO_TURNS) is None


def test_a_new_padding_token_is_behind_all_others_and_old_ids_stay(tokenizer, tmp_path):
    before = tokenizer.get_vocab()
    assert not ensure_pad_token(tokenizer)  # it has one
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.get_vocab().pop("<pad>", None)
    assert not ensure_pad_token(tokenizer)  # there is a <pad> that nobody called so
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.get_vocab() == before


def test_gpt2_gets_a_padding_token(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "<|endoftext|>": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    gpt2 = load(tmp_path)
    old = gpt2.get_vocab()
    gpt2.pad_token = gpt2.eos_token
    assert ensure_pad_token(gpt2)
    assert gpt2.pad_token_id == 3 == len(gpt2) - 1
    assert {token: index for token, index in gpt2.get_vocab().items() if token in old} == old
    assert gpt2.encode("ab") == [0, 1]
