"""Commands and prompts of other programs."""

import json
import re

import pytest
from transformers import GenerationConfig

from jpllm.sharing import serving
from jpllm.sharing.serving import Turns
from tests.tokenizer.byte_level import byte_level_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# the system message stands in the first one of the user, and answers are trimmed
GEMMA = (
    "{{ bos_token }}{% set begin = '' %}"
    "{% if messages[0].role == 'system' %}{% set begin = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ (begin if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
WITHOUT_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "{{ '[INST]' + m.content + '[/INST]' if m.role == 'user' else m.content + eos_token }}{% endfor %}"
)
COUNTING = "{% for m in messages %}{{ '%d: ' % loop.index + m.content + '\n' }}{% endfor %}"


def tokenizer_with(template, tokens=()):
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.chat_template = template
    return tokenizer


def test_what_stands_between_messages():
    assert serving.turns(tokenizer_with(CHATML)) == Turns(
        first="<|im_start|>user\n",
        answer="<|im_end|>\n<|im_start|>assistant\n",
        following="<|im_end|>\n<|im_start|>user\n",
        last="<|im_end|>\n<|im_start|>assistant\n",
        system="<|im_start|>system\n",
        after_system="<|im_end|>\n<|im_start|>user\n",
    )
    found = serving.turns(tokenizer_with(GEMMA))
    assert (found.system, found.after_system) == ("<|endoftext|><start_of_turn>user\n", "\n\n")
    found = serving.turns(tokenizer_with(WITHOUT_SYSTEM))
    assert (found.first, found.last, found.following) == ("[INST]", "[/INST]", "<|endoftext|>[INST]")
    assert (found.system, found.after_system) == (None, None)
    assert serving.turns(tokenizer_with(COUNTING)) is None


def test_conversations_are_those_that_the_template_takes():
    found = serving.sample_conversations(tokenizer_with(WITHOUT_SYSTEM))
    assert [[message["role"] for message in one.messages] for one in found] == [
        ["user"],
        ["user", "assistant"] * 1 + ["user"],
        ["user", "assistant"] * 2 + ["user"],
    ]
    assert len(serving.sample_conversations(tokenizer_with(CHATML))) == 6
    assert serving.sample_conversations(byte_level_tokenizer()) == []
    # an end that the template writes is one id, whatever the tokenizer does with one that is typed
    tokenizer = tokenizer_with(WITHOUT_SYSTEM)
    tokenizer.split_special_tokens = True
    assert [one.ids.count(tokenizer.eos_token_id) for one in serving.sample_conversations(tokenizer)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("template", "ends", "expected"),
    [
        (None, None, ["<|endoftext|>"]),
        (CHATML, None, ["<|endoftext|>", "<|im_end|>"]),
        (CHATML, "both", ["<|im_end|>", "<|endoftext|>"]),
        (WITHOUT_SYSTEM, 0, ["<|endoftext|>"]),
    ],
)
def test_stop_strings(template, ends, expected):
    tokenizer = tokenizer_with(template, ["<|im_end|>", "<|im_start|>"])
    if ends == "both":
        ends = [tokenizer.convert_tokens_to_ids("<|im_end|>"), 0]
    assert serving.stop_strings(tokenizer, GenerationConfig(eos_token_id=ends)) == expected


def in_python(template, messages):
    """What Go makes of the template: its statements, and nothing of the white space that `{{-` takes away."""
    literals = [json.loads(found) for found in re.findall(r'"(?:[^"\\]|\\.)*"', template)]
    roles = [index for index, text in enumerate(literals) if text in ("system", "user", "assistant")]
    assert [literals[index] for index in roles] == ["system", "user", "assistant"]
    first, _, system, after_system, _, last, answer, _, following = literals
    text, before = "", first
    for index, message in enumerate(messages):
        if message["role"] == "system":
            text, before = text + system + message["content"], after_system
        elif message["role"] == "user":
            text += before + message["content"] + (last if index == len(messages) - 1 else answer)
        else:
            text, before = text + message["content"], following
    return text


@pytest.mark.parametrize("template", [CHATML, GEMMA])
def test_ollama_gets_the_same_prompts(template):
    tokenizer = tokenizer_with(template)
    written = serving.modelfile("neko-f16.gguf", tokenizer, ["<|im_end|>", '"'], 512)
    assert written.splitlines()[:4] == [
        "FROM ./neko-f16.gguf",
        "PARAMETER num_ctx 512",
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "\\""',
    ]
    (found,) = re.findall(r'TEMPLATE """(.*)"""\n', written, re.DOTALL)
    assert found.count("{{") == found.count("}}")
    assert '"""' not in found
    for conversation in serving.sample_conversations(tokenizer):
        assert in_python(found, conversation.messages) == conversation.text


def test_ollama_adds_the_bos_itself():
    from tokenizers import processors

    tokenizer = tokenizer_with(GEMMA)
    assert '$before := "<|endoftext|><start_of_turn>' in serving.modelfile("a", tokenizer, [], 8)
    begin = processors.TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer.backend_tokenizer.post_processor = begin
    assert '$before := "<start_of_turn>' in serving.modelfile("a", tokenizer, [], 8)
    assert "<|endoftext|>" not in serving.modelfile("a", tokenizer, [], 8)


def test_modelfiles_without_a_template():
    assert serving.modelfile("a", byte_level_tokenizer(), [], 8).endswith('TEMPLATE """{{ .Prompt }}"""\n')
    found = serving.modelfile("a", tokenizer_with(COUNTING), [], 8)
    assert found.startswith("# The chat template cannot be written in Ollama's language")
    assert "TEMPLATE" not in found


def test_the_section_of_the_card(tmp_path):
    found = serving.write(tmp_path, "neko", "neko-f16.gguf", GenerationConfig(), tokenizer_with(CHATML), 512)
    assert (tmp_path / "Modelfile").exists()
    for line in (
        "llama-server -m neko-f16.gguf -c 512 --jinja --port 8000",
        "ollama create neko -f Modelfile",
        "vllm serve . --served-model-name neko --max-model-len 512 --port 8000",
        "回答の終わりは `<|endoftext|>` で",
    ):
        assert line in found
    (tmp_path / "Modelfile").unlink()
    found = serving.write(tmp_path, "neko", None, GenerationConfig(), byte_level_tokenizer(), 512)
    assert list(tmp_path.iterdir()) == []
    assert "/v1/completions" in found
    assert "ollama create" not in found
    assert "`--gguf`" in found
