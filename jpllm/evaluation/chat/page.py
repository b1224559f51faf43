"""Serve a conversation as a page for the browser, to this machine alone (`jpllm chat --web`)."""

from __future__ import annotations

import html
import os
import queue
import re
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm import runtime
from jpllm.evaluation.chat.conversation import FORGOTTEN, Conversation
from jpllm.evaluation.comparison import cut_mark
from jpllm.evaluation.generate import Answer
from jpllm.runtime import InputError

if TYPE_CHECKING:
    import gradio

LOOPBACK = "127.0.0.1"
_FILE_NAME = "conversation.json"
_OWN_HOST = r"(?i:localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?"
_UPLOADS = ("/upload", "/process_recording")  # the ends of Gradio's addresses that take files
_AsgiApp = Callable[[dict, Callable, Callable], Awaitable[None]]


def require_gradio() -> None:
    """Raise InputError where Gradio is not installed, and tell Gradio to report nothing to its makers."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"web: needs {error.name}; pip install -c constraints.txt -e '.[web]'") from error


def serve(begin: Callable[[], Conversation], title: str, port: int | None) -> None:
    """Serve the page until Ctrl-C. Each tab of a browser has a conversation of its own, begun by `begin`.

    Raises:
        InputError: the port is taken, or `begin` cannot begin.
    """
    from starlette.middleware import Middleware  # Gradio is made of it

    begin()
    with tempfile.TemporaryDirectory(prefix="jpllm_chat_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # saved conversations; by default they would outlive the command
        page = build(begin, title)
        try:
            _, url, _ = page.launch(
                server_name=LOOPBACK,
                server_port=port,
                share=False,
                ssr_mode=False,  # no second server in Node.js
                run_history=False,  # else the browser keeps what was said
                max_file_size=1,  # nobody is to fill the disk
                app_kwargs={"middleware": [Middleware(for_this_machine)]},
                footer_links=[],
                prevent_thread_lock=True,
                quiet=True,
            )
        except OSError as error:
            raise InputError(
                f"port: {port or 'each from 7860 on'} is taken or not allowed; choose another one"
            ) from error
        try:
            runtime.announce(f"{url} (Ctrl-C ends it)")
            page.block_thread()
        except KeyboardInterrupt:  # just before block_thread takes care of it itself
            page.close()


def for_this_machine(app: _AsgiApp) -> _AsgiApp:
    """Return an ASGI application that answers requests to this machine only, from pages of this machine, as `app` does.

    Others are refused, and files that somebody sends. A page of the Web can make its own name point to this machine
    (DNS rebinding); the browser then lets it read what is served here, but tells that name in `Host`.
    """

    async def answer(scope: dict, receive: Callable, send: Callable) -> None:
        reason = refusal(scope["path"], scope["headers"]) if scope["type"] in ("http", "websocket") else None
        if reason is None:
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": reason.encode()})

    return answer


def refusal(path: str, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return why a request is refused; None for one that is answered."""
    texts: dict[bytes, list[str]] = {}
    for name, value in headers:
        texts.setdefault(name.lower(), []).append(value.decode("latin-1").strip())
    hosts, origins = texts.get(b"host", []), texts.get(b"origin", [])
    if len(hosts) != 1 or not re.fullmatch(_OWN_HOST, hosts[0]):
        return "only requests to localhost are answered"
    if any(not re.fullmatch(f"https?://{_OWN_HOST}", origin) for origin in origins):
        return "only pages of localhost are answered"
    is_form = any(kind.lower().startswith("multipart/") for kind in texts.get(b"content-type", []))
    if is_form or path.rstrip("/").endswith(_UPLOADS):
        return "no files are taken"
    return None


def build(begin: Callable[[], Conversation], title: str) -> gradio.Blocks:
    """Return the page, which is not served yet."""
    import gradio

    with gradio.Blocks(title=f"jpllm chat: {title}", analytics_enabled=False, fill_height=True) as page:
        session = gradio.State(None)
        shown = gradio.Chatbot(label=title, render_markdown=False, buttons=[], scale=1)
        question = gradio.Textbox(
            show_label=False, placeholder="Question, or /reset", submit_btn=True, autofocus=True, max_lines=8
        )
        with gradio.Row():
            stop = gradio.Button("Stop")
            reset = gradio.Button("New conversation")
            save = gradio.DownloadButton("Save", interactive=False)
        outputs = [question, shown, session, save]

        def respond(text: str, messages: list, current: _Session | None) -> Iterator[tuple]:
            text = text.strip()
            if text == "/reset":
                text, messages = "", []
            if not (current and messages):  # also a button in the corner of the messages empties them
                current = _Session(begin())
            for typed, messages, file in current.respond(text):
                as_html = [{**message, "content": _as_html(message["content"])} for message in messages]
                yield typed, as_html, current, gradio.DownloadButton(value=file, interactive=bool(file))

        def stop_answer(current: _Session | None) -> None:
            if current:
                current.stop()

        one_at_a_time = {"api_visibility": "private", "concurrency_id": "model"}
        question.submit(respond, [question, shown, session], outputs, **one_at_a_time)
        stop.click(stop_answer, session, None, api_visibility="private")
        reset.click(stop_answer, session, None, api_visibility="private").then(
            lambda: next(respond("", [], None)), None, outputs, **one_at_a_time
        )
    return page


def _as_html(text: str) -> str:
    """Return HTML that shows the text, indentation included; Gradio adds the line breaks."""
    return html.escape(text).replace("  ", "&nbsp; ")


class _Stopped(Exception):
    """Raised inside an answer that a person has stopped."""


class _Session:
    """Keep the conversation of one tab of a browser, what the tab shows, and a way to stop an answer."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.shown: list[dict[str, str]] = []
        self.stop_requested = threading.Event()

    def stop(self) -> None:
        """Let the answer that is being written end at its next character."""
        self.stop_requested.set()

    def respond(self, text: str) -> Iterator[tuple[str, list[dict[str, str]], str | None]]:
        """Yield question box, messages and saved file whenever they change; an unanswered question stays in the box."""
        import gradio

        if text:
            num_forgotten = self.conversation.num_forgotten
            user, assistant = {"role": "user", "content": text}, {"role": "assistant", "content": ""}
            try:
                for piece in self._pieces(text):
                    assistant["content"] += piece
                    yield "", [*self.shown, user, assistant], None
            except InputError as error:
                gradio.Warning(html.escape(str(error)))
            except _Stopped:
                pass
            else:
                self.shown += [user, assistant]
                text = ""
            if self.conversation.num_forgotten and not num_forgotten:
                gradio.Info(FORGOTTEN)
        yield text, self.shown, self._file()

    def _pieces(self, question: str) -> Iterator[str]:
        """Yield the answer as another thread writes it: Gradio takes an iterator."""
        items: queue.SimpleQueue[str | Answer | BaseException] = queue.SimpleQueue()
        self.stop_requested.clear()

        def hand_over(piece: str) -> None:
            if self.stop_requested.is_set():
                raise _Stopped
            items.put(piece)

        def work() -> None:
            try:
                items.put(self.conversation.ask(question, hand_over))
            except BaseException as error:
                items.put(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            yield ""
            while isinstance(item := items.get(), str):
                yield item
            if isinstance(item, BaseException):
                raise item
            yield cut_mark(item)
        finally:  # the tab may be closed: the model must be at rest before it is asked again
            self.stop()
            worker.join()

    def _file(self) -> str | None:
        """Return a file with the conversation that can be downloaded, or None while there are no answers."""
        if not self.shown:
            return None
        file = Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"])) / _FILE_NAME
        self.conversation.save(file)
        return str(file)
