"""Instruction tuning as typed, of a model whose own template ends answers otherwise than documents end."""

import json
import re

import numpy as np
import pytest

from jpllm.data.read.jsonl import write_jsonl
from jpllm.tokenizer.chat_template import encode_chat_prompt, encode_conversation
from tests.configs.test_configs import ROOT
from tests.recipes.test_pretrain_scratch import call_recipe
from tests.tokenizer.byte_level import byte_level_tokenizer
from tests.tokenizer.test_templates import EMPTY, THINKING

RECIPE = ROOT / "recipes" / "sft.py"
OPTIONS = {
    **{"sequence_length": 128, "epochs": 1, "per_device_train_batch_size": 4, "precision": "fp32"},
    **{"max_new_tokens": 4, "temperature": 0, "answered_rows": 1, "held_out_rows": 4, "warmup_steps": 0},
    **{"replay": 0.3, "held_out_bytes": 2000, "template": "own"},
}


def conversation(number, num_turns):
    turns = [(f"{number}の次は?", f"それは{number + turn}です。") for turn in range(num_turns)]
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model; its EOS ends documents, <|im_end|> the turns of its template, and one more its answers."""
    from tokenizers import AddedToken
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_level_tokenizer()
    names = ("<|im_start|>", "<|im_end|>", "<pad>")
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.pad_token, tokenizer.chat_template = "<pad>", THINKING
    tokenizer.save_pretrained(folder)
    shape = {"n_positions": 128, "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": len(tokenizer)}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
    model.generation_config.eos_token_id = [0, 5]
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def sft(folder, corpus_file, tmp_path, monkeypatch):
    def run(*rows, **settings):
        write_jsonl(({"messages": row} for row in rows), tmp_path / "rows.jsonl")
        paths = {"model": folder, "sources": tmp_path / "rows.jsonl", "output_dir": tmp_path / "run"}
        paths |= {"shards_dir": tmp_path / "shards", "replay_sources": corpus_file}
        words = [(f"--{key}", str(value)) for key, value in {**OPTIONS, **paths, **settings}.items()]
        return call_recipe(monkeypatch, RECIPE, [word for pair in words for word in pair])

    return run


def test_the_end_of_answers_is_saved_and_that_of_documents_stays(sft, tmp_path, capsys):
    from transformers import AutoTokenizer, GenerationConfig

    rows = [conversation(number, 1 + number % 2) for number in range(40)]
    assert sft(*rows, eos_token="<|im_end|>", learn="last_answer") == 0
    out = capsys.readouterr().out
    assert f"no answer holds thoughts: {EMPTY!r} is part of each question" in out
    assert "left out" not in out
    saved = tmp_path / "run" / "model"
    tokenizer = AutoTokenizer.from_pretrained(saved)
    end = tokenizer.get_vocab()["<|im_end|>"]
    assert (tokenizer.eos_token_id, tokenizer.pad_token) == (end, "<pad>")
    assert GenerationConfig.from_pretrained(saved).eos_token_id == [end, 0, 5]
    (meta,) = (tmp_path / "shards").glob("*/meta.json")
    assert json.loads(meta.read_text(encoding="utf-8"))["identity"]["eos_token_id"] == 0
    ids = np.concatenate([np.fromfile(file, "<u2") for file in meta.parent.glob("*.bin")])
    assert np.count_nonzero(ids == 0) > 5
    assert end not in ids
    for row in rows[:2]:
        learned_ids, learned = encode_conversation(tokenizer, row, "last_answer")
        assert encode_chat_prompt(tokenizer, row[:-1]) == learned_ids[: learned.index(True)]
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text("utf-8").splitlines()]
    assert [sample["wanted"] is None for sample in samples] == [True, True, False] * 2


def test_rows_with_thoughts_leave_thinking_to_the_model(sft, tmp_path, capsys):
    from transformers import AutoTokenizer

    rows = [conversation(number, 1) for number in range(30)]
    for row in rows[:7]:
        row[1]["content"] = f"<think>\n考える\n</think>\n\n{row[1]['content']}"
    assert sft(*rows, eos_token="<|im_end|>") == 0
    out = capsys.readouterr().out
    assert re.search(r"[4-7] of 27 answers hold thoughts, so a question leaves it to the model to\s+think", out)
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "model").chat_template == THINKING


@pytest.mark.parametrize(
    ("num_long", "settings", "message"),
    [
        (0, {}, r"its answers end with <\|im_end\|>, and the EOS.*write eos_token: <\|im_end\|>"),
        (0, {"eos_token": "<|im_stop|>"}, r"'<\|im_stop\|>' is not in the tokenizer's vocabulary; did you mean"),
        (20, {"eos_token": "<|im_end|>"}, r"20 of 30 rows cannot be learned with this template, more than 10%"),
        (0, {"template": "gemma"}, "template: gemma needs the token <start_of_turn>"),
        (
            0,
            {"template": "chatml", "eos_token": "<pad>"},
            r"eos_token: template: chatml ends answers with <\|im_end\|>",
        ),
    ],
)
def test_what_is_refused(sft, tmp_path, capsys, num_long, settings, message):
    rows = [conversation(number, 2 if number < num_long else 1) for number in range(30)]
    assert sft(*rows, **settings) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()
