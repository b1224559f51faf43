"""Templates by name and those of others: their text, the EOS behind answers, thoughts, dates and system messages."""

import datetime

import jinja2
import pytest

from jpllm.runtime import InputError, UnusableRow
from jpllm.tokenizer import chat_template
from jpllm.tokenizer.chat_template import (
    ask_without_thoughts,
    encode_chat_prompt,
    encode_conversation,
    holds_thoughts,
    render,
    segments,
    set_template,
    special_token_in,
    thoughts_left_empty,
)
from jpllm.tokenizer.load import load
from jpllm.tokenizer.special_tokens import end_ids, record_ends, special_ids
from tests.tokenizer.byte_level import byte_level_tokenizer

TURNS = ("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
SYSTEM = {"role": "system", "content": "短く。"}
ASKED = [{"role": "user", "content": "猫は?"}]
TWO_TURNS = [
    *ASKED,
    {"role": "assistant", "content": "寝る。"},
    {"role": "user", "content": "犬は?"},
    {"role": "assistant", "content": "走る。"},
]
# Like Qwen3's: thoughts of the last answer alone, empty ones where it has none, and a switch for the question.
THINKING = """\
{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' -}}
{%- if m.role == 'assistant' -%}
{%- set parts = m.content.split('</think>') -%}
{%- if loop.last -%}
{{- '<think>\\n' + parts[0].replace('<think>', '').strip() if parts | length > 1 else '<think>\\n' -}}
{{- '\\n</think>\\n\\n' -}}
{%- endif -%}
{{- parts[-1].strip() -}}
{%- else -%}{{- m.content -}}{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{%- endif -%}"""
WITHOUT_SWITCH = THINKING.replace("enable_thinking is defined and enable_thinking is false", "false")
EMPTY = "<think>\n\n</think>\n\n"


@pytest.fixture
def tokenizer():
    """Byte-level, with <|endoftext|> as its EOS and special tokens that have no name, as published ones have."""
    from tokenizers import AddedToken

    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in (*TURNS, *HEADERS)])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in ("<think>", "</think>")])
    return tokenizer


