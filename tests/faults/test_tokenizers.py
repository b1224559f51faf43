"""Tokenizers and templates of strangers: they never run code of their own, and never hang or take all memory."""

import json
import os
import shutil
import threading
import time

import pytest

from jpllm import cli
from jpllm.runtime import InputError
from jpllm.tokenizer.chat_template import encode_chat_prompt, encode_conversation, render
from jpllm.tokenizer.load import load

QUESTION = [{"role": "user", "content": "猫は?"}]
ANSWERED = [*QUESTION, {"role": "assistant", "content": "いる。"}]


@pytest.fixture
def folder(tokenizer_dir, tmp_path):
    return shutil.copytree(tokenizer_dir, tmp_path / "tokenizer")


def change(folder, name, **new):
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | new), encoding="utf-8")


def split_by(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


TEMPLATES = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
    "{% endfor %}",
    "doublings": "{% set box = namespace(text='ab') %}{% for i in range(60) %}{% set box.text = box.text + box.text %}"
    "{% endfor %}{{ box.text }}",
    "a product": "{{ 'a' * 99999999999 }}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "lists": "{% set box = namespace(all=[1]) %}{% for i in range(60) %}{% set box.all = box.all + box.all %}"
    "{% endfor %}",
    "itself": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "for some rows": "{% if messages[0].content == '猫は?' %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}{% endif %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "use",
    [
        lambda tokenizer: render(tokenizer, QUESTION),
        lambda tokenizer: encode_conversation(tokenizer, ANSWERED),
        lambda tokenizer: encode_chat_prompt(tokenizer, QUESTION),
    ],
    ids=["render", "train", "ask"],
)
def test_templates_are_bounded_in_time_and_memory(use, name, folder, monkeypatch):
    monkeypatch.setattr("jpllm.tokenizer.chat_template._MAX_SECONDS", 1)
    (folder / "chat_template.jinja").write_text(TEMPLATES[name], encoding="utf-8")
    tokenizer = load(folder)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"template: (the chat template: (not done within|needs more than)|it cannot)"):
        use(tokenizer)
    assert time.monotonic() - started < 10


def test_a_template_is_bounded_in_the_thread_of_a_page_too(folder, monkeypatch):
    monkeypatch.setattr("jpllm.tokenizer.chat_template._MAX_SECONDS", 1)
    (folder / "chat_template.jinja").write_text(TEMPLATES["loops"], encoding="utf-8")
    tokenizer, errors = load(folder), []

    def ask():
        try:
            render(tokenizer, QUESTION)
        except InputError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(20)
    assert errors == ["template: the chat template: not done within 1 seconds; given up"]


@pytest.mark.parametrize(
    "template", ["{{ messages[0].content.nope.nope }}", "{{ 1 / 0 }}", "{% if %}", "{{ 'a' + 1 }}"]
)
def test_a_template_that_fails_is_one_message(template, folder):
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    tokenizer = load(folder)
    with pytest.raises(InputError, match=r"template: it cannot write the roles \['user'\]"):
        render(tokenizer, QUESTION)


SLOW = [
    r"(a+)+$",
    r"(a|a)+$",
    r"(あ|あ)*x",
    r"(?:x|y|xy)+(?=z)",
    r"(\s+)+;",
    r"(.*a){30}",
    r"[ab]*[ab]*[ab]*[ab]*[ab]*c",
]


@pytest.mark.parametrize("pattern", SLOW)
@pytest.mark.parametrize("part", ["pre_tokenizer", "normalizer"])
def test_regular_expressions_of_catastrophic_cost_are_refused(part, pattern, folder, capfd, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # a thread left behind would hold them
    rule = {"type": "Replace", "pattern": {"Regex": pattern}, "content": "b"}
    change(folder, "tokenizer.json", **{part: rule if part == "normalizer" else split_by(pattern)})
    started = time.monotonic()
    with pytest.raises(InputError, match="a regular expression of the tokenizer takes too long on a text of 3,000"):
        load(folder)
    assert time.monotonic() - started < 10
    assert capfd.readouterr().err == ""


GPT_4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    "pattern", [GPT_4, r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+|\s+", r"\s?[^(\s|[.,!?…。，、।۔،])]+"]
)
def test_regular_expressions_of_published_tokenizers_pass_soon(pattern, folder):
    change(folder, "tokenizer.json", pre_tokenizer=split_by(pattern))
    started = time.monotonic()
    load(folder)
    assert time.monotonic() - started < 2


def test_rules_that_make_a_text_many_times_as_long_are_refused(folder):
    doubling = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    change(folder, "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [doubling] * 40})
    with pytest.raises(InputError, match="its rules can make a text 1,099,511,627,776 times as long"):
        load(folder)
    change(folder, "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [doubling] * 2})
    assert load(folder).decode(load(folder)("a", add_special_tokens=False)["input_ids"]).strip() == "aaaa"


def test_code_beside_a_tokenizer_is_neither_run_nor_asked_for(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    (folder / "own.py").write_text("raise SystemExit('code of a stranger was run')")
    change(folder, "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})
    with pytest.raises(InputError, match=r"it needs the Python code beside it \(auto_map\), which is never run here"):
        load(folder)


def cut(folder):
    os.truncate(folder / "tokenizer.json", 1000)


def pipe(folder):
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


def broken_table(folder):
    change(folder, "tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})


def no_object(folder):
    (folder / "tokenizer.json").write_text("[]")


def deep(folder):
    (folder / "tokenizer.json").write_text('{"model":' * 100_000)


@pytest.mark.parametrize("damage", [cut, pipe, broken_table, no_object, deep])
def test_damaged_tokenizers_are_one_line(damage, folder, capsys, tmp_path):
    damage(folder)
    text = tmp_path / "a.txt"
    text.write_text("猫", encoding="utf-8")
    assert cli.main(["tokenizer", "report", "--tokenizer", str(folder), "--input", str(text)]) == 2
    shown = capsys.readouterr().err.strip()
    assert shown.startswith(f"error: {folder}")
    assert "\n" not in shown
