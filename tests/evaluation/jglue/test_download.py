"""Files fetched from a server of our own: whole and checked, or not there."""

import hashlib
import http.server
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from jpllm import cli
from jpllm.evaluation.jglue import files
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import TASKS as TABLE
from jpllm.runtime import InputError
from tests.evaluation.jglue.jglue_files import write_jglue

TASKS = ["jcommonsenseqa", "jnli", "jsquad", "jsts", "jcola"]


def folder_of(task):
    """The folder of a task below the host."""
    return str(files.files_of([task])[0].path.parent)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves files below a folder, also from a byte on; of a path in `cut` only the first bytes."""

    def do_GET(self):
        server = self.server
        name, wanted = self.path, self.headers.get("Range")
        server.asked.append((name.rsplit("/", 2)[-2:], wanted))
        file = server.folder / name.lstrip("/")
        if not file.is_file():
            return self.send_error(404)
        content = file.read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.knows_ranges else 0
        if wanted and server.knows_ranges and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:] if server.cut is None else content[start : server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """The five tasks as they lie below the host, with data of our own."""
    ours, folder = write_jglue(tmp_path / "ours"), tmp_path / "host"
    for task in TASKS:
        shutil.copytree(ours / Path(folder_of(task)).name, folder / folder_of(task))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.folder, running.asked, running.cut, running.knows_ranges = folder, [], None, True
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def published(server, monkeypatch):
    """The sums of the files on the server are those that are known."""
    for task in TASKS:
        sums = {
            remote.split: hashlib.sha256((server.folder / remote.path).read_bytes()).hexdigest()
            for remote in files.files_of([task])
        }
        num_items = {}
        if task == "jsquad":  # as of the official one only the number of items is known: two for each of 12 articles
            del sums["train"]
            num_items = {"train": 24}
        monkeypatch.setitem(TABLE, task, replace(TABLE[task], sha256=sums, num_items=num_items))


def command(server, folder, *more):
    return cli.main(["data", "jglue", "--mirror", server.url, "--output_dir", str(folder), *more])


@pytest.mark.usefixtures("published")
def test_all_are_fetched_once(server, tmp_path, capsys):
    folder = tmp_path / "jglue"
    assert command(server, folder) == 0
    assert len(server.asked) == 10
    for remote in files.files_of(TASKS):
        file = folder / remote.path.parent.name / remote.path.name
        assert file.read_bytes() == (server.folder / remote.path).read_bytes()
    assert [data.task for data in files.find_all(folder)] == TASKS
    assert command(server, folder) == 0
    assert len(server.asked) == 10
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(": ", 1)[1] for line in lines] == ["fetched"] * 10 + ["was there"] * 10
    assert not list(folder.rglob(".*"))


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("knows_ranges", [True, False])
def test_it_goes_on_after_an_interruption(server, tmp_path, knows_ranges, capsys):
    folder = tmp_path / "jglue"
    server.cut, server.knows_ranges = 500, knows_ranges
    assert command(server, folder, "--tasks", "jnli") == 2
    assert "cannot be fetched (IncompleteRead" in capsys.readouterr().err
    assert [file.name for file in (folder / "jnli-v1.3").iterdir()] == [".train-v1.3.json.part"]
    server.cut = None
    assert command(server, folder, "--tasks", "jnli") == 0
    asked = [(["jnli-v1.3", "train-v1.3.json"], None), (["jnli-v1.3", "train-v1.3.json"], "bytes=500-")]
    assert server.asked == [*asked, (["jnli-v1.3", "valid-v1.3.json"], None)]
    assert len(files.find_all(folder)) == 1


@pytest.mark.usefixtures("published")
def test_a_whole_part_needs_a_name_only(server, tmp_path):
    folder = tmp_path / "jglue"
    remote = files.files_of(["jcola"])[0]
    part = folder / "jcola-v1.0" / ".in_domain_train-v1.0.json.part"
    part.parent.mkdir(parents=True)
    shutil.copy(server.folder / remote.path, part)
    assert files.fetch(remote, folder, server.url)
    assert [file.name for file in part.parent.iterdir()] == ["in_domain_train-v1.0.json"]


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(("task", "change"), [("jnli", b"!"), ("jsquad", b"")])
def test_other_content_is_not_kept(server, tmp_path, task, change, capsys):
    """Of JSQuAD's training file, whose sum is not known, one article is missing."""
    file = server.folder / folder_of(task) / "train-v1.3.json"
    content = file.read_bytes().replace("第1000川".encode(), "第一川".encode()) + change
    if task == "jsquad":
        content = b'{"data": [' + content.split(b'{"title"', 2)[0][10:] + b'{"title"' + content.split(b'{"title"', 2)[2]
    file.write_bytes(content)
    assert command(server, tmp_path / "jglue", "--tasks", task) == 2
    message = capsys.readouterr().err
    assert f"{server.url}/{folder_of(task)}/train-v1.3.json" in message
    assert "nothing was kept of it" in message
    assert not list((tmp_path / "jglue").rglob("*.*json*"))


@pytest.mark.usefixtures("published")
def test_a_changed_file_that_is_there_is_named_and_left(server, tmp_path, capsys):
    file = tmp_path / "jsts-v1.3" / "train-v1.3.json"
    file.parent.mkdir()
    content = (server.folder / folder_of("jsts") / "train-v1.3.json").read_text(encoding="utf-8")
    file.write_text(content.replace("犬", "猫"), encoding="utf-8")
    assert command(server, tmp_path, "--tasks", "jsts") == 2
    assert "remove it to have it fetched" in capsys.readouterr().err
    assert "猫" in file.read_text(encoding="utf-8")
    assert server.asked == []


def test_no_server_and_no_such_file(server, tmp_path, capsys):
    shutil.rmtree(server.folder)
    assert command(server, tmp_path / "a", "--tasks", "jnli") == 2
    assert "train-v1.3.json: the server answers 404 Not Found" in capsys.readouterr().err
    (remote, _) = files.files_of(["jnli"])
    with pytest.raises(InputError, match=r"http://127.0.0.1:9/.*: cannot be fetched \(.*refused.* without one put the"):
        files.fetch(remote, tmp_path / "b", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="cannot be fetched"):
        files.fetch(remote, tmp_path / "c", "nowhere")
    assert not any((tmp_path / name).exists() for name in "abc")


def test_tasks_without_a_repository(tmp_path, capsys):
    assert cli.main(["data", "jglue", "--tasks", "jnli", "marc_ja", "jaqket", "--output_dir", str(tmp_path)]) == 2
    assert "tasks: marc_ja, jaqket cannot be fetched" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_published_files_pass(server, tmp_path, real_data):
    """With the sums that are known: of the tasks of which both files are at hand."""
    for task in ("jcommonsenseqa", "jsts"):
        folder = server.folder / folder_of(task)
        shutil.rmtree(folder)
        shutil.copytree(real_data / "jglue" / f"{task}-v1.3", folder)
    assert command(server, tmp_path / "jglue", "--tasks", "jcommonsenseqa", "jsts") == 0
    found = files.find_all(tmp_path / "jglue")
    assert [(data.task, data.shots_from) for data in found] == [("jcommonsenseqa", "train"), ("jsts", "train")]
