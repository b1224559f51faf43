"""The benchmark of a training step: every way trains the same model on the same data."""

import json
import math
import subprocess
import sys

import pytest

from tests.configs.test_configs import ROOT, load_recipe

ways = load_recipe(ROOT / "benchmarks" / "training_ways.py")


@pytest.mark.slow
def test_ways_see_the_same_data_and_learn_alike():
    script = str(ROOT / "benchmarks" / "training_ways.py")
    results = {}
    for way in ("run_clm", "bare", "ours_fp32"):
        done = subprocess.run([sys.executable, script, way, "rehearsal"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        results[way] = json.loads(done.stdout.splitlines()[-1])
    vocab_size = ways.SIZES["rehearsal"].vocab_size
    for result in results.values():
        assert result["seconds"] > 0
        assert result["loss"] == pytest.approx(math.log(vocab_size), abs=0.05)  # random ids cannot be learned
    assert results["bare"]["loss"] == pytest.approx(results["ours_fp32"]["loss"], abs=1e-4)


def test_report(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    step = load_recipe(ROOT / "benchmarks" / "train_step.py")
    seconds = {"run_clm": [2, 3, 4], "run_clm_unfused": [4, 4, 4], "bare": [1, 2, 3], "ours_fp32": [1.01, 2, 3.3]}
    seconds["ours_half"] = [2, 2, 4]
    runs = {way: [{"seconds": one, "loss": 6.2} for one in each] for way, each in seconds.items()}
    table = step.table(runs, "rehearsal")
    assert table[2] == "| run_clm | 3.000 | 2.000–4.000 | 21 | 1.00 | 1.33 | 6.2000 |"
    assert table[5] == "| ours_fp32 | 2.000 | 1.010–3.300 | 32 | 1.50 | 2.00 | 6.2000 |"
    overhead, half = step.goals(runs)
    assert overhead.endswith("over a bare loop: +1.0%, goal at most +2%: reached")
    assert half.endswith("over run_clm_unfused: 2.00 times the speed, goal at least 1.3: reached")
