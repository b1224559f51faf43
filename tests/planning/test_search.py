from dataclasses import replace
from pathlib import Path

import pytest

from jpllm import xla
from jpllm.data.shards.available import SourceTokens
from jpllm.models.build import transformers_config
from jpllm.models.presets import ModelConfig
from jpllm.models.trained_parts import TrainedParts
from jpllm.planning.budget import DiskNeed, disk_needs, disk_shortages, text_budget
from jpllm.planning.hardware import GIB, GPUS, Hardware, HardwareConfig, known_gpu, resolve
from jpllm.planning.search import COMFORTABLE, Search, peak_tflops, time_factor
from jpllm.planning.setup import TrainingSetup, arithmetic, changes, is_possible, setup_of
from jpllm.planning.size import VocabularyOnly, model_size
from jpllm.runtime import InputError
from jpllm.training import machine
from jpllm.training.config import TrainingConfig
from jpllm.training.machine import LocalGpu

RTX3060 = Hardware("rtx3060", True, 12 * GIB, 25.5, True, 1, 32 * GIB, False)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: [])
    monkeypatch.setattr(machine, "host_memory_bytes", lambda: 10 * GIB)


@pytest.fixture
def t4_here(monkeypatch):
    t4 = LocalGpu("Tesla T4", (7, 5), 15 * GIB)
    monkeypatch.setattr(machine, "gpus", lambda: [t4])
    monkeypatch.setattr(machine, "host_memory_bytes", lambda: 10 * GIB)


def training(**settings):
    return TrainingConfig(**{"output_dir": Path("x"), "tokens": 1, **settings})


def setup(**settings):
    return TrainingSetup(**{"micro_batch": 4, "sequence_length": 128, "accumulation": 2, **settings})


@pytest.mark.usefixtures("no_gpu")
def test_hardware_without_a_gpu():
    assert resolve(HardwareConfig()) == Hardware("CPU", False, 10 * GIB, None, False, 1, 10 * GIB, True)
    assert resolve(HardwareConfig(gpu="cpu", host_memory_gib=3)).memory == 3 * GIB
    assert resolve(HardwareConfig(gpu="rtx3060", num_gpus=2)) == Hardware(
        "rtx3060", True, 12 * GIB, 25.5, True, 2, None, False
    )
    with pytest.raises(InputError, match="name one with gpu"):
        resolve(HardwareConfig(engine="zero2"))
    unknown = resolve(HardwareConfig(gpu_memory_gib=10.5, host_memory_gib=16))
    assert (unknown.memory, unknown.half_tflops, unknown.host) == (int(10.5 * GIB), None, 16 * GIB)


@pytest.mark.usefixtures("t4_here")
def test_hardware_that_is_here():
    here = resolve(HardwareConfig())
    assert here == Hardware("Tesla T4", True, 15 * GIB, 65.0, False, 1, 10 * GIB, True)
    assert resolve(HardwareConfig(gpu="t4")) == replace(here, name="t4")
    assert not resolve(HardwareConfig(gpu="rtx3090")).is_here
    assert not resolve(HardwareConfig(gpu="cpu")).on_gpu


@pytest.mark.parametrize(
    ("name", "memory_gib", "expected"),
    [
        ("NVIDIA GeForce RTX 3060", 11.8, "rtx3060"),
        ("NVIDIA GeForce RTX 4060 Ti", 15.6, "rtx4060ti"),
        ("Tesla T4", 14.6, "t4"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40"),
        ("NVIDIA A100 80GB PCIe", 79.1, "a100-80"),
        ("NVIDIA A10", 22.1, "a10"),
        ("NVIDIA H200", 139.8, "h200"),
        ("NVIDIA GeForce GTX 1080", 8.0, None),
    ],
)
def test_names_of_the_driver(name, memory_gib, expected):
    assert known_gpu(name, memory_gib) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpu": "rtx306"}, "unknown GPU 'rtx306'; did you mean 'rtx3060'?"),
        ({"engine": "single", "num_gpus": 2}, "take ddp"),
        ({"engine": "ddp"}, "take single"),
        ({"gpu": "cpu", "gpu_memory_gib": 12}, "remove num_gpus and gpu_memory_gib"),
    ],
)
def test_hardware_that_contradicts_itself(settings, message):
    ((_, problem),) = HardwareConfig(**settings).check()
    assert message in problem


def test_precision_for_the_hardware():
    assert arithmetic(training(), RTX3060) == "bf16"
    assert arithmetic(training(), replace(RTX3060, has_bf16=False)) == "fp16"
    assert arithmetic(training(precision="fp32"), RTX3060) == "fp32"
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        arithmetic(training(precision="fp16"), replace(RTX3060, on_gpu=False))


