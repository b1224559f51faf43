"""The engine below Trainer: what the launcher asked for, what really runs, and what must hold before the first step.

The files in `accelerate_configs/` choose the engine, and the launcher hands the choice down in the environment. Some
choices get lost there without a word: `accelerate launch --cpu --num_processes 2` starts one process, FSDP on a CPU
becomes DDP. So what was asked for is read from the environment, what runs from accelerate's state, and a difference
ends the run. DeepSpeed's C++ operators are loaded here too, so that a build that was killed does no harm.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import sys
import sysconfig
import time
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from jpllm import xla
from jpllm.runtime import InputError, device, is_main_process, num_processes
from jpllm.whole_files import write_whole

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import TrainingArguments

    from jpllm.training.trainer import BaseTrainer

_BUILT_FOR_NAME = "jpllm_environment"  # beside an operator
FOLDER_VARIABLE = "TORCH_EXTENSIONS_DIR"  # of PyTorch; where it is set, it is obeyed
PROCESSES = "ShareMemCommBuilder"  # collectives between processes on CPUs; every DeepSpeed run without a GPU loads it
ADAM = "CPUAdamBuilder"  # AdamW in host memory; optimizer offload needs it
PlannedEngine = Literal["single", "ddp", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload", "fsdp2", "xla"]
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """How many processes train one model, and what joins them: DDP, FSDP2, DeepSpeed ZeRO-…, XLA; "" joins nothing."""

    num_processes: int
    name: str

    def __str__(self) -> str:
        processes = "one process" if self.num_processes == 1 else f"{self.num_processes} processes"
        return ", ".join(filter(None, (processes, self.name)))

    @property
    def planned_as(self) -> PlannedEngine | None:
        """Its name in plans; None where its memory is not estimated."""
        name = None
        if self.name in ("", "DDP", "FSDP2", "XLA"):
            name = self.name.lower() or "single"
        elif stage := re.fullmatch(r"DeepSpeed ZeRO-(\d)( with .*offload)?", self.name):
            name = f"zero{stage[1]}{'_offload' if stage[2] else ''}"
        return next((planned for planned in get_args(PlannedEngine) if planned == name), None)


def prepare(has_fixed_shapes: bool = False) -> None:
    """Make ready for the engine that the launcher asked for. Call it first, so that a wrong launch fails at once.

    The model has to be built before these arguments too: with them, ZeRO-3 makes every new model an empty shell.
    `has_fixed_shapes` says that all batches, also those of evaluations, are of one shape, as XLA needs it.

    Raises:
        InputError: the launcher started fewer processes than it was asked for, or the engine cannot run here.
    """
    asked = requested()
    _refuse_impossible_xla(asked, has_fixed_shapes)
    on_cpu = device().type == "cpu"
    if on_cpu:  # accelerate imports DeepSpeed where it is installed, and it would say that it found no GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if on_cpu and asked.name.startswith("FSDP"):
        raise InputError(
            f"{asked.name} needs GPUs: on CPUs accelerate would run DDP instead; launch with "
            "accelerate_configs/multi_gpu.yaml (it starts CPU processes where there is no GPU), or zero3.yaml"
        )
    if not asked.name.startswith("DeepSpeed"):
        return
    if _is_set("ACCELERATE_USE_CPU"):
        raise InputError("ACCELERATE_USE_CPU: accelerate leaves DeepSpeed out where it is set; unset it")
    # DeepSpeed calls these by their old names, and PyTorch says so in every step
    old_names = "(all_gather_into_tensor|reduce_scatter_tensor)"
    warnings.filterwarnings("ignore", rf"`torch.distributed.{old_names}` is deprecated", FutureWarning)
    needed = {PROCESSES: on_cpu, ADAM: "optimizer" in asked.name}
    if any(needed.values()):
        load_operators(*(name for name, is_needed in needed.items() if is_needed))


def requested() -> Engine:
    """Return what the launcher asked for, read from its environment variables.

    Raises:
        InputError: several processes were asked for and one was started alone, or DeepSpeed's file cannot be read.
    """
    if xla.is_launched():
        return Engine(num_processes(), "XLA")
    # accelerate sets MASTER_ADDR where several processes are asked for; who starts several sets WORLD_SIZE too.
    asked_for_several = "MASTER_ADDR" in os.environ or any(int(os.environ.get(name, "1")) > 1 for name in _MPI_SIZES)
    if asked_for_several and "WORLD_SIZE" not in os.environ:
        raise InputError(
            "several processes were asked for, but this one works alone, as with accelerate launch --cpu: write "
            "accelerate launch --config_file accelerate_configs/multi_gpu.yaml --num_processes N, which starts CPU "
            "processes where there is no GPU"
        )
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        return Engine(num_processes(), _zero_name(_requested_zero()))
    if _is_set("ACCELERATE_USE_FSDP"):
        return Engine(num_processes(), f"FSDP{os.environ.get('FSDP_VERSION', '1')}")
    return Engine(num_processes(), "DDP" if num_processes() > 1 else "")


def running(accelerator: Accelerator) -> Engine:
    """Return the engine that Trainer's accelerator has set up."""
    state: Any = accelerator.state  # plugins that are not asked for are None in it
    kind = accelerator.distributed_type.value
    if kind == "DEEPSPEED":
        name = _zero_name(state.deepspeed_plugin.deepspeed_config["zero_optimization"])
    elif kind == "FSDP":
        name = f"FSDP{state.fsdp_plugin.fsdp_version}"
    elif kind == "XLA":
        name = kind
    elif kind in ("NO", "MULTI_CPU", "MULTI_GPU"):
        name = "DDP" if state.num_processes > 1 else ""
    else:
        name = kind
    return Engine(state.num_processes, name)