def ids_of(tokenizer, *texts):
    """Each text encoded alone."""
    return [index for text in texts for index in tokenizer(text, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize(
    ("name", "system", "expected"),
    [
        (
            "chatml",
            True,
            "<|im_start|>system\n短く。<|im_end|>\n<|im_start|>user\n猫は?<|im_end|>\n<|im_start|>assistant\n寝る。<|im_end|>\n"
            "<|im_start|>user\n犬は?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "gemma",
            True,
            "<start_of_turn>user\n短く。\n\n猫は?<end_of_turn>\n<start_of_turn>model\n寝る。<end_of_turn>\n"
            "<start_of_turn>user\n犬は?<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            "gemma",
            False,
            "<start_of_turn>user\n猫は?<end_of_turn>\n<start_of_turn>model\n寝る。<end_of_turn>\n"
            "<start_of_turn>user\n犬は?<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            "llama3",
            True,
            "<|start_header_id|>system<|end_header_id|>\n\n短く。<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n猫は?"
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n寝る。<|eot_id|><|start_header_id|>user"
            "<|end_header_id|>\n\n犬は?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "llm-jp",
            False,
            "以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。\n\n### 指示:\n猫は?"
            "\n\n### 応答:\n寝る。<|endoftext|>\n\n### 指示:\n犬は?\n\n### 応答:\n",
        ),
        (
            "llm-jp",
            True,
            "短く。\n\n### 指示:\n猫は?\n\n### 応答:\n寝る。<|endoftext|>\n\n### 指示:\n犬は?\n\n### 応答:\n",
        ),
    ],
)
def test_templates_by_name(tokenizer, name, system, expected):
    """The text is the documented one, also by a Jinja of its own, and the EOS is the token behind each answer."""
    set_template(tokenizer, name)
    messages = [SYSTEM] * system + TWO_TURNS
    assert render(tokenizer, messages[:-1], add_generation_prompt=True) == expected
    alone = jinja2.Environment().from_string(tokenizer.chat_template)
    special = {"eos_token": tokenizer.eos_token}
    assert alone.render(messages=messages[:-1], add_generation_prompt=True, **special) == expected
    answers = [segment.text for segment in segments(tokenizer, messages) if segment.is_answer]
    assert answers == [f"寝る。{tokenizer.eos_token}", f"走る。{tokenizer.eos_token}"]
    ids, learned = encode_conversation(tokenizer, messages)
    asked = encode_chat_prompt(tokenizer, messages[:-1])
    assert ids[: len(asked)] == asked
    assert sum(learned) == len(ids_of(tokenizer, "寝る。", "走る。")) + 2
    ends = {"chatml": "<|im_end|>", "gemma": "<end_of_turn>", "llama3": "<|eot_id|>", "llm-jp": "<|endoftext|>"}
    assert tokenizer.eos_token == ends[name]


def test_the_bos_is_in_front_where_the_tokenizer_writes_it(tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer.bos_token = "<|im_start|>"  # any other than the EOS
    bos = ("<|im_start|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=[bos[0], "$A"], special_tokens=[bos])
    set_template(tokenizer, "gemma")
    ids = encode_chat_prompt(tokenizer, ASKED)
    assert ids == [bos[1], *ids_of(tokenizer, "<start_of_turn>user\n猫は?<end_of_turn>\n<start_of_turn>model\n")]


def test_a_template_whose_tokens_are_lacking_is_refused(tokenizer_dir):
    lacking = load(tokenizer_dir)
    for name, token in (("chatml", "<|im_start|>"), ("gemma", "<start_of_turn>"), ("llama3", "<|start_header_id|>")):
        with pytest.raises(InputError) as error:
            set_template(lacking, name)
        assert str(error.value) == (
            f"template: {name} needs the token {token}, which the tokenizer does not have; choose alpaca-ja, chat or "
            "llm-jp, which need none"
        )


def test_answers_that_end_with_another_token_than_the_eos(tokenizer):
    """The refusal names the key and its value; with it the end is learned, and the EOS is saved."""
    template = "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    tokenizer.chat_template = template + "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
    words = (
        r"its answers end with <end_of_turn>, and the EOS token is <\|endoftext\|>.*; write eos_token: <end_of_turn>"
    )
    with pytest.raises(InputError, match=words):
        set_template(tokenizer, "own")
    set_template(tokenizer, "own", "<end_of_turn>")
    ids, learned = encode_conversation(tokenizer, TWO_TURNS)
    assert tokenizer.eos_token == "<end_of_turn>"
    assert ids[-1] == tokenizer.eos_token_id == tokenizer.get_vocab()["<end_of_turn>"]
    ends = [index for index, token in enumerate(ids) if token == tokenizer.eos_token_id]
    assert [learned[index] for index in ends] == [False, True, False, True]


@pytest.mark.parametrize(
    ("eos_token", "message"),
    [
        (
            "<end_of_tern>",
            r"'<end_of_tern>' is not in the tokenizer's vocabulary; did you mean '<end_of_turn>'\?; it has",
        ),
        ("a", r"'a' is a piece of ordinary text, not an added token: .*; it has <\|im_end\|>, "),
        ("<|endoftext|>", r"its answers end with <\|im_end\|>, and the EOS token is <\|endoftext\|>"),
    ],
)
def test_an_eos_that_cannot_be_one(tokenizer, eos_token, message):
    tokenizer.chat_template = THINKING
    with pytest.raises(InputError, match=message):
        set_template(tokenizer, "own", eos_token)
    with pytest.raises(InputError, match=r"eos_token: template: chatml ends answers with <\|im_end\|>; remove"):
        set_template(tokenizer, "chatml", eos_token)


class FakeModel:
    def __init__(self, configured, own):
        from transformers import GenerationConfig, GPT2Config

        self.config = GPT2Config(eos_token_id=configured)
        self.generation_config = GenerationConfig(eos_token_id=own)


@pytest.mark.parametrize(
    ("configured", "own", "expected"),
    [
        (7, 7, [0]),  # the default of an architecture
        (7, 8, [0, 8]),
        (7, [7, 8], [0, 7, 8]),
        (0, 0, [0]),
        (7, None, [0]),
    ],
)
def test_ids_that_end_an_answer(tokenizer, configured, own, expected):
    assert end_ids(tokenizer, FakeModel(configured, own)) == expected


@pytest.mark.parametrize(("own", "expected"), [(0, [2, 0]), ([0, 5], [2, 0, 5]), (None, [2, 0])])
def test_a_new_end_is_noted_beside_the_old_one(tokenizer, own, expected):
    model = FakeModel(0, own)
    record_ends(model, tokenizer, document_eos_token_id=0)
    assert model.generation_config.eos_token_id == own  # nothing is new
    tokenizer.eos_token = "<|im_end|>"
    tokenizer_id = tokenizer.eos_token_id
    record_ends(model, tokenizer, document_eos_token_id=0)
    assert model.generation_config.eos_token_id == [tokenizer_id if index == 2 else index for index in expected]


def thinking(tokenizer, template=THINKING):
    tokenizer.chat_template = template
    set_template(tokenizer, "own", "<|im_end|>")


def test_turns_that_change_are_refused_or_given(tokenizer):
    """The template leaves out earlier thoughts: the whole conversation cannot be learned, its last answer can."""
    thinking(tokenizer)
    with pytest.raises(UnusableRow, match=r"write learn: last_answer") as error:
        encode_conversation(tokenizer, TWO_TURNS)
    assert error.value.reason == chat_template.CHANGES_TURNS
    ids, learned = encode_conversation(tokenizer, TWO_TURNS, "last_answer")
    given = (
        "<|im_start|>user\n猫は?<|im_end|>\n<|im_start|>assistant\n寝る。<|im_end|>\n"
        f"<|im_start|>user\n犬は?<|im_end|>\n<|im_start|>assistant\n{EMPTY}"
    )
    assert ids == ids_of(tokenizer, given, "走る。<|im_end|>")
    assert learned == [False] * len(ids_of(tokenizer, given)) + [True] * len(ids_of(tokenizer, "走る。<|im_end|>"))


def test_an_end_in_front_of_the_eos(tokenizer):
    """Like Phi-3's, whose EOS stands behind the whole conversation alone: the refusal names the end of a turn."""
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ':' + m.content + '<|eot_id|>' }}{% endfor %}"
        "{{ 'assistant:' if add_generation_prompt else eos_token }}"
    )
    set_template(tokenizer, "own")
    words = (
        r"write learn: last_answer, or eos_token: <\|eot_id\|>, which its answers end with before the EOS, or choose"
    )
    with pytest.raises(UnusableRow, match=words):
        segments(tokenizer, TWO_TURNS)
    set_template(tokenizer, "own", "<|eot_id|>")
    assert [segment.text for segment in segments(tokenizer, TWO_TURNS)] == [
        *("user:猫は?<|eot_id|>assistant:", "寝る。<|eot_id|>", "user:犬は?<|eot_id|>assistant:", "走る。<|eot_id|>")
    ]


def test_the_last_answer_of_a_template_that_leaves_turns_as_they_were(tokenizer):
    set_template(tokenizer, "chatml")
    every, _ = encode_conversation(tokenizer, TWO_TURNS)
    ids, learned = encode_conversation(tokenizer, TWO_TURNS, "last_answer")
    assert ids == every
    assert [index for index, is_learned in zip(ids, learned, strict=True) if is_learned] == ids_of(
        tokenizer, "走る。<|im_end|>"
    )


@pytest.mark.parametrize("template", [THINKING, WITHOUT_SWITCH], ids=["a switch", "no switch"])
@pytest.mark.parametrize("num_messages", [2, 4])
def test_a_model_is_asked_with_the_empty_thoughts_that_it_saw(tokenizer, template, num_messages, tmp_path):
    """By us and by whoever applies the saved template: its question has the ids in front of the learned answer."""
    thinking(tokenizer, template)
    messages = TWO_TURNS[:num_messages]
    ids, learned = encode_conversation(tokenizer, messages, "last_answer")
    given = ids[: learned.index(True)]
    assert encode_chat_prompt(tokenizer, messages[:-1]) != given  # the published template asks without
    assert ask_without_thoughts(tokenizer) == EMPTY
    assert encode_chat_prompt(tokenizer, messages[:-1]) == given
    assert encode_conversation(tokenizer, messages, "last_answer") == (ids, learned)
    assert thoughts_left_empty(tokenizer) == ""
    tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    text = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        messages[:-1], tokenize=False, add_generation_prompt=True
    )
    assert ids_of(tokenizer, text) == given