def test_speed_of_float32():
    """With TF32 half of fp16's; on a T4, which lacks it, the 8.1 TFLOPS of its data sheet."""
    assert peak_tflops(replace(RTX3060, num_gpus=2), setup(arithmetic="bf16")) == 51.0
    assert peak_tflops(RTX3060, setup(arithmetic="fp32")) == 12.75
    t4 = replace(RTX3060, half_tflops=GPUS["t4"].half_tflops, has_bf16=False)
    assert peak_tflops(t4, setup(arithmetic="fp32")) == pytest.approx(8.1, abs=0.05)
    assert peak_tflops(replace(RTX3060, half_tflops=None), setup()) is None


def test_time_factor():
    """Offload costs a tenth at 16k tokens a step on a GPU, and more than all else at 1k."""
    assert time_factor(setup(), 4) == 1
    assert time_factor(setup(activation_checkpointing=True), 4) == pytest.approx(4 / 3)
    assert time_factor(setup(micro_batch=1), 4) == pytest.approx(1.03**2)
    offload = setup(engine="zero2_offload", micro_batch=16, sequence_length=1024, accumulation=1)
    assert time_factor(offload, 16) == pytest.approx(1.1, abs=0.001)
    assert time_factor(replace(offload, micro_batch=1), 1) > 2.5


def test_engines_and_optimizers():
    assert is_possible(setup(engine="zero2_offload"))
    assert not is_possible(setup(engine="zero2_offload", optimizer="adamw_8bit"))
    assert is_possible(setup(engine="zero2", optimizer="adamw_8bit"))
    assert not is_possible(setup(engine="zero1", optimizer="muon"))
    assert not is_possible(setup(optimizer="muon", trained_parts=TrainedParts(lora_rank=4)))


@pytest.fixture(scope="module")
def gpt2():
    config = transformers_config(ModelConfig("gpt2-small", num_layers=4), VocabularyOnly(32_000))
    return config, model_size(config)


def search(gpt2, memory_gib: float, **settings):
    return Search(*gpt2, replace(RTX3060, memory=int(memory_gib * GIB)), **settings)


def test_what_fits_is_taken_as_it_is(gpt2):
    here = search(gpt2, 12)
    asked = setup_of(training(), 512, here.hardware, here.engines[0])
    best = here.best(asked)
    assert (best.setup, best.changes, best.time_factor) == (asked, {}, 1)
    assert best.fits(here.hardware)


def test_what_does_not_fit_has_ways_that_do(gpt2):
    here = search(gpt2, 3.4)
    wanted = training(per_device_train_batch_size=16, gradient_accumulation_steps=2, chunked_loss=False)
    asked = setup_of(wanted, 512, here.hardware, "single")
    assert not here.best(asked).fits(here.hardware)
    others = here.alternatives(asked)
    assert 1 <= len(others) <= 3
    for other in others:
        assert other.memory.peak <= COMFORTABLE * here.hardware.memory
        assert other.setup.tokens_per_step == asked.tokens_per_step
        assert other.changes == changes(asked, other.setup)
    assert others[0].changes["chunked_loss"] is True
    times = [other.time_factor for other in others]
    assert times == sorted(times)
    keys = [other.changes.keys() for other in others]
    assert not any(one <= other for index, one in enumerate(keys) for other in keys[index + 1 :])


def test_a_heavier_engine_before_no_fit(gpt2):
    here = search(gpt2, 2.1)
    asked = setup_of(
        training(per_device_train_batch_size=2, gradient_accumulation_steps=32),
        512,
        here.hardware,
        "single",
    )
    best = here.best(asked)
    assert best.fits(here.hardware)
    assert best.changes == {"engine": "zero2_offload"}
    only = search(gpt2, 2.1, engine="single").best(asked)
    assert not only.fits(here.hardware)


def test_host_memory_counts(gpt2):
    here = Search(*gpt2, replace(RTX3060, memory=2 * GIB, host=3 * GIB))
    asked = setup_of(training(), 512, here.hardware, "single")
    assert not here.best(asked).fits(here.hardware)


def test_an_engine_that_does_not_take_the_optimizer(gpt2):
    here = search(gpt2, 12, engine="zero2_offload")
    asked = setup_of(training(optimizer="muon"), 64, here.hardware, "zero2_offload")
    with pytest.raises(InputError, match="optimizer: muon does not work with engine zero2_offload"):
        here.best(asked)


def test_several_gpus_begin_with_ddp(gpt2):
    here = Search(*gpt2, replace(RTX3060, num_gpus=4))
    assert here.engines[0] == "ddp"
    assert Search(*gpt2, replace(RTX3060, on_gpu=False)).engines == ("single",)


def source(num_tokens, is_exact=True):
    return SourceTokens("x", num_tokens, is_exact, "")


def test_budget_in_tokens():
    found = text_budget(training(tokens=10_000), [source(4000), source(1000)], None, setup())
    assert (found.tokens_per_step, found.num_steps, found.num_tokens) == (1024, 10, 10_240)
    assert [part.share for part in found.sources] == [0.8, 0.2]
    assert [part.num_tokens for part in found.sources] == [8192, 2048]
    assert [part.epochs for part in found.sources] == [2.048, 2.048]


