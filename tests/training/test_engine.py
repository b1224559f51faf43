"""What the launcher asks for, what runs, and the differences that end a run."""

import json
import os
import re
from types import SimpleNamespace

import pytest
import torch

from jpllm import xla
from jpllm.runtime import InputError
from jpllm.training import engine
from jpllm.training.engine import Engine

TWO = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "RANK": "0"}
OFFLOAD = {"device": "cpu", "pin_memory": True}


@pytest.fixture
def launcher(monkeypatch, tmp_path):
    """Set the environment to what a launcher hands down; `zero` becomes DeepSpeed's file."""

    def set_environment(variables, zero=None):
        own = {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(tmp_path), "USE_TORCH_XLA": "0"}
        environment = {**own, **variables}
        if zero is not None:
            file = tmp_path / "zero.json"
            file.write_text(json.dumps({"zero_optimization": zero}))
            environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(file)
        monkeypatch.setattr(os, "environ", environment)

    return set_environment


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("", "single"),
        ("DDP", "ddp"),
        ("DeepSpeed ZeRO-1", "zero1"),
        ("DeepSpeed ZeRO-2 with optimizer offload", "zero2_offload"),
        ("DeepSpeed ZeRO-3 with optimizer and parameter offload", "zero3_offload"),
        ("DeepSpeed ZeRO-1 with optimizer offload", None),
        ("FSDP2", "fsdp2"),
        ("FSDP1", None),
    ],
)
def test_name_in_the_estimates(name, scheme):
    assert Engine(1, name).planned_as == scheme


