"""The comparison of two recordings: what a user sees counts, to the last digit; words, times and versions do not."""

import json
import shutil
import subprocess
import sys

import pytest

from jpllm.cli import VERBS
from tests.configs.test_configs import RECIPES, ROOT, load_recipe

unchanged = load_recipe(ROOT / "benchmarks" / "unchanged.py")
recording = load_recipe(ROOT / "benchmarks" / "unchanged_recording.py")

METRICS = '{"step": 1, "loss": 7.097736358642578, "training_seconds": 0.045, "tokens_per_second": 5633.0}\n'
RESULTS = {"loss": 7.5, "hours": 0.1, "versions": {"torch": "2.13.0"}, "commit": "a" * 40, "groups": {"new": 1.25}}
CARD = """# Small
A model of 93,952 parameters.

| training time | 12 s |
| code | jpllm, commit cf4adb4fe5ddf3ab1ef1f14f52c4e03092316e31 |
| versions | jpllm 0.1.0, torch 2.13.0 |
| tokens per second | 20,898 |
| peak host memory | 657 MiB, planned 723 MiB |
| change | -0.3619 |
"""
PLAN = """  token shards   0.10 GB    79.8 GB   shards
time: 354.8 hours, 1,566 tokens/s at 30% of 25.5 TFLOPS
weights 1.45 GiB
"""
HELP = """usage: recipes/cpt.py

Recipe

  --replay: a number, at least 0; default 0.0
      Share of the training tokens.

  --model: text; required
      Model to go on with.
"""
PAGE = """<style>p { margin: 4px }</style><p>2 runs</p>
<script type="application/json" id="data">%s</script><script>const width = 300;</script>"""
PAGE_DATA = {
    "made": "jpllm 0.1.0, 2026-11-30 18:12",
    "curves": {"loss": [7.1, 6.9], "peak_host_bytes": [600, 700], "accuracy": [0.5, 0.6]},
    "rows": [{"title": "training time", "cells": ["2 s"]}, {"title": "bits per byte", "cells": ["2.75"]}],
}
TENSORS = {"head": (0, 4), "tail": (4, 8)}
CONFIG = "model: gpt2-tiny\nsources:\n- path: a.jsonl\n  weight: 2\nseed: 0\n"


def safetensors(content: bytes) -> bytes:
    header = {name: {"dtype": "U8", "shape": [4], "data_offsets": offsets} for name, offsets in TENSORS.items()}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


@pytest.fixture
def recordings(tmp_path):
    """Two equal recordings, and a way to compare them: path → difference of each row that is not the same."""
    before = tmp_path / "before"
    for path, content in {
        "run/metrics.jsonl": METRICS,
        "run/results.json": json.dumps(RESULTS),
        "run/config.yaml": CONFIG,
        "run/model/README.md": CARD,
        "run/model/model.safetensors": safetensors(b"abcdefgh"),
        "run/loss.png": "pixels",
        "run/.lock": "",
        "said/plan.txt": PLAN,
        "said/plan.log": "18:12:18 packing",
        "said/help/cpt.txt": HELP,
        "shards/stories-8a7594a0015a/tokens.bin": b"\x01\x02\x03\x04",
        "page.html": PAGE % json.dumps(PAGE_DATA),
    }.items():
        file = before / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    after = tmp_path / "after"
    shutil.copytree(before, after)
    for folder in (before, after):  # recordings may be moved when they are made
        paths = [f"/{folder.name} then", f"/{folder.name} code"]
        (folder / unchanged.PATHS).write_text(json.dumps(paths), encoding="utf-8")
    return before, after


def found(recordings):
    return {row.item: (row.verdict, row.difference) for row in unchanged.compare(*recordings) if row.verdict != "same"}


def edit(recordings, path, old, new):
    """Replace the only `old` in a file of the second recording."""
    file = recordings[1] / path
    content = file.read_bytes()
    old, new = (part if isinstance(part, bytes) else part.encode() for part in (old, new))
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))


def test_equal_recordings_are_the_same_in_every_item(recordings):
    rows = unchanged.compare(*recordings)
    assert {row.verdict for row in rows} == {"same"}
    assert [row.item for row in rows] == [
        "page.html",
        "run/config.yaml",
        "run/loss.png",
        "run/metrics.jsonl",
        "run/model/README.md",
        "run/model/model.safetensors",
        "run/results.json",
        "said/help/cpt.txt",
        "said/plan.txt",
        "shards/stories-*/tokens.bin",
        "names of shard folders",
    ]


