import ast
import re
import subprocess
import sys

import pytest

from jpllm.sharing.card.compose import CardConfig, compose, gather
from jpllm.tracking.runs import read_run
from tests.sharing.card import card_runs
from tests.tracking.run_folders import place


def facts_of(folder, kind, **more):
    card_runs.write(folder, kind, **more)
    return gather(folder, read_run(folder, folder.name), CardConfig(allow_missing=True))


def code(facts, name):
    """The only block of Python in the card."""
    (found,) = re.findall(r"^```python\n(.*?)^```$", compose(facts, CardConfig(), name), flags=re.S | re.M)
    return found


@pytest.mark.parametrize("kind", card_runs.KINDS)
def test_prompts_are_literals_and_names_are_given(kind, tmp_path):
    prompt = "a\"b'c\n{x}\\ あ"
    facts = facts_of(tmp_path / "a", kind, texts=[{**place(4), "prompt": prompt, "text": ""}])
    tree = ast.parse(code(facts, "me/neko"))
    literals = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert prompt in literals
    assert "me/neko" in literals


def test_sampling_is_that_of_the_run(tmp_path):
    shown = code(facts_of(tmp_path / "a", "scratch"), ".")
    assert (
        'sampling = {"max_new_tokens": 20, "do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0, '
        '"repetition_penalty": 1.1}'
    ) in shown
    assert '"do_sample": False, "repetition_penalty": 1.1}' in code(facts_of(tmp_path / "b", "instructed"), ".")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("scratch", {}),
        ("instructed", {}),
        ("masked", {"texts": [{**place(4), "prompt": "今日は[MASK]です。", "text": ""}]}),
        ("classifier", {}),
        ("classifier", {"pair_column": "other"}),
        ("classifier", {"task": "regression"}),
        ("classifier", {"task": "multiple_choice"}),
    ],
)
def test_the_code_works_beside_the_card(kind, more, tmp_path, tokenizer_dir):
    """In a fresh process whose current folder is that of the model."""
    from jpllm.models.build import build_from_scratch
    from jpllm.models.classifier import build_classifier
    from jpllm.models.presets import ModelConfig
    from jpllm.tokenizer.chat_template import set_template
    from jpllm.tokenizer.load import load
    from jpllm.tokenizer.special_tokens import ensure_mask_token

    facts = facts_of(tmp_path / "a", kind, **more)
    tokenizer = load(tokenizer_dir)
    preset = {"scratch": "llama-tiny", "instructed": "neox-tiny", "masked": "bert-tiny", "classifier": "gpt2-tiny"}[
        kind
    ]
    if kind == "masked":
        ensure_mask_token(tokenizer)
    if kind == "instructed":
        set_template(tokenizer, "alpaca-ja")
    model = build_from_scratch(ModelConfig(model=preset), tokenizer, seed=0)
    model_dir = tmp_path / "model"
    model.save_pretrained(model_dir)
    if kind == "classifier":
        is_scalar = more.get("task") in ("regression", "multiple_choice")
        names = None if is_scalar else ["negative", "positive"]
        build_classifier(model_dir, names, seed=0).save_pretrained(model_dir)
    tokenizer.save_pretrained(model_dir)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code(facts, ".")], cwd=model_dir, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
