"""`jpllm chat --web` as a person meets it: the command, and its page in a browser without a window."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import torch

from jpllm.tokenizer.chat_template import set_template
from jpllm.tokenizer.load import load
from tests.models.test_build import memoryless_model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ANSWER = "はい、晴れ。"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tokenizer_dir, tmp_path_factory):
    """Folder of a model that gives ANSWER to everything: the next token depends on the latest one alone."""
    folder, tokenizer = tmp_path_factory.mktemp("model") / "answering", load(tokenizer_dir)
    set_template(tokenizer, "chat")
    model = memoryless_model(len(tokenizer))
    ids = tokenizer("アシスタント:\n" + ANSWER, add_special_tokens=False)["input_ids"]
    begin = len(tokenizer("アシスタント:\n", add_special_tokens=False)["input_ids"]) - 1
    chain = [*ids[begin:], tokenizer.eos_token_id]
    assert len(set(chain)) == len(chain)
    with torch.no_grad():
        for before, after in itertools.pairwise(chain):
            vector = model.get_input_embeddings().weight[before]
            model.lm_head.weight[after] = 100 * vector / vector.norm()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def server(model, tmp_path):
    """The running command, and the address that it names."""
    pytest.importorskip("gradio", reason="Gradio is not installed: the extra web")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "jpllm.cli", "chat", "--web", "--model", model, "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    yield process, process.stdout.readline().split()[0]
    process.kill()
    process.wait()


@pytest.fixture
def page(server):
    """The page in a browser. Errors in its console fail the test, and requests to other machines."""
    browsers = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: the extra web_test")
    if not CHROMIUM:
        pytest.skip("there is no Chromium: apt install chromium")
    problems = []
    with browsers.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: message.type == "error" and problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda sent: sent.url.startswith(("blob:", server[1])) or problems.append(sent.url))
        page.goto(server[1])
        yield page
        browser.close()
    assert problems == []


def ask(page, text):
    page.get_by_role("textbox").fill(text)
    page.get_by_role("textbox").press("Enter")


def wait_for_messages(page, *texts):
    """Wait until these are the messages shown."""
    from playwright.sync_api import expect

    expect(page.get_by_test_id("user").or_(page.get_by_test_id("bot"))).to_have_text(list(texts), timeout=60_000)


def test_a_conversation_in_the_browser(page):
    ask(page, "天気は？")
    wait_for_messages(page, "天気は？", ANSWER)
    ask(page, "<b>明日</b>も？\n    &lt; **か** <")
    wait_for_messages(page, "天気は？", ANSWER, "<b>明日</b>も？ &lt; **か** <", ANSWER)
    typed = page.get_by_test_id("user").nth(1).inner_text()
    assert typed.replace("\u00a0", " ") == "<b>明日</b>も？\n    &lt; **か** <"  # shown as it was typed
    with page.expect_download() as download:
        page.get_by_role("button", name="Save").click()
    assert json.loads(download.value.path().read_text(encoding="utf-8")) == {
        "messages": [
            {"role": "user", "content": "天気は？"},
            {"role": "assistant", "content": ANSWER},
            {"role": "user", "content": "<b>明日</b>も？\n    &lt; **か** <"},
            {"role": "assistant", "content": ANSWER},
        ]
    }
    ask(page, "/reset")
    wait_for_messages(page)
    ask(page, "猫" * 600)
    page.get_by_text("the question has").first.wait_for()
    assert page.get_by_role("textbox").input_value() == "猫" * 600
    ask(page, "雨は？")
    wait_for_messages(page, "雨は？", ANSWER)
    page.get_by_role("button", name="New conversation").click()
    wait_for_messages(page)
    ask(page, "雪は？")
    wait_for_messages(page, "雪は？", ANSWER)
    page.get_by_label("Clear").click()
    wait_for_messages(page)
    ask(page, "風は？")
    wait_for_messages(page, "風は？", ANSWER)
    page.reload()
    wait_for_messages(page)


def test_only_this_machine_is_served_and_nothing_is_left(server, tmp_path):
    process, url = server
    port = int(url.rsplit(":", 1)[1].rstrip("/"))
    assert url == f"http://127.0.0.1:{port}/"
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):  # another address of this machine: it does not listen on all of them
        socket.create_connection(("127.0.0.2", port), timeout=5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert list(tmp_path.glob("jpllm_chat_*")) == []