def confirm(accelerator: Accelerator) -> Engine:
    """Return the engine that runs, once it is known to be the wanted one. Call it before the first step.

    Raises:
        InputError: it is not what the launcher asked for, or its settings would not let the whole model be saved.
    """
    asked, runs = requested(), running(accelerator)
    state: Any = accelerator.state
    if asked != runs:
        raise InputError(f"the launcher asked for {asked}, but what would train is {runs}; see accelerate_configs/")
    if runs.name.startswith("FSDP") and "FULL" not in str(state.fsdp_plugin.state_dict_type):
        raise InputError("fsdp_state_dict_type: write FULL_STATE_DICT; with others no model can be saved at the end")
    if runs.name.startswith("DeepSpeed ZeRO-3"):
        zero = state.deepspeed_plugin.deepspeed_config["zero_optimization"]
        key = "stage3_gather_16bit_weights_on_model_save"
        if not zero.get(key):
            raise InputError(f"{key}: write true in DeepSpeed's file; without it no model can be saved at the end")
    return runs


def keep_sums_in_float32(accelerator: Accelerator) -> None:
    """Let FSDP2 add up gradients, and give the loss, in float32, as all other engines do.

    accelerate (1.15) also casts both to the type of the products: with bf16 a logged loss of 8.3 is off by up to 0.03.
    Call it before the model is prepared.
    """
    import torch

    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
        )


def repeat_adam_decays(trainer: BaseTrainer) -> None:
    """Bring DeepSpeed's AdamW for host memory to the state that it had when the checkpoint was written.

    It multiplies its powers of the betas step by step, and takes `pow` after a checkpoint was loaded; in float32 the
    two differ, and so do the losses some steps later (DeepSpeed 0.19, `cpu_adam.h`). Steps on empty tensors multiply
    anew. Call it when the checkpoint has been loaded, before the first step; other optimizers are left alone.
    """
    import torch

    optimizer: Any = getattr(getattr(trainer.deepspeed, "optimizer", None), "optimizer", None)
    if type(optimizer).__name__ != "DeepSpeedCPUAdam":
        return
    group, nothing = optimizer.param_groups[0], torch.zeros(0)
    num_steps = max((int(state["step"]) for state in optimizer.state.values()), default=0)
    settings = (group["lr"], *group["betas"], group["eps"], group["weight_decay"], group["bias_correction"])
    for step in range(1, num_steps + 1):
        optimizer.ds_opt_adam.adam_update(optimizer.opt_id, step, *settings, nothing, nothing, nothing, nothing)


