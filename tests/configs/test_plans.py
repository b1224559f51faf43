"""Every shipped file of a training run fits the machine that it names, and what its head says of that is true."""

import re

import pytest
import yaml

from jpllm.commands import plan as plan_command
from jpllm.config.parse import parse
from jpllm.planning import hardware
from jpllm.planning.recipes import run_of
from jpllm.planning.report import memory_size
from tests.configs import published_shapes
from tests.configs.test_configs import ROOT, YAMLS

TRAINING = [file for file in YAMLS if file.parent.name != "evaluate"]  # no plan is made of an evaluation
NAMES = [f"{file.parent.name}/{file.stem}" for file in TRAINING]
# What is not there before other commands have run: the shape that stands in for a model, the size of a vocabulary.
NEOX = ["--model", "neox-1b", "--vocab_size", "32000"]
TINY = ["--model", "llama-tiny", "--vocab_size", "4000"]
STAND_INS = {
    "classify/smoke_cpu": ["--model", "gpt2-tiny", "--vocab_size", "1500"],
    "cpt/demo_cpu": TINY,
    "cpt/gpt2_aozora": ["--model", "gpt2-small", "--vocab_size", "64000"],
    "cpt/smoke_cpu": ["--model", "gpt2-tiny", "--vocab_size", "1500"],
    "pretrain_scratch/aozora_tiny_cpu": ["--vocab_size", "16000"],
    "pretrain_scratch/demo_cpu": ["--vocab_size", "4000"],
    "pretrain_scratch/mlm_smoke_cpu": ["--vocab_size", "1500"],
    "pretrain_scratch/published_a": ["--vocab_size", "50570"],  # llm-jp-13b-v1.0's
    "pretrain_scratch/published_e": ["--vocab_size", "50257"],
    "pretrain_scratch/smoke_cpu": ["--vocab_size", "1500"],
    "sft/demo_cpu": TINY,
    "sft/lora_16gb": NEOX,
    "sft/neox_1b_12gb": NEOX,
    "sft/smoke_cpu": ["--model", "gpt2-tiny", "--vocab_size", "1500"],
}
BERT = ["--model", "bert-base", "--vocab_size", "32768"]  # of the files that name no model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    published_shapes.write(folder)
    (folder / "recipes").symlink_to(ROOT / "recipes")
    return folder


def report_of(file, monkeypatch, place):
    """The report of `jpllm plan --recipe RECIPE --config FILE` and what it stands on, without its screen."""
    monkeypatch.chdir(place)
    name, recipe = f"{file.parent.name}/{file.stem}", file.parent.name
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    words = STAND_INS.get(name, BERT if settings["model"] == "MODEL" else [])
    if recipe == "pretrain_scratch":
        words = words or ["--vocab_size", "32000"]
    machine, _, *configuration = parse(
        plan_command.classes_of(recipe), ["--config", str(file), *words], prog="jpllm plan", description=""
    )
    training = next(part for part in configuration if hasattr(part, "machine"))
    assert training.machine is not None, f"{name} names no machine"
    machine = hardware.for_machine(machine, training.machine)
    where = hardware.resolve(machine)
    run = run_of(recipe, *plan_command._with_shape(configuration), where)
    return plan_command.report_of(run, machine, where)


@pytest.mark.parametrize("file", TRAINING, ids=NAMES)
def test_shipped_file_fits_the_machine_that_it_names(file, monkeypatch, place):
    report = report_of(file, monkeypatch, place)
    memory, where = report.best.memory, report.where
    assert memory.claimed <= where.memory
    assert max(memory.host, memory.host_resuming) <= where.host
    assert not report.best.changes.keys() - {"engine"}
    head = re.match(r"(#.*\n)*", file.read_text(encoding="utf-8"))[0]
    if "# Planned:" in head:
        assert planned_line(report) in head
    launched = re.findall(r"accelerate_configs/(\w+)\.yaml", head)
    if launched:
        named = {"single_gpu": "single", "tpu": "xla"}
        assert named.get(launched[0], launched[0]) == report.best.setup.engine


def planned_line(report):
    numbers = report.numbers()
    gpu, host = (memory_size(numbers["memory"][key]) for key in ("peak_bytes", "host_bytes"))
    hours = f", {numbers['hours']:,.0f} hours" if numbers["hours"] else ""
    speed = f"{numbers['tokens_per_second']:,.0f} tokens a second"
    return f"# Planned: {gpu} on the GPU, {host} of host memory, {speed}{hours}.\n"


@pytest.mark.parametrize("name", published_shapes.CONFIGS)
def test_published_shape_has_the_published_number_of_parameters(name, place):
    from jpllm.models.pretrained import read_config
    from jpllm.planning.size import model_size

    assert model_size(read_config(place / name)).num_parameters == published_shapes.NUM_PARAMETERS[name]
