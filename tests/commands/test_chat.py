import io
import json
import socket
import sys

import pytest

from jpllm import cli
from jpllm.commands import chat
from jpllm.evaluation.chat import page
from jpllm.evaluation.chat.conversation import Conversation
from jpllm.evaluation.comparison import cut_mark
from jpllm.evaluation.generate import SamplingConfig
from jpllm.models.build import load_trained
from jpllm.tokenizer.load import load
from tests.commands.test_generate import models  # noqa: F401


@pytest.fixture
def model(models):  # noqa: F811
    """Folder of a model with a chat template."""
    return models[1]


def run(*argv):
    """Exit code of `jpllm chat …` with at most six tokens an answer."""
    return cli.main(["chat", "--max_new_tokens", "6", *argv])


def expected_answers(model, *questions, system=None):
    """What is printed as answers to the questions, and the conversation."""
    conversation = Conversation(load_trained(model), load(model), SamplingConfig(max_new_tokens=6), system=system)
    replies = [conversation.ask(question) for question in questions]
    return [reply.text + cut_mark(reply) for reply in replies], conversation


def test_script(model, tmp_path, capsys):
    script, saved = tmp_path / "talk.txt", tmp_path / "talk.json"
    script.write_text(
        f"こんにちは\n\n 天気は？ \n/save {saved}\n/help\n/reset\n /quit\n/quit\nもう読まない\n", encoding="utf-8-sig"
    )
    assert run("--model", model, "--script", str(script), "--system", "やさしく。") == 0
    (first, second), conversation = expected_answers(model, "こんにちは", "天気は？", system="やさしく。")
    messages = conversation.messages()
    conversation.reset()
    reply = conversation.ask("/quit")  # behind a space it is a question
    assert capsys.readouterr().out == (
        f"\n> こんにちは\n{first}\n"
        f"\n>  天気は？ \n{second}\n"
        f"\n> /save {saved}\n({saved}: 2 answers)\n"
        f"\n> /help\n{chat.HELP}\n"
        "\n> /reset\n(a new conversation)\n"
        f"\n>  /quit\n{reply.text}{cut_mark(reply)}\n"
        "\n> /quit\n"
    )
    assert json.loads(saved.read_text(encoding="utf-8")) == {"messages": messages}


def test_standard_input_that_is_no_terminal(model, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("こんにちは\n"))
    assert run("--model", model) == 0
    (answer,), _ = expected_answers(model, "こんにちは")
    assert capsys.readouterr().out == f"\n> こんにちは\n{answer}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/rest", "talk.txt:2: unknown command /rest; did you mean '/reset'?; there are /help, /reset, /save, /quit"),
        ("/save", "talk.txt:2: /save: name a file"),
        ("猫" * 500, "talk.txt:2: the question has"),
    ],
)
def test_a_bad_line_of_a_script(line, message, model, tmp_path, capsys):
    (tmp_path / "talk.txt").write_text(f"はい\n{line}\nいいえ\n", encoding="utf-8")
    assert run("--model", model, "--script", str(tmp_path / "talk.txt")) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert "いいえ" not in output.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--script", "gone.txt"], "gone.txt: No such file"),
        (["--script", "latin.txt"], "script: latin.txt is not UTF-8; save it as UTF-8"),
        (["--script", "a.txt", "--web"], "--script: its lines are for the terminal"),
        (["--port", "8000"], "--port: only the page in the browser has one; remove it, or add --web"),
    ],
)
def test_bad_input(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"\xe9\n")
    assert run("--model", "none", *argv) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_a_template(models, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(sys, "stdin", io.StringIO("はい\n"))
    assert run("--model", models[0]) == 2
    assert "gpt2-tiny: the tokenizer has no chat template" in capsys.readouterr().err


def test_a_person_at_the_terminal(model, capsys, monkeypatch, tmp_path):
    """Mistakes and interruptions are told, and the conversation goes on; it ends with the input."""
    lines = iter(["こんにちは", "/rest", "やめる", f"/save {tmp_path}", "天気は？"])
    real_ask = Conversation.ask

    def ask(self, question, on_text):
        if question == "やめる":
            raise KeyboardInterrupt
        return real_ask(self, question, on_text)

    def read(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(Conversation, "ask", ask)
    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert run("--model", model) == 0
    monkeypatch.setattr(Conversation, "ask", real_ask)
    (first, second), _ = expected_answers(model, "こんにちは", "天気は？")
    output = capsys.readouterr().out
    assert output.startswith(f"/help lists the commands.\n{first}\nerror: unknown command /rest")
    assert f"(question taken back)\nerror: [Errno 21] Is a directory: '{tmp_path}" in output
    assert output.endswith(f"\n{second}\n\n")


def test_forgetting_is_said_once(model, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("猫" * 440 + "\n" + "はい\n" * 6))
    assert run("--model", model) == 0
    assert capsys.readouterr().out.count(chat.FORGOTTEN) == 1


def test_the_page_needs_gradio(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run("--model", "none", "--web") == 2
    assert "web: needs gradio; pip install -c constraints.txt -e '.[web]'" in capsys.readouterr().err


def test_a_port_that_is_taken(model, capsys, monkeypatch):
    pytest.importorskip("gradio")
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):  # so that they are taken back
        monkeypatch.setenv(name, "")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run("--model", model, "--web", "--port", str(port)) == 2
    assert f"port: {port} is taken or not allowed; choose another one" in capsys.readouterr().err


def test_an_answer_of_the_page_can_be_stopped(model):
    """It is not kept, and its question is given back."""
    pytest.importorskip("gradio")
    _, conversation = expected_answers(model)
    conversation.sampling = SamplingConfig(max_new_tokens=60)
    session = page._Session(conversation)
    steps = session.respond("天気は？")
    assert next(steps) == ("", [{"role": "user", "content": "天気は？"}, {"role": "assistant", "content": ""}], None)
    session.stop()
    *_, last = steps
    assert last == ("天気は？", [], None)
    assert conversation.messages() == []


def test_a_conversation_beyond_the_positions(model, capsys, tmp_path):
    script = tmp_path / "talk.txt"
    script.write_text("はい\n", encoding="utf-8")
    assert run("--model", model, "--script", str(script), "--context_length", "9000") == 2
    assert "context_length: 9,000 tokens are more than the model's" in capsys.readouterr().err
