"""Every file of accelerate_configs/ and ds_configs/: accelerate and DeepSpeed take it, and it is what its name says."""

import contextlib
import json
import os
import subprocess
from types import SimpleNamespace

import pytest

from jpllm.training import engine
from jpllm.training.arguments import training_arguments
from jpllm.training.config import TrainingConfig
from tests.configs.test_configs import ROOT, YAMLS, load_recipe, parse_only

ACCELERATE = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
DEEPSPEED = sorted((ROOT / "ds_configs").glob("*.json"))
TRAINING = [
    file for file in YAMLS if "TrainingConfig" in (ROOT / "recipes" / f"{file.parent.name}.py").read_text("utf-8")
]
ENGINES = {
    "cpu": "one process",
    "single_gpu": "one process",
    "multi_gpu": "2 processes, DDP",
    "multi_node": "2 processes, DDP",
    "fsdp2": "2 processes, FSDP2",
    "zero1": "2 processes, DeepSpeed ZeRO-1",
    "zero2": "2 processes, DeepSpeed ZeRO-2",
    "zero2_offload": "one process, DeepSpeed ZeRO-2 with optimizer offload",
    "zero3": "2 processes, DeepSpeed ZeRO-3",
    "zero3_offload": "2 processes, DeepSpeed ZeRO-3 with optimizer and parameter offload",
}
NEEDS_TPU = {"tpu"}


def test_each_accelerate_file_has_an_expected_engine():
    assert {file.stem for file in ACCELERATE} == ENGINES.keys() | NEEDS_TPU
    assert {file.stem for file in DEEPSPEED} == {name for name in ENGINES if name.startswith("zero")}


@pytest.mark.parametrize("file", ACCELERATE, ids=lambda file: file.stem)
def test_accelerate_file_loads_and_leaves_the_precision_to_the_recipe(file):
    from accelerate.commands.config.config_args import load_config_from_file

    loaded = load_config_from_file(str(file))
    # where DeepSpeed's own file is named, accelerate refuses even "no" here
    assert loaded.mixed_precision == (None if loaded.deepspeed_config else "no")
    assert loaded.use_cpu == (file.stem == "cpu")
    assert file.read_text(encoding="utf-8").startswith("# ")
    if loaded.deepspeed_config:
        assert loaded.deepspeed_config["deepspeed_config_file"] == f"ds_configs/{file.stem}.json"
        assert (ROOT / loaded.deepspeed_config["deepspeed_config_file"]).is_file()


def test_the_launcher_for_tpus_finds_in_each_training_recipe_what_it_calls():
    from accelerate.commands.config.config_args import load_config_from_file

    loaded = load_config_from_file(str(ROOT / "accelerate_configs/tpu.yaml"))
    assert loaded.distributed_type.value == "XLA"
    for name in ("pretrain_scratch", "cpt", "sft", "classify"):
        assert callable(getattr(load_recipe(ROOT / "recipes" / f"{name}.py"), loaded.main_training_function))


def launched_environment(monkeypatch, *arguments: str) -> dict[str, str]:
    """The environment in which `accelerate launch ARGUMENTS recipe.py` would start the recipe, without starting it."""
    import torch.distributed.run
    from accelerate.commands import launch

    started = {}

    def run_with_torch(args):
        num_processes = int(args.nproc_per_node) * int(args.nnodes.rpartition(":")[2])
        started.update(os.environ, WORLD_SIZE=str(num_processes), RANK="0", LOCAL_RANK="0")

    def run_alone(command, env):
        started.update(env)
        return SimpleNamespace(wait=lambda: None, returncode=0)

    monkeypatch.setattr(torch.distributed.run, "run", run_with_torch)
    monkeypatch.setattr(launch.subprocess, "Popen", run_alone)
    launch.launch_command(launch.launch_command_parser().parse_args([*arguments, "recipe.py"]))
    return started


