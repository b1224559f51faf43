"""`jpllm doctor --model`: a page about somebody's model, from the functions that would train, score and export it."""

import pytest
import torch
from tokenizers import processors
from transformers import LlamaConfig, LlamaForCausalLM

from jpllm import cli
from jpllm.planning.model_checkup import examine_model
from tests.tokenizer.byte_level import byte_level_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_folder(folder, tied=False, template=None, **special):
    tokenizer = byte_level_tokenizer(vocab_size=400)
    tokenizer.add_special_tokens(
        {"bos_token": "<s>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]} | special
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A", special_tokens=[("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        **sizes,
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("llama"), template=CHATML, eos_token="<|im_end|>")
    return {finding.subject: finding for finding in examine_model(str(folder))}


def test_what_the_model_is(findings):
    assert findings["architecture"].found.startswith("llama: ")
    assert "2 layers × 16" in findings["architecture"].found
    assert findings["number format"].found == "saved in bfloat16, held in bfloat16 where it does not learn"
    assert findings["output layer"].found == "a matrix of its own"


def test_how_documents_and_conversations_are_written(findings):
    assert findings["documents"].found == "the tokenizer writes: BOS; packed as <s> … <|im_end|>"
    assert findings["EOS"].status == "ok"
    assert findings["template, one turn"].status == findings["template, two turns"].status == "ok"


def test_what_can_be_done_with_it(findings):
    assert findings["LoRA"].found == "14 layers: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    assert findings["isolate_documents"].status == findings["chunked_loss"].status == "ok"
    plans = [findings[name].found for name in ("training all weights", "LoRA, rank 16", "QLoRA, rank 16")]
    assert all(" of the " in plan for plan in plans)


def test_bits_per_byte_with_and_without_the_bos(findings):
    for language in ("Japanese", "English"):
        assert "with BOS" in findings[f"bits per byte, {language}"].found
        assert "without" in findings[f"bits per byte, {language}"].found


def test_an_end_that_the_template_does_not_write_is_told(tmp_path):
    folder = make_folder(tmp_path, tied=True, template=CHATML)
    found = {finding.subject: finding for finding in examine_model(str(folder))}
    assert found["output layer"].found == "the same matrix as the embeddings"
    assert found["template, one turn"].status == "warn"


def test_as_a_command(tmp_path, capsys):
    folder = make_folder(tmp_path)
    assert cli.main(["doctor", "--model", str(folder)]) == 0
    printed = capsys.readouterr().out
    for words in ("architecture", "bits per byte", "QLoRA", "none of its own"):
        assert words in printed


def test_no_model(tmp_path, capsys):
    assert cli.main(["doctor", "--model", str(tmp_path)]) == 2
    assert cli.main(["doctor", "--tokenizer", "x"]) == 2
    assert "acts with model only" in capsys.readouterr().err
