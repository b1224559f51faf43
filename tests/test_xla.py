"""XLA devices: what is decided without torch_xla, and, where it is installed, what a device computes."""

import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jpllm import runtime, xla
from jpllm.data.corpus import EncodedText
from jpllm.evaluation import perplexity
from jpllm.models.build import host_copy
from jpllm.runtime import EXIT_STOPPED_EARLY, InputError, StoppedEarly
from tests.conftest import ROOT

needs_torch_xla = pytest.mark.skipif(
    importlib.util.find_spec("torch_xla") is None, reason="torch_xla is not installed (make tpu-venv)"
)


@pytest.fixture
def installed(monkeypatch):
    """torch_xla can be found, whether it is there or not."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "torch_xla" or find_spec(name))
    monkeypatch.delenv("USE_TORCH_XLA", raising=False)
    monkeypatch.delenv("FORK_LAUNCHED", raising=False)


@pytest.mark.usefixtures("installed")
def test_it_is_launched_where_the_launcher_says_so_and_it_is_not_switched_off(monkeypatch):
    assert (xla.is_available(), xla.is_launched()) == (True, False)
    monkeypatch.setenv("FORK_LAUNCHED", "1")
    assert xla.is_launched()
    for off in ("0", "false"):
        monkeypatch.setenv("USE_TORCH_XLA", off)
        assert (xla.is_available(), xla.is_launched()) == (False, False)


def test_without_the_package_nothing_is_launched(monkeypatch):
    """notebook_launcher starts GPU processes with the same variable."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("USE_TORCH_XLA", raising=False)
    monkeypatch.setenv("FORK_LAUNCHED", "1")
    assert not xla.is_launched()


@pytest.fixture
def eight_cores(monkeypatch):
    """torch_xla as it is in the fourth of eight processes."""
    figures = {"global_ordinal": 3, "world_size": 8, "local_ordinal": 3, "local_process_count": 8}
    stand_in = SimpleNamespace(**{name: (lambda value=value: value) for name, value in figures.items()})
    stand_in.addressable_device_count = lambda: 1
    monkeypatch.setitem(sys.modules, "torch_xla", SimpleNamespace(runtime=stand_in))
    monkeypatch.setitem(sys.modules, "torch_xla.runtime", stand_in)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    return stand_in


def test_ranks_are_where_other_launchers_put_them(eight_cores):
    xla.take_rank()
    assert (runtime.process_rank(), runtime.num_processes()) == (3, 8)
    assert not runtime.is_main_process()
    eight_cores.addressable_device_count = lambda: 2
    with pytest.raises(RuntimeError, match="several XLA devices"):
        xla.take_rank()


@pytest.mark.usefixtures("installed")
def test_a_recipe_that_is_launched_takes_its_rank_and_ends_with_its_exit_code(monkeypatch, eight_cores):
    monkeypatch.setenv("FORK_LAUNCHED", "1")
    ranks = []
    runtime.run_recipe(lambda: ranks.append(runtime.process_rank()))
    assert ranks == [3]

    def stopped():
        raise StoppedEarly("enough")

    def refused():
        raise InputError("no")

    for main, code in ((stopped, EXIT_STOPPED_EARLY), (refused, runtime.EXIT_BAD_INPUT)):
        with pytest.raises(SystemExit) as left:
            runtime.run_recipe(main)
        assert left.value.code == code


def test_processes_of_one_launcher_tell_each_other_numbers_in_host_memory():
    """The launcher is this process: both find each other by its number and the moment of its start."""
    code = (
        "from types import SimpleNamespace; import torch; from jpllm import xla; from jpllm.training import engine;"
        "xla.is_launched = lambda: True; xla.connect_processes(); rank = torch.distributed.get_rank();"
        "args = SimpleNamespace(world_size=2, device=torch.device('xla'));"
        "print(rank, engine.any_process(rank == 1, args), engine.any_process(False, args), flush=True);"
        "torch.distributed.destroy_process_group()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "USE_TORCH_XLA": "0"},
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=120)[0].splitlines()[-1] for process in processes]  # below words of gloo's
    assert printed == ["0 True False", "1 True False"]