@pytest.mark.parametrize(
    ("path", "old", "new", "difference"),
    [
        (
            "run/metrics.jsonl",
            "7.097736358642578",
            "7.097736358642579",
            "line 1 loss: 7.097736358642578 → 7.097736358642579",
        ),
        ("run/metrics.jsonl", '"step": 1', '"step": 1.0', "line 1 step: 1 → 1.0"),
        ("run/metrics.jsonl", '"step": 1', '"step": "1"', 'line 1 step: 1 → "1"'),
        ("run/metrics.jsonl", '"step": 1, "loss": 7.097736358642578', '"loss": 7.097736358642578, "step": 1', None),
        ("run/metrics.jsonl", "5633.0}\n", '5633.0}\n{"step": 2}\n', "line 2: only after"),
        ("run/results.json", "1.25", "1.26", "groups new: 1.25 → 1.26"),
        ("run/results.json", '"loss"', '"final_loss"', "loss: only before"),
        ("run/config.yaml", "weight: 2", "weight: 3", None),
        ("run/model/README.md", "93,952", "93,953", "number 1: # Small A model of 93,952 → # Small A model of 93,953"),
        ("run/model/README.md", "-0.3619", "0.3619", None),
        ("run/model/README.md", "planned 723", "planned 724", None),
        ("run/model/README.md", "| change | -0.3619 |\n", "", None),
        ("run/model/model.safetensors", b"abcdefgh", b"abcdefgH", "tail: byte 3 of 4 and 4"),
        ("run/model/model.safetensors", b'"tail"', b'"coda"', "header tail: only before"),
        ("said/plan.txt", "1,566", "1,567", None),
        ("said/plan.txt", "0.10 GB", "0.20 GB", None),
        ("said/help/cpt.txt", "default 0.0", "default 0.5", None),
        ("said/help/cpt.txt", "at least 0", "at least 1", None),
        ("said/help/cpt.txt", "--model: text; required", "--base_model: text; required", None),
        ("page.html", "6.9", "6.8", None),
        ("page.html", "2.75", "2.76", None),
        ("page.html", "2 runs", "3 runs", "number 1: 2 → 3"),
    ],
)
def test_what_a_user_would_notice_is_noticed(recordings, path, old, new, difference):
    edit(recordings, path, old, new)
    ((item, (verdict, said)),) = found(recordings).items()
    assert (item, verdict) == (path, "DIFFERS")
    assert said == difference if difference else said


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("run/metrics.jsonl", '"training_seconds": 0.045', '"training_seconds": 0.1'),
        ("run/metrics.jsonl", "5633.0", "12.5"),
        ("run/results.json", '"hours": 0.1', '"hours": 0.2'),
        ("run/results.json", "a" * 40, "b" * 40),
        ("run/results.json", '{"loss": 7.5, "hours": 0.1,', '{"hours": 0.1, "loss": 7.5,'),
        ("run/config.yaml", CONFIG, "seed: 0\nsources:\n- path: a.jsonl\n  weight: 2\nmodel: gpt2-tiny\n"),
        ("run/model/README.md", "A model of", "This GPT-2 has"),
        ("run/model/README.md", "| 12 s |", "| 3 min |"),
        ("run/model/README.md", "cf4adb4fe5ddf3ab1ef1f14f52c4e03092316e31", "0123456789" * 4 + "-dirty"),
        ("run/model/README.md", "jpllm 0.1.0", "jpllm 0.2.0"),
        ("run/model/README.md", "20,898", "4,000"),
        ("run/model/README.md", "657 MiB", "1,024 MiB"),
        ("run/loss.png", "pixels", "dots"),
        ("said/plan.txt", "79.8 GB", "12.5 GB"),
        ("said/plan.txt", "weights", "the weights"),
        ("said/plan.log", "18:12:18", "19:00:00"),
        ("said/help/cpt.txt", "Share of the training tokens.", "The share of tokens that is replayed."),
        ("page.html", "18:12", "19:00"),
        ("page.html", "[600, 700]", "[601, 702]"),
        ("page.html", "2 s", "3 s"),
        (
            "page.html",
            '"loss": [7.1, 6.9], "peak_host_bytes": [600, 700], "accuracy": [0.5, 0.6]',
            '"accuracy": [0.5, 0.6], "loss": [7.1, 6.9]',
        ),
        ("page.html", "4px", "8px"),
        ("page.html", "width = 300", "width = 400"),
    ],
)
def test_words_times_rates_and_versions_may_change(recordings, path, old, new):
    edit(recordings, path, old, new)
    assert found(recordings) == {}


