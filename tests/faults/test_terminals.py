"""Commands on terminals of other encodings, without streams, and with readers that go away: no traceback."""

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from tests.faults.small_runs import obey_signals
from tests.faults.test_signals import RECIPE, ROOT, SETTINGS

JPLLM = [sys.executable, "-m", "jpllm.cli"]
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def shell(line, command, **more):
    """A command as "$@" in a line of bash, where a pipeline fails with its first part."""
    words = ["bash", "-c", f"set -o pipefail; {line}", "bash", *map(str, command)]
    return subprocess.run(words, cwd=ROOT, env=environment(**more), capture_output=True, timeout=200)


@pytest.fixture(scope="module")
def preview(tmp_path_factory):
    """A preview of a source."""
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    file.write_text('{"text": "むかし"}\n', encoding="utf-8")
    return [*JPLLM, "data", "preview", "--sources", str(file)]


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({"PYTHONIOENCODING": "cp932"}, "むかし\\u2014\\xe9\\U0001f600".encode("cp932")),
        ({"PYTHONIOENCODING": "ascii"}, b"\\u3080\\u304b\\u3057\\u2014\\xe9\\U0001f600"),
        (C_LOCALE, b"\\u3080\\u304b\\u3057\\u2014\\xe9\\U0001f600"),
        ({"LC_ALL": "C"}, "むかし—é😀".encode()),
    ],
    ids=["cp932", "ascii", "C-locale", "C-locale-and-UTF-8-mode"],
)
def test_characters_that_a_terminal_lacks_are_spelled_out(more, shown):
    text = ascii("むかし—é😀")  # the same below every locale
    script = f"from jpllm import runtime; raise SystemExit(runtime.run_command(lambda: print({text})))"
    done = shell('"$@"', [sys.executable, "-c", script], **more)
    assert (done.returncode, done.stdout) == (0, shown + b"\n"), done.stderr


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_streams_that_are_closed_or_full(preview, streams):
    done = shell(f'"$@" {streams}', preview)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("columns", ["1", "0", "-3", "x"])
def test_a_terminal_of_one_column(preview, columns):
    done = shell('"$@" && "$@" --help', preview, COLUMNS=columns)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("size", [{"COLUMNS": "1"}, {"COLUMNS": "1", "LINES": "1"}, {"COLUMNS": "12", "LINES": "2"}])
def test_a_run_is_watched_on_the_smallest_terminal(tmp_path, size):
    (tmp_path / "config.yaml").write_text("learning_rate: 0.001\n")
    rows = [{"step": step, "tokens": 64 * step, "epoch": 0.1, "loss": 9 / step} for step in (1, 2, 3)]
    rows = [row | {"learning_rate": 1e-3, "training_seconds": 1.0 * row["step"]} for row in rows]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = shell('"$@"', [*JPLLM, "watch", tmp_path], **size)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_only_shows_ends_with_its_reader(preview):
    """With code 0, so that a pipeline succeeds, and nothing on stderr."""
    done = shell('"$@" | true', preview)
    assert (done.returncode, done.stderr) == (0, b"")


def test_files_are_whole_though_the_reader_went_away(corpus_file, tokenizer_dir, tmp_path):
    command = [*JPLLM, "data", "pack", "--sources", corpus_file, "--tokenizer", tokenizer_dir]
    done = shell('"$@" 2>&1 | true', [*command, "--output_dir", tmp_path])
    assert (done.returncode, done.stderr) == (0, b"")
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert json.loads((folder / "meta.json").read_text())["size"]["num_documents"] > 100


@pytest.fixture
def recipe(corpus_file, tokenizer_dir, tmp_path):
    """A training of twelve steps."""
    settings = SETTINGS | {"tokens": 12 * 2 * 64, "sources": corpus_file, "tokenizer": tokenizer_dir}
    settings |= {"output_dir": tmp_path / "run", "shards_dir": tmp_path / "shards", "eval_steps": 6}
    return [sys.executable, RECIPE, *(str(word) for key, value in settings.items() for word in (f"--{key}", value))]


@pytest.mark.slow
@pytest.mark.parametrize("line", ['"$@" 2>&1 | head -1', '"$@" > /dev/full 2>&1', '"$@" <&- >&- 2>&-'])
def test_a_training_outlives_the_reader_of_its_log(recipe, tmp_path, line):
    done = shell(line, recipe)
    assert done.returncode == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["step"] == 12
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("is_its_terminal", [True, False])
def test_a_training_on_a_terminal_that_goes_away(recipe, tmp_path, is_its_terminal):
    """It stops with a checkpoint where the terminal was its own, and else goes on without."""
    words = dict(zip(recipe[2::2], recipe[3::2], strict=True)) | {"--tokens": "100000" if is_its_terminal else "1536"}
    command = [*recipe[:2], *(word for pair in words.items() for word in pair)]
    run = tmp_path / "run"
    if is_its_terminal:
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            obey_signals()
            os.execve(command[0], command, environment())
    else:
        terminal, theirs = pty.openpty()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
    deadline = time.monotonic() + 150
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline, os.read(terminal, 10_000).decode()
        time.sleep(0.05)
    os.close(terminal)
    if is_its_terminal:
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 75
        assert len(list((run / "checkpoints").glob("checkpoint-*/manifest.json"))) == 1
    else:
        assert process.wait(150) == 0
        assert json.loads((run / "results.json").read_text())["step"] == 12


@pytest.mark.slow
def test_ctrl_c_that_ends_the_reader_of_the_log_too(recipe, tmp_path):
    """`recipe … 2>&1 | tee log`: the terminal sends Ctrl-C to both."""
    command = [word if word != str(12 * 2 * 64) else "10000000" for word in recipe]
    words = ["bash", "-c", 'set -o pipefail; "$@" 2>&1 | cat', "bash", *command]
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=obey_signals,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 150
    while not (metrics.exists() and '"step": 3,' in metrics.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)
    while "checkpoint" not in " ".join(path.name for path in (tmp_path / "run").glob("checkpoints/checkpoint-*")):
        assert time.monotonic() < deadline + 60
        time.sleep(0.1)