def release(trainer: BaseTrainer) -> None:
    """Give back the memory of optimizer and engine when training is over; below DeepSpeed the model's weights too.

    Without this the proof of a 0.778 B model needs 3 GB more host memory than its training, for the model that is read
    back: DeepSpeed 0.19 leaves hooks on the model that hold its optimizer, so that one is emptied here.
    Models that are loaded from here on are whole in every process, also after training with ZeRO-3.
    """
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    zero_optimizer = trainer.deepspeed.optimizer if trainer.is_deepspeed_enabled else None
    trainer.optimizer = trainer.lr_scheduler = trainer.deepspeed = None
    trainer.callback_handler.optimizer = trainer.callback_handler.lr_scheduler = None
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()
    if zero_optimizer is not None:
        zero_optimizer.optimizer.state.clear()
        zero_optimizer.optimizer.param_groups.clear()
        vars(zero_optimizer).clear()
        for parameter in trainer.model.parameters():
            vars(parameter).clear()
            parameter.grad = None
            parameter.data = parameter.data.new_empty(0)
        gc.collect()
    else:
        trainer.model.to("cpu")
    if trainer.args.device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
    unset_hf_deepspeed_config()


def any_process(value: bool, arguments: TrainingArguments) -> bool:
    """Return whether `value` is true in any process of the training; to be called in all of them."""
    import torch

    if arguments.world_size == 1:
        return value
    flag = torch.tensor(int(value), device="cpu" if xla.is_launched() else arguments.device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def from_main_process(value: Any, arguments: TrainingArguments) -> Any:
    """Return the value that the main process has; to be called in all processes of the training."""
    import torch

    found = [value]
    if arguments.world_size > 1:
        torch.distributed.broadcast_object_list(found)
    return found[0]


def load_operators(*names: str) -> None:
    """Load operators into this process, compiling them on first use: one to three minutes each on two cores.

    PyTorch guards a build with a file that stays behind when the build is killed, and every later run waits for it
    without a word. Here the operating system's lock is held around all of it, so such a file has no owner and is
    removed. What was built for another environment, in a folder that `TORCH_EXTENSIONS_DIR` names, is built anew.
    DeepSpeed takes what is loaded already and does not build again.

    Raises:
        InputError: DeepSpeed or a C++ compiler is not installed.
    """
    from filelock import FileLock

    builders = _builders(names)
    directory, environment = operators_dir(), _environment()
    with FileLock(directory / "jpllm.lock"):
        for builder in builders:
            baton = directory / builder.name / "lock"
            if baton.exists():
                logger.warning("%s: a build that was killed left this lock; removed", baton)
                baton.unlink()
            built_for = baton.parent / _BUILT_FOR_NAME
            has_to_compile = not (built_for.exists() and built_for.read_text(encoding="utf-8") == environment)
            if has_to_compile and is_main_process():
                logger.info(
                    "compiling DeepSpeed's operator %s, once for this environment, to %s: one to three minutes on two "
                    "cores",
                    *(builder.name, baton.parent),
                )
            started = time.monotonic()
            with redirect_stdout(sys.stderr):  # stdout is for results
                builder.load(verbose=False)
            if has_to_compile:
                baton.parent.mkdir(exist_ok=True)
                write_whole(built_for, environment)
                logger.info("%s: compiled in %.0f s", builder.name, time.monotonic() - started)


def has_fp16() -> bool:
    """Return whether DeepSpeed computes fp16 on the accelerator that it has chosen.

    On a CPU that is where oneDNN has fp16 products: with the instructions avx512_fp16, as a Xeon of the fourth
    generation has them.

    Raises:
        InputError: DeepSpeed is not installed.
    """
    return bool(_accelerator().is_fp16_supported())


def operators_dir() -> Path:
    """Return the folder of compiled operators, for this environment alone, and tell PyTorch of it."""
    import torch

    if FOLDER_VARIABLE not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        version = f"py{sys.version_info.major}{sys.version_info.minor}-torch{torch.__version__}"
        os.environ[FOLDER_VARIABLE] = str(cache / "jpllm" / "torch_extensions" / f"{version}-{_environment()}")
    directory = Path(os.environ[FOLDER_VARIABLE])
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _environment() -> str:
    """Return a fingerprint of all that a compiled operator depends on.

    Those are the paths of PyTorch, DeepSpeed and Python, which a build names, the compiler, and the instructions of the
    processor, for which it is made.
    """
    import torch

    deepspeed = importlib.util.find_spec("deepspeed")
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else [platform.processor()]
    instructions = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    facts = [torch.__file__, torch.__version__, sysconfig.get_path("include"), os.environ.get("CXX", ""), instructions]
    if deepspeed is not None:
        facts += [str(deepspeed.origin), importlib.metadata.version("deepspeed")]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def _refuse_impossible_xla(asked: Engine, has_fixed_shapes: bool) -> None:
    if asked.name == "XLA" and not has_fixed_shapes:
        raise InputError(
            "accelerate_configs/tpu.yaml: on a TPU run cpt, and pretrain_scratch with objective: clm; other recipes "
            f"have batches of many shapes, and each would be compiled: use a GPU, or the CPU with {xla.SWITCH}=0"
        )
    if asked.name != "XLA" and xla.is_available():
        raise InputError(
            "torch_xla is installed, and accelerate computes with it wherever it is: launch with accelerate launch "
            f"--config_file accelerate_configs/tpu.yaml, or, to leave it out, set {xla.SWITCH}=0 before the command"
        )


def _requested_zero() -> dict:
    """Return the `zero_optimization` part of DeepSpeed's file, or one made from accelerate's own variables."""
    prefix = "ACCELERATE_DEEPSPEED_"
    file = os.environ.get(f"{prefix}CONFIG_FILE")
    if file is None:
        offload = {
            f"offload_{what}": {"device": os.environ.get(f"{prefix}OFFLOAD_{what.upper()}_DEVICE", "none")}
            for what in ("optimizer", "param")
        }
        return {"stage": int(os.environ.get(f"{prefix}ZERO_STAGE", "2")), **offload}
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))["zero_optimization"]
    except FileNotFoundError:
        raise InputError(f"deepspeed_config_file: no {file} here; launch from the root of the repository") from None
    except (ValueError, KeyError) as error:
        raise InputError(f"{file}: not a DeepSpeed configuration with a zero_optimization part: {error}") from error


