import json
import weakref

import pytest

from jpllm import cli
from jpllm.evaluation import comparison
from jpllm.evaluation.comparison import ModelAnswers, cut_mark, markdown_table
from jpllm.evaluation.generate import Answer, SamplingConfig, answer, answers, encode_instruction
from jpllm.models.build import load_trained, record_trained_length
from jpllm.tokenizer.chat_template import set_template
from jpllm.tokenizer.load import load
from tests.models.test_build import tiny_model

SETTINGS = SamplingConfig(max_new_tokens=6)
PROMPTS = ["吾輩は猫である", "今日はどんな一日でしたか?"]


@pytest.fixture(scope="module")
def models(tokenizer_dir, tmp_path_factory):
    """Folders of a model without a chat template, and of one with."""
    folders = []
    for preset, template in (("gpt2-tiny", None), ("llama-tiny", "chat")):
        folder, tokenizer = tmp_path_factory.mktemp("models") / preset, load(tokenizer_dir)
        if template:
            set_template(tokenizer, template)
        tiny_model(preset, num_ids=len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders.append(str(folder))
    return folders


def run(*argv):
    """Exit code of `jpllm generate …` with at most six tokens an answer."""
    return cli.main(["generate", "--max_new_tokens", "6", *argv])


def expected_answers(folder, encode=None):
    model, tokenizer = load_trained(folder), load(folder)
    if encode:
        return [answer(model, tokenizer, encode(tokenizer, prompt), SETTINGS) for prompt in PROMPTS]
    return answers(model, tokenizer, PROMPTS, SETTINGS)


def test_models_side_by_side(models, tmp_path, capsys, monkeypatch):
    """One is in memory at a time; one with a chat template is asked through it."""
    loaded = []

    def load_and_remember(name, **more):
        assert [model() for model in loaded] == [None] * len(loaded)
        model = load_trained(name, **more)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(comparison, "load_trained", load_and_remember)
    file = tmp_path / "new" / "answers.json"
    assert run("--model", *models, "--prompt", *PROMPTS, "--output", str(file)) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    replies_of = [expected_answers(models[0]), expected_answers(models[1], encode_instruction)]
    assert found["answers"] == [
        {
            "prompt": prompt,
            "model": name,
            "chat_template": uses_template,
            "text": reply.text,
            "ended": reply.ended,
            "num_tokens": reply.num_tokens,
        }
        for uses_template, name, replies in zip([False, True], models, replies_of, strict=True)
        for prompt, reply in zip(PROMPTS, replies, strict=True)
    ]
    assert found["settings"]["max_new_tokens"] == 6
    assert found["settings"]["versions"]["torch"]
    assert len(loaded) == 2
    assert "吾輩は猫である" in capsys.readouterr().out


def test_template_none(models, capsys):
    assert run("--model", models[1], "--prompt", *PROMPTS, "--template", "none") == 0
    expected = expected_answers(models[1])
    assert capsys.readouterr().out == "".join(
        f"{prompt}▸{reply.text}{cut_mark(reply)}\n\n" for prompt, reply in zip(PROMPTS, expected, strict=True)
    )


def test_streaming_prints_the_same(models, capsys):
    argv = ["--model", models[0], "--prompt", *PROMPTS]
    assert run(*argv) == 0
    whole = capsys.readouterr().out
    assert run(*argv, "--stream") == 0
    assert capsys.readouterr().out == whole


def test_prompt_file(models, tmp_path, capsys):
    lines, rows = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    lines.write_text(f"{PROMPTS[0]}\n\n{PROMPTS[1]}\n", encoding="utf-8")
    rows.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS), encoding="utf-8")
    outputs = []
    for argv in (["--prompt_file", str(lines)], ["--prompt_file", str(rows)], ["--prompt", *PROMPTS]):
        assert run("--model", models[0], *argv) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "p.jsonl:2: no text under the key 'prompt'; it has text"),
        ("p.jsonl", '{"prompt": 3}\n', "p.jsonl:1: no text under the key 'prompt'"),
        ("p.jsonl", '{"prompt": "a"\n', "p.jsonl:1: not a JSON object"),
        ("p.txt", "\n \n", "p.txt holds no prompt"),
        ("p.csv", "a", "p.csv"),
    ],
)
def test_bad_prompt_file(name, content, message, models, tmp_path, capsys):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert run("--model", models[0], "--prompt_file", str(tmp_path / name)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "a"], "prompt: give at least one, or a prompt_file"),
        (["--model", "--prompt", "x"], "--model: name at least one"),
        (["--model", "a", "a", "--prompt", "x"], "--model: the same model twice"),
        (["--model", "a", "b", "--prompt", "x", "--stream", "true"], "--stream: shows one model"),
        (["--model", "a", "--prompt", "x", "--output", "x.csv"], "--output: write a file name that ends with .md or"),
        (["--model", "a", "--prompt", "x", "--stop", "line"], "--stop: write one of eos, sentence"),
        (["--model", "runs/a/none", "--prompt", "x"], "runs/a/none: no such folder"),
    ],
)
def test_bad_input(argv, message, capsys):
    assert run(*argv) == 2
    assert message in capsys.readouterr().err


def test_a_missing_model_is_found_before_the_first_one_answers(models, capsys, monkeypatch):
    monkeypatch.setattr(comparison, "load_trained", None)
    assert run("--model", models[0], "runs/a/none", "--prompt", "x") == 2
    assert "runs/a/none: no such folder" in capsys.readouterr().err


def test_markdown(tmp_path):
    columns = [
        ModelAnswers("runs/a", False, [Answer("一行目\n|二| [x]", True, 5), Answer("", False, 6)]),
        ModelAnswers("b", True, [Answer(" *三*", True, 4), Answer("四", True, 2)]),
    ]
    table = (
        "| prompt | runs/a | b (chat template) |\n"
        "| --- | --- | --- |\n"
        "| p\\|q | 一行目<br>\\|二\\| \\[x\\] | \\*三\\* |\n"
        "| r |  \\[cut\\] | 四 |\n"
    )
    assert markdown_table(["p|q", "r"], columns) == table
    comparison.write(tmp_path / "t.md", ["p|q", "r"], columns, {"seed": 3, "stop": "*", "versions": {}})
    assert (tmp_path / "t.md").read_text(encoding="utf-8") == f"{table}\nseed 3, stop \\*\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_beyond_the_trained_length(tokenizer_dir, tmp_path, capsys):
    """A longer prompt is refused, and answered with the key, as far as the model has positions."""
    tokenizer = load(tokenizer_dir)
    model = tiny_model("gpt2-tiny", num_ids=len(tokenizer))
    record_trained_length(model, 16)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    prompt = ["--model", str(tmp_path), "--prompt", "猫" * 30]
    assert run(*prompt) == 2
    assert "the model reads at most 16 together with the answer" in capsys.readouterr().err
    file = tmp_path / "answers.json"
    assert run(*prompt, "--context_length", "128", "--output", str(file)) == 0
    assert "the model was trained on 16 tokens at once" in capsys.readouterr().err
    found = json.loads(file.read_text(encoding="utf-8"))
    assert (found["answers"][0]["num_tokens"], found["settings"]["context_length"]) == (6, 128)
    assert run(*prompt, "--context_length", "129") == 2
    assert "more than the model's 128 positions" in capsys.readouterr().err