@pytest.mark.filterwarnings("ignore:Port .* is already in use")
@pytest.mark.parametrize("name", ENGINES)
def test_launching_with_the_file_asks_for_its_engine(name, monkeypatch):
    if name.startswith("zero"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    monkeypatch.chdir(ROOT)
    arguments = ["--config_file", f"accelerate_configs/{name}.yaml"]
    if name == "multi_node":
        arguments += ["--machine_rank", "1", "--main_process_ip", "127.0.0.1"]
    environment = launched_environment(monkeypatch, *arguments)
    monkeypatch.setattr(os, "environ", environment)
    assert str(engine.requested()) == ENGINES[name]


def test_two_cpu_processes_asked_for_and_one_started_is_noticed(monkeypatch):
    """`accelerate launch --cpu --num_processes 2` starts one process; it leaves nothing but MASTER_ADDR."""
    environment = launched_environment(monkeypatch, "--cpu", "--num_processes", "2")
    monkeypatch.setattr(os, "environ", environment)
    with pytest.raises(engine.InputError, match="several processes were asked for, but this one works alone"):
        engine.requested()


@contextlib.contextmanager
def deepspeed_settings(file, arguments):
    """DeepSpeed's settings in `file` with each "auto" filled in from Trainer's arguments."""
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig, unset_hf_deepspeed_config

    settings = HfTrainerDeepSpeedConfig(str(file))
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=768))
    settings.trainer_config_process(arguments)
    settings.trainer_config_finalize(arguments, model, num_training_steps=10)  # raises where they contradict each other
    yield settings.config
    unset_hf_deepspeed_config()  # or every model of the tests to come would be sharded


@pytest.mark.parametrize("recipe_file", TRAINING, ids=lambda file: f"{file.parent.name}/{file.stem}")
@pytest.mark.parametrize("file", DEEPSPEED, ids=lambda file: file.stem)
def test_deepspeed_file_agrees_with_each_recipe(file, recipe_file, monkeypatch, tmp_path):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # written by training_arguments; put back afterwards
    recipe = load_recipe(ROOT / "recipes" / f"{recipe_file.parent.name}.py")
    parsed = parse_only(monkeypatch, recipe.main, ["--config", str(recipe_file), "--output_dir", str(tmp_path)])
    (config,) = (part for part in parsed if isinstance(part, TrainingConfig))
    for precision in ("fp32", "fp16", "bf16"):
        arguments = training_arguments(config, max_steps=10, precision=precision)
        with deepspeed_settings(file, arguments) as settings:
            assert '"auto"' not in json.dumps(settings)
            assert settings["train_micro_batch_size_per_gpu"] == config.per_device_train_batch_size
            assert settings["gradient_clipping"] == config.max_grad_norm
            assert {name for name in ("fp16", "bf16") if settings[name]["enabled"]} == {precision} - {"fp32"}
            DeepSpeedZeroConfig(**settings["zero_optimization"])  # these three refuse keys that they do not know
            DeepSpeedFP16Config(**settings["fp16"])
            DeepSpeedBF16Config(**settings["bf16"])
            DeepSpeedConfig(settings)


@pytest.mark.parametrize("file", DEEPSPEED, ids=lambda file: file.stem)
def test_no_value_has_two_owners(file):
    """What Trainer knows is "auto"; optimizer and schedule, with the groups without weight decay, are the recipe's."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    assert "optimizer" not in settings
    assert "scheduler" not in settings
    batches = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    assert {settings[key] for key in (*batches, "gradient_clipping")} == {"auto"}
    assert settings["fp16"]["enabled"] == settings["bf16"]["enabled"] == "auto"
    assert settings["zero_optimization"]["reduce_bucket_size"] == 50_000_000  # twice 0.1 GB in half precision


def test_schema_refuses_an_unknown_key():
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    with pytest.raises(ValueError, match="reduce_bucket"):
        DeepSpeedZeroConfig(stage=2, reduce_bucket=5)


def test_slurm_starts_one_launcher_per_machine_with_its_rank(tmp_path):
    """The script with stand-ins for Slurm and accelerate, as two machines of four GPUs each."""
    tools = {
        "scontrol": 'printf "node7\\nnode8\\n"',
        "srun": 'for rank in 0 1; do SLURM_NODEID=$rank "$@"; done',
        "accelerate": 'printf "%s|" "$@"; echo',
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2"}
    script = ROOT / "accelerate_configs" / "slurm_multi_node.sh"
    done = subprocess.run(
        ["bash", script, "recipes/cpt.py", "--sample_prompts", "今日は 晴れ", "b"],
        cwd=tmp_path,
        env={**environment, "SLURM_GPUS_ON_NODE": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    launcher = "launch|--config_file|accelerate_configs/multi_node.yaml|--num_machines|2|--num_processes|8|"
    address = "--main_process_ip|node7|--main_process_port|29500|"
    recipe = "recipes/cpt.py|--sample_prompts|今日は 晴れ|b|"
    assert done.stdout.splitlines() == [f"{launcher}--machine_rank|{rank}|{address}{recipe}" for rank in (0, 1)]
