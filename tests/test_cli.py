import json
import subprocess
import sys

import pytest

from jpllm import cli, runtime
from jpllm.runtime import InputError


def test_overview_names_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(f"jpllm {verb}" in output for verb in cli.VERBS)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tokenzer", "train"], "unknown command 'tokenzer train'; did you mean 'tokenizer train'?"),
        (["data"], "unknown command 'data'"),
        (["tokenizer", "train", "--input", "x.txt"], "--output_dir: required, but not set"),
        (["tokenizer", "train", "--input", "gone.txt", "--output_dir", "out"], "gone.txt: no such file or folder"),
        (["tokenizer", "convert", "--input", "gone.model", "--output_dir", "out"], "gone.model"),
    ],
)
def test_bad_command(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_from_corpus_to_shards(tmp_path, capsys):
    corpus, tokenizer, shards = tmp_path / "corpus", tmp_path / "tok", tmp_path / "shards"
    assert cli.main(["data", "builtin", "--num_bytes", "100_000", "--num_rows", "5", "--output_dir", str(corpus)]) == 0
    documents = [json.loads(line)["text"] for line in (corpus / "documents.jsonl").open(encoding="utf-8")]
    assert 100_000 <= sum(len(text.encode()) for text in documents) < 105_000
    assert len((corpus / "labels.jsonl").read_text(encoding="utf-8").splitlines()) == 5
    source = str(corpus / "documents.jsonl")
    assert (
        cli.main(["tokenizer", "train", "--input", source, "--vocab_size", "1500", "--output_dir", str(tokenizer)]) == 0
    )
    assert (
        cli.main(["data", "pack", "--sources", source, "--tokenizer", str(tokenizer), "--output_dir", str(shards)]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    (folder,) = [path for path in shards.iterdir() if path.is_dir()]
    size = json.loads((folder / "meta.json").read_text())["size"]
    assert lines[-1].startswith(f"{folder}: {size['num_documents']:,} documents, {size['num_tokens']:,} tokens")


def test_exit_codes(capsys):
    def bad():
        raise InputError("file:1: wrong")

    assert runtime.run_command(bad) == 2
    assert capsys.readouterr().err == "error: file:1: wrong\n"
    assert runtime.run_command(lambda: None) == 0

    def interrupted():
        raise KeyboardInterrupt

    assert runtime.run_command(interrupted) == 130
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        runtime.run_command(lambda: 1 / 0)


def stop_early():
    raise runtime.StoppedEarly("stopped at step 3")


def fail():
    raise InputError("file:1: wrong")


@pytest.mark.parametrize(("command", "code", "stays"), [(list, 0, False), (stop_early, 75, False), (fail, 2, True)])
def test_processes_part_when_the_work_is_done(command, code, stays):
    """One that failed does not wait for the others."""
    import torch

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        assert runtime.run_command(command) == code
        assert torch.distributed.is_initialized() == stays
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def test_bad_input_of_the_installed_command_has_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jpllm.cli", "data", "pack", "--source", "gone.txt", "--tokenizer", "gone"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