def test_a_new_fingerprint_of_shards_is_told_apart_from_new_tokens(recordings):
    shards = recordings[1] / "shards"
    (shards / "stories-8a7594a0015a").rename(shards / "stories-0123456789ab")
    assert found(recordings) == {
        "names of shard folders": (
            "DIFFERS",
            '[0]: "shards/stories-8a7594a0015a" → "shards/stories-0123456789ab"',
        )
    }
    (shards / "stories-0123456789ab" / "tokens.bin").write_bytes(b"\x01\x02\x03\x05")
    assert found(recordings)["shards/stories-*/tokens.bin"] == ("DIFFERS", "byte 3 of 4 and 4")


def test_paths_of_the_recordings_and_checkouts_may_differ_and_others_not(recordings):
    for folder in recordings:
        row = {"place": f"/{folder.name} then/jglue:11", "script": f"/{folder.name} code/recipes/sft.py"}
        (folder / "run" / "predictions.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert found(recordings) == {}
    edit(recordings, "run/predictions.jsonl", "jglue:11", "jglue:12")
    said = 'line 1 place: "<path 0>/jglue:11" → "<path 0>/jglue:12"'
    assert found(recordings) == {"run/predictions.jsonl": ("DIFFERS", said)}


def test_sets_have_no_order(recordings):
    for folder, modules in zip(recordings, (["query", "dense"], ["dense", "query"]), strict=True):
        (folder / "adapter_config.json").write_text(json.dumps({"target_modules": modules}), encoding="utf-8")
    assert found(recordings) == {}
    edit(recordings, "adapter_config.json", "query", "key")
    assert found(recordings)["adapter_config.json"] == ("DIFFERS", 'target_modules[1]: "query" → "key"')


def test_missing_and_new_files_are_named(recordings):
    before, after = recordings
    (after / "run" / "loss.png").rename(after / "run" / "curve.png")
    assert found(recordings) == {
        "run/curve.png": ("new", f"only in {after}"),
        "run/loss.png": ("missing", f"only in {before}"),
    }


def test_the_command_prints_a_table_and_fails_where_something_differs(recordings):
    command = [sys.executable, str(ROOT / "benchmarks" / "unchanged.py"), "compare", *map(str, recordings)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "11 of 11 items are the same")
    edit(recordings, "run/results.json", "1.25", "1.26")
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "10 of 11 items are the same")
    assert "run/results.json             DIFFERS  groups new: 1.25 → 1.26\n" in done.stdout


def test_every_command_and_recipe_is_recorded_and_needs_only_what_comes_before():
    helps = [command.removeprefix("jpllm ").partition(" --")[0] for command in recording.help_commands()]
    assert set(helps) == {*VERBS, *(f"recipes/{file.name}" for file in RECIPES)}
    names = []
    for step in recording.steps():
        assert set(step.after) <= set(names), step.name
        names.append(step.name)
    scripts = {step.words[0] for step in recording.steps()} - {"-m"}
    assert scripts == {f"recipes/{file.name}" for file in RECIPES}


def test_a_recording_holds_what_commands_wrote_said_and_ended_with(monkeypatch, tmp_path):
    monkeypatch.setattr(recording, "VERBS", "data builtin")
    monkeypatch.setattr(recording, "RECIPES", ())
    commands = "corpus\n    jpllm data builtin --num_bytes 1_000\n    --output_dir corpus\nbad: corpus\n    jpllm plan"
    monkeypatch.setattr(recording, "COMMANDS", commands)
    assert recording.record(ROOT, tmp_path / "one") == 1
    files = set(unchanged.recorded_files(tmp_path / "one"))
    assert {"corpus/labels.jsonl", "said/corpus.txt", "said/help/jpllm data builtin.txt"} <= files
    assert (tmp_path / "one/said/bad.txt").read_text(encoding="utf-8").endswith("exit code 2\n")
    assert unchanged.recorded_paths(tmp_path / "one") == [str(tmp_path / "one"), str(ROOT)]
    keys = unchanged.help_keys((tmp_path / "one/said/help/jpllm data builtin.txt").read_text(encoding="utf-8"))
    assert keys["--num_rows: an integer, at least 1: default 2000"] == 1
    with pytest.raises(SystemExit, match="is not empty"):
        recording.record(ROOT, tmp_path / "one")