@pytest.mark.parametrize("answer", ["t", "think", "<", "\n\n"[:1] + "はい", "</think>t"])
def test_short_answers_are_not_found_in_the_words_of_the_template(tokenizer, answer):
    thinking(tokenizer)
    words = answer.split("</think>")[-1].strip()
    (given, learned) = segments(tokenizer, [*ASKED, {"role": "assistant", "content": answer}])
    assert given.text == f"<|im_start|>user\n猫は?<|im_end|>\n<|im_start|>assistant\n{EMPTY}"
    assert learned.text == f"{words}<|im_end|>"


@pytest.mark.parametrize(
    ("answer", "left_empty", "expected"),
    [
        ("<think>\n眠い\n</think>\n\n寝る。", EMPTY, True),
        ("\n<think>眠い</think>寝る。", "<think></think>", True),
        ("寝る。<think>", EMPTY, False),
        ("寝る。", "", False),
    ],
)
def test_whether_an_answer_holds_thoughts(answer, left_empty, expected):
    assert holds_thoughts(answer, left_empty) == expected


def test_thoughts_of_a_row_are_learned(tokenizer):
    thinking(tokenizer)
    row = [*ASKED, {"role": "assistant", "content": "<think>\n眠い\n</think>\n\n寝る。"}]
    given, learned = segments(tokenizer, row)
    assert given.text.endswith("assistant\n")
    assert learned.text == "<think>\n眠い\n</think>\n\n寝る。<|im_end|>"
    assert encode_chat_prompt(tokenizer, ASKED) == ids_of(tokenizer, given.text)


