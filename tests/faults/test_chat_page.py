"""The page of `jpllm chat --web` is for this machine alone, for its own pages, and takes no files."""

import asyncio
import http.client
import json
import socket
import subprocess
import sys
import textwrap

import pytest

from jpllm.evaluation.chat.page import for_this_machine

OWN = [(b"host", b"127.0.0.1:7860")]
SERVER = """
    import json, sys
    from jpllm.evaluation.chat import page
    from jpllm.evaluation.generate import Answer

    class Echo:
        num_forgotten = 0
        def __init__(self): self.questions = []
        def ask(self, question, on_text):
            self.questions.append(question)
            on_text(text := " ".join(self.questions))
            return Answer(text, True, 1)
        def save(self, file): file.write_text(json.dumps(self.questions))

    page.require_gradio()
    page.serve(Echo, "echo", int(sys.argv[1]))
"""


def answer_to(path="/", headers=(), kind="http"):
    """Return the status of an answer and whether the application itself was reached."""
    reached, sent = [], []

    async def application(scope, receive, send):
        reached.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "path": path, "headers": list(headers)}
    asyncio.run(for_this_machine(application)(scope, None, send))
    return sent[0].get("status", sent[0].get("code")), bool(reached)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "localhost:1"]
)
def test_this_machine_is_answered(host):
    assert answer_to(headers=[(b"host", host.encode())]) == (200, True)
    origin = (b"origin", f"http://{host}".encode())
    assert answer_to("/gradio_api/queue/join", [(b"host", host.encode()), origin]) == (200, True)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"host", b"evil.example")],
        [(b"host", b"evil.example:7860")],
        [(b"Host", b"127.0.0.1.evil.example:7860")],
        [(b"host", b"localhost.evil.example")],
        [(b"host", b"localhost@evil.example")],
        [(b"host", b"evil.example#localhost")],
        [(b"host", b"0.0.0.0:7860")],
        [(b"host", b"192.168.0.2:7860")],
        [(b"host", b"")],
        [(b"host", b"\xff")],
        [*OWN, (b"host", b"evil.example")],
        [*OWN, (b"origin", b"http://evil.example")],
        [*OWN, (b"origin", b"https://localhost.evil.example")],
        [*OWN, (b"origin", b"null")],
        [*OWN, (b"origin", b"file://")],
        [*OWN, (b"origin", b"chrome-extension://x")],
        [*OWN, (b"origin", b"http://localhost:7860"), (b"origin", b"http://evil.example")],
        [*OWN, (b"origin", b"")],
    ],
)
def test_others_are_refused(headers):
    for path in ("/", "/config", "/gradio_api/queue/join", "/gradio_api/queue/data"):
        assert answer_to(path, headers) == (403, False)
    assert answer_to("/", headers, "websocket") == (1008, False)


@pytest.mark.parametrize(
    "path", ["/upload", "/gradio_api/upload", "/gradio_api/upload/", "/gradio_api/process_recording"]
)
def test_files_are_refused(path):
    assert answer_to(path, OWN) == (403, False)
    form = (b"Content-Type", b"Multipart/form-data; boundary=x")
    assert answer_to("/gradio_api/queue/join", [*OWN, form]) == (403, False)


def test_a_start_of_the_server_passes():
    assert answer_to_lifespan() == ["lifespan"]


def answer_to_lifespan():
    reached = []

    async def application(scope, receive, send):
        reached.append(scope["type"])

    asyncio.run(for_this_machine(application)({"type": "lifespan"}, None, None))
    return reached


@pytest.fixture(scope="module")
def port():
    """The port of a running page whose answer to a question is all questions of its conversation."""
    pytest.importorskip("gradio", reason="Gradio is not installed: the extra web")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    command = [sys.executable, "-c", textwrap.dedent(SERVER), str(number)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert str(number) in process.stdout.readline()
    yield number
    process.kill()
    process.wait()


def request(port, method, path, headers=(), body=None):
    """Return status and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(body or b"")), **dict(headers)}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    found = connection.getresponse()
    return found.status, found.read()


def ask(port, session, question, shown):
    """Return the messages that a tab shows after a question; `shown` are those before it."""
    own = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in shown]
    body = json.dumps({"fn_index": 0, "data": [question, own, None], "session_hash": session}).encode()
    status, _ = request(port, "POST", "/gradio_api/queue/join", {"Content-Type": "application/json"}, body)
    assert status == 200
    status, events = request(port, "GET", f"/gradio_api/queue/data?session_hash={session}")
    messages = [json.loads(line[5:]) for line in events.split(b"\n") if line.startswith(b"data:")]
    (done,) = [message for message in messages if message["msg"] == "process_completed"]
    assert done["success"], done
    texts = next(value for value in done["output"]["data"] if isinstance(value, list))
    return [{"role": one["role"], "content": "".join(part["text"] for part in one["content"])} for one in texts]


@pytest.mark.slow
def test_the_running_page(port):
    assert request(port, "GET", "/")[0] == 200
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        for method, path in (("GET", "/"), ("GET", "/config"), ("POST", "/gradio_api/queue/join")):
            assert request(port, method, path, headers)[0] == 403
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nx\r\n--x--\r\n'
    assert request(port, "POST", "/gradio_api/upload", form, body)[0] == 403


@pytest.mark.slow
def test_two_people_do_not_share_a_conversation(port):
    anna = ask(port, "anna", "猫", [])
    bert = ask(port, "bert", "犬", [])
    assert [one["content"] for one in ask(port, "anna", "鳥", anna)] == ["猫", "猫", "鳥", "猫 鳥"]
    assert [one["content"] for one in ask(port, "bert", "魚", bert)] == ["犬", "犬", "魚", "犬 魚"]