@pytest.mark.parametrize(
    ("variables", "zero", "expected"),
    [
        ({}, None, "one process"),
        ({"WORLD_SIZE": "1", "MASTER_ADDR": "x"}, None, "one process"),
        (TWO, None, "2 processes, DDP"),
        ({**TWO, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, None, "2 processes, FSDP2"),
        ({**TWO, "ACCELERATE_USE_DEEPSPEED": "true"}, {"stage": 2}, "2 processes, DeepSpeed ZeRO-2"),
        ({**TWO, "ACCELERATE_USE_DEEPSPEED": "true"}, None, "2 processes, DeepSpeed ZeRO-2"),
        (
            {"WORLD_SIZE": "1", "ACCELERATE_USE_DEEPSPEED": "true"},
            {"stage": 2, "offload_optimizer": OFFLOAD},
            "one process, DeepSpeed ZeRO-2 with optimizer offload",
        ),
        (
            {**TWO, "ACCELERATE_USE_DEEPSPEED": "true"},
            {"stage": 3, "offload_optimizer": OFFLOAD, "offload_param": OFFLOAD},
            "2 processes, DeepSpeed ZeRO-3 with optimizer and parameter offload",
        ),
        (
            {
                **TWO,
                "ACCELERATE_USE_DEEPSPEED": "true",
                "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
                "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
                "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu",
            },
            None,
            "2 processes, DeepSpeed ZeRO-3 with parameter offload",
        ),
    ],
)
def test_requested(launcher, variables, zero, expected):
    launcher(variables, zero)
    assert str(engine.requested()) == expected


@pytest.mark.parametrize("variables", [{"MASTER_ADDR": "127.0.0.1"}, {"OMPI_COMM_WORLD_SIZE": "2"}, {"PMI_SIZE": "4"}])
def test_process_that_should_have_others_is_refused(launcher, variables):
    launcher(variables)
    with pytest.raises(InputError, match=r"this one works alone.*accelerate_configs/multi_gpu.yaml --num_processes N"):
        engine.requested()


def test_deepspeed_file_that_is_not_there_or_none_at_all(launcher, tmp_path):
    variables = {**TWO, "ACCELERATE_USE_DEEPSPEED": "true"}
    launcher({**variables, "ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds_configs/zero9.json"})
    with pytest.raises(InputError, match=r"no ds_configs/zero9.json here; launch from the root of the repository"):
        engine.requested()
    for content in ("{", "{}"):
        launcher(variables, zero={})
        (tmp_path / "zero.json").write_text(content)
        with pytest.raises(InputError, match=r"zero.json: not a DeepSpeed configuration with a zero_optimization part"):
            engine.requested()


def accelerator(kind, num_processes=2, **state):
    return SimpleNamespace(
        distributed_type=SimpleNamespace(value=kind), state=SimpleNamespace(num_processes=num_processes, **state)
    )


def deepspeed_accelerator(zero):
    return accelerator(
        "DEEPSPEED", deepspeed_plugin=SimpleNamespace(deepspeed_config={"zero_optimization": {"stage": 3, **zero}})
    )


def fsdp_accelerator(state_dict_type="StateDictType.FULL_STATE_DICT"):
    return accelerator("FSDP", fsdp_plugin=SimpleNamespace(fsdp_version=2, state_dict_type=state_dict_type))


def test_running():
    assert engine.running(accelerator("NO", 1)) == Engine(1, "")
    assert engine.running(accelerator("MULTI_CPU", 1)) == Engine(1, "")
    assert engine.running(accelerator("MULTI_GPU")) == Engine(2, "DDP")
    assert engine.running(accelerator("XLA", 8)) == Engine(8, "XLA")
    assert engine.running(fsdp_accelerator()) == Engine(2, "FSDP2")
    assert engine.running(deepspeed_accelerator({"offload_param": OFFLOAD})) == Engine(
        2, "DeepSpeed ZeRO-3 with parameter offload"
    )


def test_engine_that_runs_is_the_one_asked_for(launcher):
    launcher(TWO)
    assert engine.confirm(accelerator("MULTI_CPU")) == Engine(2, "DDP")
    with pytest.raises(InputError, match="asked for 2 processes, DDP, but what would train is one process; see accel"):
        engine.confirm(accelerator("NO", 1))
    launcher({**TWO, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})
    with pytest.raises(InputError, match="asked for 2 processes, FSDP2, but what would train is 2 processes, DDP"):
        engine.confirm(accelerator("MULTI_CPU"))


def test_engine_that_could_not_save_the_model_is_refused(launcher):
    launcher({**TWO, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})
    assert engine.confirm(fsdp_accelerator()).name == "FSDP2"
    with pytest.raises(InputError, match="fsdp_state_dict_type: write FULL_STATE_DICT"):
        engine.confirm(fsdp_accelerator("StateDictType.SHARDED_STATE_DICT"))
    gather = {"stage3_gather_16bit_weights_on_model_save": True}
    launcher({**TWO, "ACCELERATE_USE_DEEPSPEED": "true"}, {"stage": 3})
    assert engine.confirm(deepspeed_accelerator(gather)).name == "DeepSpeed ZeRO-3"
    with pytest.raises(InputError, match="stage3_gather_16bit_weights_on_model_save: write true"):
        engine.confirm(deepspeed_accelerator({}))


@pytest.fixture
def loaded(monkeypatch):
    """The operators that `prepare` asks for, on a machine without a GPU unless a test says otherwise."""
    names = []
    monkeypatch.setattr(engine, "load_operators", lambda *wanted: names.extend(wanted))
    monkeypatch.setattr(engine, "device", lambda: torch.device("cpu"))
    return names


def test_prepare_loads_what_deepspeed_will_need(launcher, loaded, monkeypatch):
    launcher(TWO)
    engine.prepare()
    assert loaded == []
    variables = {**TWO, "ACCELERATE_USE_DEEPSPEED": "true"}
    launcher(variables, {"stage": 2})
    engine.prepare()
    assert loaded == [engine.PROCESSES]
    assert os.environ["DS_ACCELERATOR"] == "cpu"
    loaded.clear()
    monkeypatch.setattr(engine, "device", lambda: torch.device("cuda"))
    launcher(variables, {"stage": 2, "offload_optimizer": OFFLOAD})
    engine.prepare()
    assert loaded == [engine.ADAM]
    assert "DS_ACCELERATOR" not in os.environ


def test_prepare_refuses_what_would_run_as_something_else(launcher, loaded):
    launcher({**TWO, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})
    with pytest.raises(InputError, match="FSDP2 needs GPUs: on CPUs accelerate would run DDP instead"):
        engine.prepare()
    launcher({**TWO, "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_CPU": "true"}, {"stage": 2})
    with pytest.raises(InputError, match="ACCELERATE_USE_CPU: accelerate leaves DeepSpeed out"):
        engine.prepare()


def test_fsdp2_adds_up_in_float32():
    """Where accelerate casts gradients and the loss to the type of the products (read in accelerate 1.15)."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    cast = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16, output_dtype=torch.bfloat16)
    plugin = SimpleNamespace(mixed_precision_policy=cast)
    engine.keep_sums_in_float32(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)))
    assert plugin.mixed_precision_policy == MixedPrecisionPolicy(torch.bfloat16, torch.float32, None)
    engine.keep_sums_in_float32(SimpleNamespace(state=SimpleNamespace()))  # no FSDP: nothing to set


def test_lock_of_a_killed_build_is_removed(launcher, monkeypatch, tmp_path, caplog):
    """PyTorch waits for ever while this file exists."""
    launcher({"TORCH_EXTENSIONS_DIR": str(tmp_path / "operators")})
    lock = tmp_path / "operators" / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    seen = []
    builder = SimpleNamespace(name="cpu_adam", load=lambda verbose: seen.append(lock.exists()))
    monkeypatch.setattr(engine, "_builders", lambda names: [builder])
    engine.load_operators(engine.ADAM)
    assert seen == [False]
    assert "cpu_adam/lock: a build that was killed left this lock; removed" in caplog.text


def test_compiling_for_an_environment_is_said_once(launcher, monkeypatch, tmp_path, caplog):
    """In a folder that the user names, another environment finds the operators of this one, and compiles anew."""
    launcher({"TORCH_EXTENSIONS_DIR": str(tmp_path / "operators")})
    builder = SimpleNamespace(name="cpu_adam", load=lambda verbose: None)
    monkeypatch.setattr(engine, "_builders", lambda names: [builder])

    def said():
        caplog.clear()
        with caplog.at_level("INFO", "jpllm"):
            engine.load_operators(engine.ADAM)
        return [line.split(",")[0].split(" in ")[0] for line in caplog.messages]

    first = ["compiling DeepSpeed's operator cpu_adam", "cpu_adam: compiled"]
    assert said() == first
    assert said() == []
    monkeypatch.setenv("CXX", "another-c++")
    assert said() == first


def test_operators_have_a_folder_for_each_environment(launcher, tmp_path, monkeypatch):
    launcher({})
    folder = engine.operators_dir()
    assert folder == tmp_path / "jpllm" / "torch_extensions" / folder.name
    assert re.fullmatch(rf"py3\d+-torch{re.escape(torch.__version__)}-[0-9a-f]{{12}}", folder.name)
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(folder)
    with monkeypatch.context() as elsewhere:
        elsewhere.delenv("TORCH_EXTENSIONS_DIR")
        elsewhere.setattr(torch, "__file__", "/another/environment/torch/__init__.py")
        assert engine.operators_dir() not in (folder, folder.parent)


def test_without_a_compiler_there_is_one_message(launcher, monkeypatch):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    launcher({})
    monkeypatch.setattr(engine.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"there is no g\+\+ here"):
        engine.load_operators(engine.PROCESSES)


@pytest.fixture
def with_torch_xla(monkeypatch):
    monkeypatch.setattr(xla, "is_available", lambda: True)


@pytest.mark.usefixtures("with_torch_xla")
def test_the_launcher_for_tpus_asks_for_xla(launcher):
    launcher({"FORK_LAUNCHED": "1", "WORLD_SIZE": "8", "RANK": "0"})
    assert engine.requested() == Engine(8, "XLA")
    assert engine.requested().planned_as == "xla"
    assert engine.confirm(accelerator("XLA", 8)) == Engine(8, "XLA")
    with pytest.raises(InputError, match="asked for 8 processes, XLA, but what would train is one process, XLA"):
        engine.confirm(accelerator("XLA", 1))


@pytest.mark.usefixtures("with_torch_xla")
def test_recipes_whose_shapes_vary_are_refused_on_a_tpu(launcher, monkeypatch):
    monkeypatch.setattr(engine, "device", lambda: torch.device("xla"))
    launcher({"FORK_LAUNCHED": "1"})
    engine.prepare(has_fixed_shapes=True)
    with pytest.raises(InputError, match=r"tpu.yaml: on a TPU run cpt, and pretrain_scratch with objective: clm"):
        engine.prepare()


@pytest.mark.usefixtures("with_torch_xla")
def test_a_launch_that_accelerate_would_turn_into_xla_is_refused(launcher):
    launcher({})
    with pytest.raises(InputError, match=r"torch_xla is installed, and accelerate computes with it .* USE_TORCH_XLA=0"):
        engine.prepare(has_fixed_shapes=True)
