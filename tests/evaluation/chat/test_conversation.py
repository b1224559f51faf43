import json

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from jpllm.evaluation.chat import conversation as chat
from jpllm.evaluation.chat.conversation import Conversation
from jpllm.evaluation.generate import Answer, SamplingConfig, answer
from jpllm.runtime import InputError
from jpllm.tokenizer.chat_template import encode_chat_prompt, set_template
from jpllm.tokenizer.load import load
from tests.models.test_build import tiny_model

REPLIES = ("はい、そうです。", "今日は晴れています。", "いいえ。", "わかりません。", "それは犬です。")


@pytest.fixture
def tokenizer(tokenizer_dir):
    tokenizer = load(tokenizer_dir)
    set_template(tokenizer, "chat")
    return tokenizer


@pytest.fixture
def asked(monkeypatch):
    """The ids and the seed of each question, to which the answers are REPLIES."""
    calls = []

    def reply(model, tokenizer, prompt_ids, sampling, seed, on_text):
        calls.append((prompt_ids, seed))
        return Answer(REPLIES[len(calls) - 1], True, 9)

    monkeypatch.setattr(chat, "answer", reply)
    return calls


def begin(tokenizer, context_tokens=500, max_new_tokens=20, **settings):
    model = GPT2LMHeadModel(GPT2Config(n_positions=context_tokens, n_embd=8, n_layer=1, n_head=1, vocab_size=8))
    return Conversation(model, tokenizer, SamplingConfig(max_new_tokens=max_new_tokens), **settings)


def ids_of(tokenizer, *texts):
    """Each text encoded alone; EOS behind every second one, the answers."""
    found = []
    for index, text in enumerate(texts):
        found += tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] * (index % 2)
    return found


def test_the_model_sees_what_it_saw_in_training(tokenizer, asked):
    conversation = begin(tokenizer, seed=7)
    assert conversation.ask("これは犬ですか。") == Answer(REPLIES[0], True, 9)
    conversation.ask("天気は？")
    first, second = "ユーザー:\nこれは犬ですか。\nアシスタント:\n", "ユーザー:\n天気は？\nアシスタント:\n"
    assert asked == [
        (ids_of(tokenizer, first), 7),
        (ids_of(tokenizer, first, REPLIES[0], second), 8),
    ]
    conversation.reset()
    conversation.ask("天気は？")
    assert asked[2] == (ids_of(tokenizer, second), 9)
    assert conversation.messages() == [
        {"role": "user", "content": "天気は？"},
        {"role": "assistant", "content": REPLIES[2]},
    ]


def test_the_oldest_exchanges_are_dropped_whole(tokenizer, asked):
    """As few as leave room for an answer; the system message stays, and the saved conversation is whole."""
    questions = [f"質問{number}" for number in range(5)]
    opening = "やさしく。\n"

    def expected(first, last):
        texts = [opening]
        for number in range(first, last):
            texts[-1] += f"ユーザー:\n{questions[number]}\nアシスタント:\n"
            texts += [REPLIES[number], ""]
        texts[-1] += f"ユーザー:\n{questions[last]}\nアシスタント:\n"
        return ids_of(tokenizer, *texts)

    context_tokens = len(expected(0, 2)) + 20  # two exchanges and a question, and room for an answer
    conversation = begin(tokenizer, context_tokens, system="やさしく。")
    forgotten = []
    for last, question in enumerate(questions):
        conversation.ask(question)
        first = next(n for n in range(last + 1) if len(expected(n, last)) + 20 <= context_tokens)
        assert asked[last][0] == expected(first, last)
        assert conversation.num_forgotten == first
        forgotten.append(first)
    assert forgotten[2] == 0 < forgotten[3] < forgotten[4]
    assert len(conversation.messages()) == 11
    conversation.reset()
    assert (conversation.num_forgotten, conversation.messages()) == (0, [{"role": "system", "content": "やさしく。"}])


def test_a_long_answer_is_allowed_half_of_the_context(tokenizer, asked):
    conversation = begin(tokenizer, context_tokens=100, max_new_tokens=1000)
    conversation.ask("はい")
    conversation.ask("はい")
    assert conversation.num_forgotten == 0


@pytest.mark.parametrize(
    ("question", "message"),
    [("猫" * 200, r"the question has \d+ tokens; the model reads at most 100"), ("終わり</s>です", "holds </s>")],
)
def test_a_question_that_cannot_be_asked_changes_nothing(tokenizer, asked, question, message):
    tokenizer.split_special_tokens = False  # as most published tokenizers: typed control strings are control ids
    conversation = begin(tokenizer, context_tokens=100)
    conversation.ask("はい")
    with pytest.raises(InputError, match=message):
        conversation.ask(question)
    assert (len(asked), len(conversation.exchanges), conversation.num_forgotten) == (1, 1, 0)


def test_an_answer_that_is_interrupted_is_not_kept(tokenizer, monkeypatch):
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(chat, "answer", interrupted)
    conversation = begin(tokenizer)
    with pytest.raises(KeyboardInterrupt):
        conversation.ask("はい")
    assert conversation.messages() == []


def test_what_a_conversation_needs(tokenizer):
    tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{{ eos_token }}{% endfor %}"
    with pytest.raises(InputError, match="system: the chat template of this model has no place for it"):
        begin(tokenizer, system="やさしく。")
    tokenizer.chat_template = None
    with pytest.raises(InputError, match=r"the tokenizer has no chat template.*recipes/sft\.py"):
        begin(tokenizer)


def test_a_template_that_cannot_be_cut_is_encoded_whole(tokenizer):
    """Its answers do not end with the EOS."""
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
    messages = [{"role": role, "content": "はい"} for role in ("user", "assistant", "user")]
    assert encode_chat_prompt(tokenizer, messages) == ids_of(tokenizer, "user=はい;assistant=はい;user=はい;")
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(InputError, match="template: it cannot write the roles"):
        encode_chat_prompt(tokenizer, messages)


def test_save(tokenizer, asked, tmp_path):
    conversation = begin(tokenizer, system="やさしく。")
    conversation.ask("はい\nか")
    file = tmp_path / "new" / "talk.json"
    conversation.save(file)
    assert json.loads(file.read_text(encoding="utf-8")) == {
        "messages": [
            {"role": "system", "content": "やさしく。"},
            {"role": "user", "content": "はい\nか"},
            {"role": "assistant", "content": REPLIES[0]},
        ]
    }
    assert list(file.parent.iterdir()) == [file]


def test_with_a_model(tokenizer):
    model = tiny_model("llama-tiny", num_ids=len(tokenizer))
    sampling = SamplingConfig(max_new_tokens=8)
    conversation = Conversation(model, tokenizer, sampling, seed=3)
    pieces = []
    first = conversation.ask("天気は？", pieces.append)
    prompt = "ユーザー:\n天気は？\nアシスタント:\n"
    assert first == answer(model, tokenizer, ids_of(tokenizer, prompt), sampling, 3)
    assert "".join(pieces) == first.text
    second = ids_of(tokenizer, prompt, first.text, prompt)
    assert conversation.ask("天気は？") == answer(model, tokenizer, second, sampling, 4)