def test_budget_with_weights_of_an_unknown_source():
    found = text_budget(training(tokens=10_000), [source(4000), source(None, False)], [1, 3], setup())
    assert [part.share for part in found.sources] == [0.25, 0.75]
    assert [part.epochs for part in found.sources] == [0.64, None]


def test_budget_in_epochs():
    wanted = training(tokens=None, epochs=2)
    assert text_budget(wanted, [source(4000), source(1000)], None, setup()).num_steps == 10
    unknown = text_budget(wanted, [source(None, False)], None, setup())
    assert (unknown.num_steps, unknown.num_tokens, unknown.sources[0].share) == (None, None, None)


def test_budget_that_stops_when_a_source_runs_out():
    sources = [source(8192), source(4096)]
    assert text_budget(training(tokens=50_000), sources, None, setup(), stops_when_exhausted=True).num_steps == 12
    assert text_budget(training(tokens=50_000), sources, [1, 1], setup(), stops_when_exhausted=True).num_steps == 8


def test_disk(gpt2, tmp_path, monkeypatch):
    _, size = gpt2
    wanted = training(tokens=10_000, output_dir=tmp_path / "run", save_steps=4, save_total_limit=2)
    spends = text_budget(wanted, [source(4000), source(1000, False)], None, setup())
    shards, checkpoints, model = disk_needs(wanted, tmp_path, spends, size, setup())
    assert shards == DiskNeed("token shards", tmp_path, 2 * 1000)
    assert checkpoints.num_bytes == 2 * 12 * size.num_parameters  # of 10 steps; a third one would be kept beside two
    assert model == DiskNeed("model", tmp_path / "run", 4 * size.num_parameters)
    assert disk_shortages([shards, checkpoints, model]) == []
    monkeypatch.setattr(machine, "free_disk_bytes", lambda folder: 10**9)
    (line,) = disk_shortages([DiskNeed("token shards", tmp_path, None), DiskNeed("model", tmp_path, 2 * 10**9)])
    assert line == "2.0 GB of disk for token shards and model, and 1.0 GB are free"


def test_a_tpu_is_eight_cores_that_have_the_whole_model_each():
    where = resolve(HardwareConfig(gpu="v5e-8"))
    assert where == Hardware("v5e-8", True, int(15.75 * GIB), 197.0, True, 8, None, False, is_tpu=True)
    asked = setup_of(training(per_device_train_batch_size=4), 512, where, "xla")
    assert (asked.num_processes, asked.arithmetic, asked.weight_bytes) == (8, "bf16", 4)
    assert peak_tflops(where, asked) == 8 * 197.0
    config = transformers_config(ModelConfig(model="neox-1b"), VocabularyOnly(32_000))
    size = model_size(config)
    search = Search(config, size, where)
    assert search.engines == ("xla",)
    best = search.best(replace(asked, activation_checkpointing=True))
    assert best.memory.states.weights == 4 * 778_263_552
    assert best.memory.states.optimizer == 8 * 778_263_552
    assert best.memory.states.buckets == 0  # gradients are added up where they are
    assert {way.setup.engine for way in search.alternatives(best.setup)} <= {"xla"}
    assert {way.setup.optimizer for way in search.savings(asked)} <= {"adamw"}
    with pytest.raises(InputError, match="precision: fp16 is nothing that a TPU is made for"):
        arithmetic(training(precision="fp16"), where)
    for optimizer in ("adamw_8bit", "muon"):
        with pytest.raises(InputError, match=f"optimizer: {optimizer} does not work with engine xla; write adamw"):
            search.best(replace(asked, optimizer=optimizer))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"gpu": "v5e-8", "engine": "ddp"}, ("engine", "v5e-8 is a TPU, where xla is the only one; remove engine")),
        ({"gpu": "v5e-8", "num_gpus": 4}, ("num_gpus", "v5e-8 has 8 cores, which all work; remove num_gpus")),
        ({"gpu": "t4", "engine": "xla"}, ("engine", "xla is for TPUs, and gpu is t4; write gpu: v5e-8")),
    ],
)
def test_settings_that_contradict_a_tpu(settings, problem):
    assert list(HardwareConfig(**settings).check()) == [problem]


def test_the_tpu_of_this_host(monkeypatch):
    monkeypatch.setattr(xla, "is_launched", lambda: True)
    monkeypatch.setattr(xla, "kind", lambda: "TPU")
    monkeypatch.setattr(xla, "chip", lambda: "TPU v5 lite")
    assert resolve(HardwareConfig()) == resolve(HardwareConfig(gpu="v5e-8"))
    monkeypatch.setattr(xla, "chip", lambda: "TPU v9")
    with pytest.raises(InputError, match="the memory of TPU v9 is not known; give gpu_memory_gib"):
        resolve(HardwareConfig())
