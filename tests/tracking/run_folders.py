"""Run folders made by hand, whose every number is known."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import yaml

PROMPT = "吾輩は猫である"
SETTINGS = {"model": "llama-tiny", "learning_rate": 0.001, "seed": 0, "output_dir": "runs/x"}
RESULTS = {
    "step": 4,
    "epoch": 0.5,
    "tokens": 4000,
    "loss": 2.0,
    "bits_per_byte": 0.75,
    "xz_bits_per_byte": 2.5,
    "num_parameters": 3_307_200,
    "groups": {},
    "mixture": [],
    "hours": 0.05,
    "tokens_per_second": 5560.4,
    "device": "1 × cpu, 2 threads each",
    "engine": "one process",
    "versions": {"jpllm": "0.1.0", "torch": "2.13.0"},
}


def place(step: int, seconds: float | None = None) -> dict:
    """Columns of a row: 1,000 tokens and 2 seconds a step, 8 steps an epoch."""
    seconds = {"training_seconds": 2.0 * step if seconds is None else seconds}
    return {"step": step, "epoch": step / 8, "tokens": 1000 * step, **seconds}


def rows(losses: Iterable[float] = (8.0, 4.0, 3.0, 2.5)) -> list[dict]:
    """An evaluation before and after, and a row for each step."""
    trained = [{**place(step), "loss": loss, "learning_rate": step / 1000} for step, loss in enumerate(losses, start=1)]
    last = len(trained)
    before = {**place(0), "eval_loss": 8.5, "eval_bits_per_byte": 3.0}
    return [before, *trained, {**place(last), "eval_loss": 2.0, "eval_bits_per_byte": 0.75}]


def samples(*texts: str, prompt: str = PROMPT) -> list[dict]:
    """One text for each of the steps 0, 2, 4 …"""
    return [{**place(2 * index), "prompt": prompt, "text": text} for index, text in enumerate(texts)]


def write_run(
    folder: Path,
    *,
    settings: dict | None = None,
    results: dict | None = RESULTS,
    metrics: list[dict] | None = None,
    texts: list[dict] | None = None,
    evaluation: dict | None = None,
    held_out: str = "held out",
) -> Path:
    """A finished run; with `results=None` an unfinished one."""
    folder.mkdir(parents=True)
    config = yaml.safe_dump(SETTINGS | (settings or {}), sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    (folder / "held_out.jsonl").write_text(json.dumps({"text": held_out}) + "\n", encoding="utf-8")
    write_rows(folder / "metrics.jsonl", rows() if metrics is None else metrics)
    write_rows(folder / "samples.jsonl", samples("あ", "名前はまだ無い。") if texts is None else texts)
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    if evaluation is not None:
        (folder / "evaluation").mkdir()
        (folder / "evaluation" / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    return folder


def write_rows(file: Path, found: Iterable[dict]) -> None:
    """A line for each."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