def test_a_process_alone_needs_no_group(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    xla.connect_processes()
    assert not torch.distributed.is_initialized()


def test_tied_weights_are_one_tensor_on_the_host_too(monkeypatch):
    monkeypatch.setattr(xla, "sync", lambda: None)
    model = torch.nn.ModuleDict({"inputs": torch.nn.Embedding(3, 2), "outputs": torch.nn.Linear(2, 3, bias=False)})
    model["outputs"].weight = model["inputs"].weight
    state = xla.state_on_host(model)
    assert list(state) == ["inputs.weight", "outputs.weight"]
    assert state["inputs.weight"] is state["outputs.weight"]
    assert torch.equal(state["inputs.weight"], model["inputs"].weight)
    assert not state["inputs.weight"].requires_grad


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def on_xla(monkeypatch):
    monkeypatch.setenv("PJRT_DEVICE", "CPU")


def text(num_tokens):
    ids = np.random.default_rng(num_tokens).integers(1, 50, num_tokens)
    return EncodedText("text", ["x"], ids)


@needs_torch_xla
@pytest.mark.usefixtures("on_xla")
def test_texts_of_all_lengths_are_scored_with_one_set_of_graphs():
    model, arguments = gpt2(), {"eos_token_id": 0, "context_length": 8, "batch_size": 3}
    texts = [text(num_tokens) for num_tokens in (21, 5, 40, 1)]
    expected = perplexity.score(model, texts, **arguments)
    on_device = gpt2().to(xla.device())
    perplexity.score(on_device, texts[:1], **arguments)
    num_compilations = xla.num_compilations()
    scores = perplexity.score(on_device, texts, **arguments)
    assert [score.nll_nats for score in scores] == pytest.approx([score.nll_nats for score in expected], rel=1e-5)
    assert xla.num_compilations() == num_compilations


@needs_torch_xla
@pytest.mark.usefixtures("on_xla")
def test_a_copy_on_the_host_is_the_same_model_and_whole():
    model = gpt2()
    copied = host_copy(gpt2().to(xla.device()))
    assert copied.device.type == "cpu"
    assert copied.lm_head.weight is copied.transformer.wte.weight
    ids = torch.arange(6)[None]
    assert torch.equal(copied.eval()(ids).logits, model(ids).logits)


@needs_torch_xla
@pytest.mark.usefixtures("on_xla")
def test_steps_that_an_optimizer_counts_are_read_on_the_host_after_loading():
    from jpllm.training.optimizer import keep_steps_on_host

    weight = torch.nn.Parameter(torch.ones(2, device=xla.device()))
    optimizer = torch.optim.AdamW([weight])
    keep_steps_on_host(optimizer)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["step"] = state["state"][0]["step"].to(xla.device())  # as accelerate does
    optimizer.load_state_dict(state)
    assert optimizer.state[weight]["step"].device.type == "cpu"
    assert optimizer.state[weight]["step"] == 1
    assert optimizer.state[weight]["exp_avg"].device.type == "xla"


@needs_torch_xla
@pytest.mark.usefixtures("on_xla")
def test_checkpointed_layers_have_the_gradients_of_others():
    """In a process of its own: PyTorch sets up backward passes once, and for XLA only where that was there before."""
    code = "from tests.test_xla import check_gradients; check_gradients()"
    environment = {**os.environ, "USE_TORCH_XLA": "0"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment, timeout=300)


def check_gradients() -> None:
    """Compare them, by a private attribute of transformers 5.23, whose layers would else look for torch.xla."""
    gradients = []
    for is_checkpointed in (False, True):
        model = gpt2().train().to(xla.device())
        model.tie_weights()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if is_checkpointed:
            xla.checkpoint_activations(model)
        ids = torch.arange(8, device=xla.device())[None]
        model(ids, labels=ids).loss.backward()
        gradients.append(model.transformer.h[0].mlp.c_fc.weight.grad.cpu())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)
