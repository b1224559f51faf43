"""`jpllm compare --leaderboard` as typed."""

import pytest

from jpllm.cli import main
from tests.evaluation.test_leaderboard import jnli, text, write


@pytest.fixture
def folders(tmp_path):
    write(tmp_path / "broken", "m")
    (tmp_path / "broken" / "evaluation.json").write_text("{")
    results = [("small", 1.5, 0.41), ("large", 1.25, 0.5)]
    return [tmp_path / "broken", *(write(tmp_path / m, m, [text(b)], [jnli(a)]) for m, b, a in results)]


def test_files_and_terminal(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    argv = ["compare", "--leaderboard", *map(str, folders)]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    for output in ("new/board.md", "new/board.html"):
        assert main([*argv, "--output", str(tmp_path / output)]) == 0
    markdown, page = ((tmp_path / f"new/board.{suffix}").read_text(encoding="utf-8") for suffix in ("md", "html"))
    for content in (shown, markdown, page):
        for part in ("small", "1.2500", "41.0 ± 1.0 %", "Published", "34.2 ± 1.4 %", "Not compared", "broken JSON"):
            assert part in content
    assert "| large | 1.2500 | 50.0 ± 1.0 % |" in markdown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "runs: name run folders, or result folders behind --leaderboard, not both"),
        (["some_run", "--leaderboard", "large"], "not both"),
        (["--leaderboard", "large", "--prompts", "猫"], "prompts: the models of runs are asked"),
        (["--leaderboard", "large", "--seed", "1"], "--seed: acts with prompts only"),
        (["--leaderboard", "large", "--output", "board.pdf"], "ends with .html or .md"),
        (["--leaderboard", "broken"], "broken JSON"),
        (["--leaderboard", "none"], "none: no evaluation.json"),
    ],
)
def test_bad_input(folders, tmp_path, argv, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *argv]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "large", "small"]
