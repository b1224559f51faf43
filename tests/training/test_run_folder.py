"""A run folder is new, unfinished or finished; whatever else a folder holds is left alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from jpllm.config.settings import write_yaml
from jpllm.runtime import InputError
from jpllm.training import run_folder
from jpllm.training.config import TrainingConfig


def training(output_dir, **settings) -> list:
    return [TrainingConfig(output_dir=output_dir, **({"tokens": 100} | settings))]


def test_states(tmp_path, capsys):
    folder = tmp_path / "run"
    assert not run_folder.is_finished(folder, training(folder))
    folder.mkdir()
    assert not run_folder.is_finished(folder, training(folder))
    write_yaml(training(folder), folder / "config.yaml")
    assert not run_folder.is_finished(folder, training(folder))
    run_folder.write_results(folder, {"loss": 1.0})
    assert run_folder.is_finished(folder, training(folder, max_hours=3.0))
    assert f"{folder} is finished" in capsys.readouterr().out
    with pytest.raises(InputError, match="holds a finished run with another tokens, learning_rate; name a new folder"):
        run_folder.is_finished(folder, training(folder, tokens=200, learning_rate=1e-5))


def test_what_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.docx").write_text("")
    with pytest.raises(InputError, match=r"already holds thesis\.docx; name a new folder"):
        run_folder.is_finished(tmp_path, training(tmp_path))
    with pytest.raises(InputError, match="is a file; name a folder"):
        run_folder.is_finished(tmp_path / "thesis.docx", training(tmp_path))


def test_one_process_at_a_time(tmp_path):
    script = (
        "import sys; from pathlib import Path; from jpllm.training import run_folder\n"
        "from jpllm.training.arguments import TrainingConfig\n"
        "folder = Path(sys.argv[1])\n"
        "run_folder.prepare(folder, [TrainingConfig(output_dir=folder, tokens=1)], Path.touch)\n"
    )
    run_folder.prepare(tmp_path, training(tmp_path), Path.touch)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert "another process is training in" in done.stderr
    run_folder._held_locks.pop(tmp_path / ".lock").release()
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_rows_written_after_a_checkpoint_are_taken_back(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    (tmp_path / "samples.jsonl").write_text("")
    run_folder.cut_logs(tmp_path, {"metrics.jsonl": 12, "samples.jsonl": 5})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert "samples.jsonl was longer" in caplog.text
    run_folder.cut_logs(tmp_path, {})
    assert (tmp_path / "metrics.jsonl").read_text() == ""
