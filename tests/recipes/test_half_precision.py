"""Small twins of the 0.778 B runs: 16-bit training below ZeRO with and without offload, and below FSDP2, on CPUs.

fp16 runs on any CPU here (`fp16_on_cpu.py`). What is compared with is the same run in float32 in one plain process.
"""

import json
import re
import shutil

import pytest
from safetensors import safe_open

from tests.configs.test_configs import ROOT
from tests.recipes.test_engines import FSDP_ON_CPU, launch, pairs, results, rows
from tests.recipes.test_pretrain_scratch import SMALL

FP16_ON_CPU = "tests/recipes/fp16_on_cpu.py"
NEOX = ["--model", "neox-tiny", "--num_layers", "2", "--learning_rate", "1e-3", "--warmup_steps", "4"]
STEPS_20 = ["--tokens", "10240", "--eval_steps", "10", "--logging_steps", "1", "--per_device_eval_batch_size", "4"]
NUM_STEPS = 20
FP16_DRIFT_NATS, BF16_DRIFT_NATS = 5e-4, 2e-2  # units in the last place of a loss of 7: 4e-3 and 3e-2
LOSS_SCALE_POWER = 24  # the scaled gradients of these models overflow with it in the first steps


@pytest.fixture(autouse=True)
def _deepspeed_compiles():
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    if not shutil.which("g++"):
        pytest.skip("DeepSpeed compiles its operators, and there is no g++ here")


@pytest.fixture(scope="module")
def train(corpus_file, tokenizer_dir, tmp_path_factory):
    """Train 20 steps below an engine in a precision; returns the run folder. What is trained is not trained again."""
    folder = tmp_path_factory.mktemp("half")

    def run(engine, num_processes, precision, launch_file=None, name=None, changes=(), wrapper=()):
        output_dir = folder / (name or f"{engine}-{num_processes}-{precision}")
        if not (output_dir / "results.json").exists():
            settings = pairs([*SMALL, *STEPS_20, *NEOX, *changes]) | {"--output_dir": output_dir}
            settings |= {"--sources": corpus_file, "--tokenizer": tokenizer_dir, "--shards_dir": folder / "shards"}
            settings |= {"--precision": precision, "--per_device_train_batch_size": 8 // num_processes}
            words = ["recipes/pretrain_scratch.py", *(str(word) for pair in settings.items() for word in pair)]
            wrapper = wrapper or {"fp16": [FP16_ON_CPU]}.get(precision, [])
            wrapper = [FSDP_ON_CPU] if engine == "fsdp2" else wrapper
            finished = launch(launch_file or engine, num_processes, [*wrapper, *words])
            (output_dir / "log.txt").write_text(finished.stderr, encoding="utf-8")
        return output_dir

    return run


@pytest.fixture(scope="module")
def float32(train):
    return train("cpu", 1, "fp32")


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory):
    """A launch file for an engine whose loss scale begins too high: a path without its suffix, as `launch` takes it."""
    folder = tmp_path_factory.mktemp("overflowing")

    def write(engine):
        settings = json.loads((ROOT / "ds_configs" / f"{engine}.json").read_text(encoding="utf-8"))
        settings["fp16"]["initial_scale_power"] = LOSS_SCALE_POWER
        (folder / f"{engine}.json").write_text(json.dumps(settings), encoding="utf-8")
        text = (ROOT / "accelerate_configs" / f"{engine}.yaml").read_text(encoding="utf-8")
        changed = text.replace(f"ds_configs/{engine}.json", str(folder / f"{engine}.json"))
        (folder / f"{engine}.yaml").write_text(changed, encoding="utf-8")
        return folder / engine

    return write


def assert_learned_as_in_float32(run, float32, drift_nats):
    assert rows(run, "learning_rate") == rows(float32, "learning_rate")
    for key in ("loss", "eval_loss"):
        drift = max(abs(one - other) for one, other in zip(rows(run, key), rows(float32, key), strict=True))
        print(f"{run.name}: {key} {rows(run, key)[-1]:.5f}, float32 {rows(float32, key)[-1]:.5f}, furthest {drift:.1e}")
        assert drift <= drift_nats, key
    assert rows(run, "loss")[-1] < rows(run, "loss")[0] - 0.3