def test_white_space_in_front_of_an_answer_is_learned_with_its_first_word(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '[INST]' + m.content + '[/INST]' if m.role == 'user' else ' ' + m.content }}"
        "{{ eos_token if m.role == 'assistant' }}{% endfor %}"
    )
    set_template(tokenizer, "own")
    assert [segment.text for segment in segments(tokenizer, TWO_TURNS)] == [
        *("[INST]猫は?[/INST]", " 寝る。<|endoftext|>", "[INST]犬は?[/INST]", " 走る。<|endoftext|>")
    ]
    assert ask_without_thoughts(tokenizer) == ""


def test_the_date_of_a_template_is_the_same_on_every_day(tokenizer, monkeypatch):
    clock = "{% if strftime_now is defined %}{% set now = strftime_now('%d %b %Y') %}{% endif %}{% set kind = '%B' %}"
    tokenizer.chat_template = clock + "{{ now }}, {{ strftime_now(kind) }}:" + THINKING
    assert render(tokenizer, ASKED).startswith("26 Jul 2024, 2024-07-26:<|im_start|>user")
    monkeypatch.setattr(chat_template, "TEMPLATE_DATE", datetime.datetime(2025, 1, 2))
    assert render(tokenizer, ASKED).startswith("02 Jan 2025, 2025-01-02:<|im_start|>user")


def test_a_template_without_a_system_role(tokenizer):
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}" + THINKING
    with pytest.raises(UnusableRow, match=r"cannot write the roles \['system', 'user'\]: none") as error:
        encode_conversation(tokenizer, [SYSTEM, *TWO_TURNS[:2]], "last_answer")
    assert error.value.reason == chat_template.CANNOT_WRITE


def test_special_tokens_without_a_name_are_found_in_messages(tokenizer):
    assert special_token_in(tokenizer, [{"role": "user", "content": "a<|eot_id|>"}]) == "<|eot_id|>"
    thoughts = "<think>\n眠い\n</think>\n\n寝る。"
    for role in ("user", "assistant"):
        assert special_token_in(tokenizer, [{"role": role, "content": thoughts}], special_ids(tokenizer)) is None


def test_what_the_template_writes_in_front_of_answers_may_stand_there(tokenizer):
    """Some tokenizers have special tokens around thoughts; in a question they are refused all the same."""
    thinking(tokenizer, THINKING.replace("<think>", "<start_of_turn>").replace("</think>", "<end_of_turn>"))
    thoughts = "<start_of_turn>\n眠い\n<end_of_turn>\n\n寝る。"
    assert special_token_in(tokenizer, [{"role": "assistant", "content": thoughts}]) is None
    assert special_token_in(tokenizer, [{"role": "user", "content": thoughts}]) == "<start_of_turn>"
    assert special_token_in(tokenizer, [{"role": "assistant", "content": "寝る。<|im_end|>"}]) == "<|im_end|>"