def _zero_name(zero: dict) -> str:
    parts = {"offload_optimizer": "optimizer", "offload_param": "parameter"}
    offloaded = [what for key, what in parts.items() if zero.get(key, {}).get("device", "none") != "none"]
    return f"DeepSpeed ZeRO-{zero['stage']}" + (f" with {' and '.join(offloaded)} offload" if offloaded else "")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")


def _builders(names: tuple[str, ...]) -> list:
    """Return DeepSpeed's builder of each operator, without those that this platform has no use for."""
    accelerator = _accelerator()
    if not shutil.which("g++"):
        raise InputError("DeepSpeed compiles C++ on first use, and there is no g++ here: apt install g++")
    if not shutil.which("ninja"):  # installed, but the virtual environment is not active
        import ninja

        os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, os.environ["PATH"]])
    found = (accelerator.create_op_builder(name) for name in names)
    return [builder for builder in found if builder is not None and builder.is_compatible(verbose=False)]


def _accelerator():
    """Return DeepSpeed's view of the device that it computes on."""
    try:
        import ninja  # noqa: F401 — builders need it, and it comes with the same extra
        from deepspeed.accelerator import get_accelerator
    except ImportError:
        raise InputError("DeepSpeed is not installed: pip install -c constraints.txt -e '.[deepspeed]'") from None
    return get_accelerator()