def assert_saved_in(run, dtype, reloaded_drift_nats=1e-4):
    with safe_open(run / "model" / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {dtype}  # noqa: SIM118 — no dict
    assert results(run)["reloaded_loss"] == pytest.approx(results(run)["loss"], abs=reloaded_drift_nats)


@pytest.mark.parametrize(
    ("engine", "num_processes"),
    [
        ("zero2_offload", 1),
        pytest.param("zero3_offload", 1, marks=pytest.mark.slow),
        pytest.param("zero2", 2, marks=pytest.mark.slow),
        pytest.param("zero2_offload", 2, marks=pytest.mark.slow),
        pytest.param("zero3_offload", 2, marks=pytest.mark.slow),
    ],
)
def test_fp16_gives_the_losses_of_float32(train, float32, engine, num_processes):
    run = train(engine, num_processes, "fp16")
    assert_learned_as_in_float32(run, float32, FP16_DRIFT_NATS)
    assert_saved_in(run, "F16")
    assert results(run)["engine"].startswith(f"{['one process', '2 processes'][num_processes - 1]}, DeepSpeed ZeRO-")
    planned = json.loads((run / "plan.json").read_text())
    assert (planned["engine"], planned["arithmetic"], planned["num_processes"]) == (engine, "fp16", num_processes)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "num_processes"), [("zero2_offload", 1), ("zero3_offload", 1), ("fsdp2", 2)])
def test_bf16_gives_the_losses_of_float32(train, float32, engine, num_processes):
    run = train(engine, num_processes, "bf16")
    assert_learned_as_in_float32(run, float32, BF16_DRIFT_NATS)
    if engine == "fsdp2":  # float32 weights, which are computed with in bf16 in another order when they are read back
        assert_saved_in(run, "F32", reloaded_drift_nats=1e-3)
    else:
        assert_saved_in(run, "BF16")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero2_offload", "zero3_offload"])
def test_a_step_that_overflows_is_skipped_and_counted_and_the_schedule_waits(train, overflowing, engine):
    plain = train(engine, 1, "fp16")
    run = train(engine, 1, "fp16", overflowing(engine), f"{engine}-overflow")
    skipped = [step for step, norm in enumerate(rows(run, "grad_norm")) if norm == float("inf")]
    num_skipped = len(skipped)
    assert skipped == list(range(num_skipped))  # each halves the scale, until it fits
    assert 1 <= num_skipped <= 10
    rates = rows(plain, "learning_rate")
    assert rows(run, "learning_rate") == rates[:1] * num_skipped + rates[: NUM_STEPS - num_skipped]
    (said,) = re.findall(
        r"fp16: (\d+) of 20 steps were skipped.* ends (\d+) steps early", (run / "log.txt").read_text()
    )
    assert said == (str(num_skipped), str(num_skipped))
    assert not re.search("were skipped", (plain / "log.txt").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "num_processes"), [("zero2_offload", 1), ("zero3_offload", 1), ("zero2_offload", 2)]
)
def test_a_run_with_its_optimizer_in_host_memory_goes_on_bit_for_bit(train, tmp_path, engine, num_processes):
    """Killed after step 25 and gone on with from step 20: late enough for the powers of the betas to matter."""
    settings = ["--tokens", "20480", "--save_steps", "20", "--adam_beta2", "0.99"]
    whole = train(engine, num_processes, "bf16", None, f"{engine}-{num_processes}-whole", settings)
    name = f"{engine}-{num_processes}-killed"
    kill = ["benchmarks/memory_by_part.py", str(tmp_path / "record.json"), "25"]
    with pytest.raises(AssertionError, match=r"SIGKILL|exitcode: -9|died with"):
        train(engine, num_processes, "bf16", None, name, settings, wrapper=kill)
    killed = whole.parent / name
    assert rows(killed, "loss") == rows(whole, "loss")[:25]
    run = train(engine, num_processes, "bf16", None, name, settings)
    for key in ("loss", "grad_norm", "eval_loss"):
        assert rows(run, key) == rows(whole, key)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (run, whole)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_the_loss_scale_is_part_of_a_checkpoint(train, overflowing):
    """Stopped while the scale is still sought, and gone on with: bit for bit the run that was not stopped."""
    launch_file, settings = overflowing("zero2"), ["--save_steps", "50"]
    whole = train("zero2", 2, "fp16", launch_file, "scale-whole", settings)
    with pytest.raises(AssertionError, match="stopped at step 1 of 20"):
        train("zero2", 2, "fp16", launch_file, "scale-resumed", [*settings, "--max_hours", "1e-6"])
    run = train("zero2", 2, "fp16", launch_file, "scale-resumed", settings)
    for key in ("loss", "grad_norm", "learning_rate", "eval_loss"):
        assert rows(run, key) == rows(whole, key)
    skipped = [re.search(r"fp16: (\d+) of 20", (folder / "log.txt").read_text())[1] for folder in (whole, run)]
    assert skipped[0] == skipped[1]
