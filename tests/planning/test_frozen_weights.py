"""Memory of models that somebody published: LoRA beside weights in 16 and in 4 bits, and weights trained in bf16."""

import json
from dataclasses import replace

import pytest

from jpllm import cli
from jpllm.planning import calibrate
from jpllm.planning.hardware import Hardware, HardwareConfig, for_machine
from jpllm.planning.memory import (
    HOST_OVERHEAD_BYTES,
    checkpoint_bytes,
    estimate,
    held_bytes,
    merging_bytes,
    model_bytes,
    optimizer_bytes,
    rehearsal_of,
)
from jpllm.planning.rehearsal import rehearse
from jpllm.planning.search import Search
from jpllm.planning.setup import TrainingSetup, is_possible
from jpllm.planning.size import model_size
from jpllm.runtime import InputError
from jpllm.training.config import Machine, TrainingConfig
from jpllm.training.recipe_configs import WeightsConfig

pytest.importorskip("peft", reason="peft is not installed")
NEEDS_BITSANDBYTES = "bitsandbytes is not installed"
HIDDEN, INNER, VOCABULARY, LAYERS = 64, 128, 500, 2
LINEAR = LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * INNER)  # q, k, v, o; gate, up, down
TABLES, NORMS = 2 * VOCABULARY * HIDDEN, (2 * LAYERS + 1) * HIDDEN
LORA_RANK = 4
LORA = LAYERS * LORA_RANK * (4 * 2 * HIDDEN + 3 * (HIDDEN + INNER))
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # half a byte, an 8-bit scale for 64, a float32 scale for 256 of these


def llama_config(**settings):
    from transformers import LlamaConfig

    shape = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    return LlamaConfig(**shape, num_attention_heads=4, max_position_embeddings=512, **settings)


def setup_of(held="bfloat16", saved="bfloat16", quantization="none", **settings):
    weights = WeightsConfig(lora_rank=LORA_RANK, quantization=quantization, save=settings.pop("save", "merged"))
    parts = weights.trained_parts(held, saved)
    given = {"micro_batch": 2, "sequence_length": 128, "arithmetic": "bf16"} | settings
    return TrainingSetup(**given, trained_parts=parts)


def size_of(setup):
    return model_size(llama_config(), trained_parts=setup.trained_parts)


@pytest.mark.parametrize(
    ("held", "quantization", "linear", "other"),
    [("bfloat16", "none", 2, 2), ("float32", "none", 4, 4), ("bfloat16", "nf4", NF4, 2)],
)
def test_frozen_weights_take_the_bytes_of_their_number_format(held, quantization, linear, other):
    setup = setup_of(held, quantization=quantization)
    size = size_of(setup)
    assert (size.num_four_bit, size.num_added, size.num_largest_frozen) == (LINEAR, LORA, HIDDEN * INNER)
    assert held_bytes(size, setup) == round(linear * LINEAR + other * (TABLES + NORMS) + 4 * LORA)
    assert optimizer_bytes(size, setup) == 8 * LORA


def test_nf4_takes_at_most_six_tenths_of_a_byte():
    setup = setup_of(quantization="nf4")
    size = size_of(setup)
    outside = held_bytes(replace(size, num_four_bit=0, num_parameters=size.num_parameters - LINEAR), setup)
    assert (held_bytes(size, setup) - outside) / LINEAR <= 0.6


def test_zero_halves_what_lora_holds_too():
    setup = setup_of("float32", engine="zero2")
    assert held_bytes(size_of(setup), setup) == 2 * (LINEAR + TABLES + NORMS + LORA)


def test_weights_that_learn_in_bf16():
    """Their gradients and both moments have two bytes too."""
    weights = WeightsConfig(dtype="bfloat16").trained_parts("bfloat16", "bfloat16")
    setup = TrainingSetup(2, 128, arithmetic="bf16", trained_parts=weights)
    size = size_of(setup)
    step = rehearse(llama_config(), rehearsal_of(setup))
    everything = LINEAR + TABLES + NORMS
    found = estimate(size, setup, step)
    assert (found.states.weights, found.states.optimizer, found.states.at_step) == tuple(
        factor * everything for factor in (2, 4, 2)
    )
    assert step.autocast == 0


def test_16_bit_weights_have_no_copies_in_half_precision_but_loras():
    whole, half = (rehearse(llama_config(), rehearsal_of(setup_of(held))) for held in ("float32", "bfloat16"))
    assert half.autocast == 2 * LORA
    assert whole.autocast > half.autocast


def test_a_4_bit_layer_makes_its_weight_16_bit_for_a_moment_in_the_backward_pass():
    pytest.importorskip("bitsandbytes", reason=NEEDS_BITSANDBYTES)
    config = llama_config()
    config.intermediate_size = 64 * HIDDEN  # so large that its matrices decide
    setup = setup_of(quantization="nf4", sequence_length=8, micro_batch=1)
    nf4, half = (
        rehearse(config, rehearsal_of(one)) for one in (setup, replace(setup, trained_parts=setup_of().trained_parts))
    )
    largest = 64 * HIDDEN * HIDDEN
    assert half.temporary < 2 * largest <= nf4.temporary < 4 * largest


def test_host_memory_of_an_adapted_model():
    """Pages of files are the system's; what loading converts is not, nor the trained model while it is proved."""
    mapped, converted, nf4 = setup_of(), setup_of("float16"), setup_of(quantization="nf4")
    for setup, expected in [
        (mapped, held_bytes(size_of(mapped), mapped)),
        (converted, held_bytes(size_of(converted), converted) + 2 * (LINEAR + TABLES + NORMS)),
        (nf4, max(held_bytes(size_of(nf4), nf4), merging_bytes(size_of(nf4), nf4))),
    ]:
        step = rehearse(llama_config(), rehearsal_of(setup_of()))
        assert estimate(size_of(setup), setup, step).host == HOST_OVERHEAD_BYTES + expected
    assert merging_bytes(size_of(nf4), nf4) == (2 + 2 + 3 * 4) * HIDDEN * INNER
    assert merging_bytes(size_of(nf4), setup_of(quantization="nf4", save="adapter")) == 0


def test_a_cpu_holds_a_second_model_where_the_proof_converts_it():
    setup = setup_of("float32", arithmetic="fp32", on_gpu=False, micro_batch=1, sequence_length=8)
    found = estimate(size_of(setup), setup, rehearse(llama_config(), rehearsal_of(setup)))
    assert found.proof == 4 * (LINEAR + TABLES + NORMS)
    assert sum(found.parts().values()) == found.peak
    assert ("the saved model, to be proved" in found.parts()) == (
        found.states.weights + found.proof > max(found.tensors, found.lasting + found.evaluation)
    )


def test_what_is_written():
    setup = setup_of(quantization="nf4")
    size = size_of(setup)
    assert checkpoint_bytes(size, setup) == (4 + 8) * LORA
    assert model_bytes(size, setup) == 2 * (LINEAR + TABLES + NORMS)
    assert model_bytes(size, setup_of(quantization="nf4", save="adapter")) == 4 * LORA


def test_engines_that_cannot_hold_what_is_frozen():
    lora, nf4 = setup_of(), setup_of(quantization="nf4")
    possible = {
        engine: (is_possible(replace(lora, engine=engine)), is_possible(replace(nf4, engine=engine)))
        for engine in ("single", "ddp", "zero2_offload", "zero3", "fsdp2")
    }
    assert possible == {
        "single": (True, True),
        "ddp": (True, True),
        "zero2_offload": (True, False),
        "zero3": (False, False),
        "fsdp2": (False, False),
    }
    where = Hardware("a GPU", True, 1 << 33, None, True, 1, None, False)
    for setup, engine, words in ((nf4, "zero2_offload", "quantization: 4-bit"), (lora, "zero3", "cuts up weights")):
        with pytest.raises(InputError, match=words):
            Search(llama_config(), size_of(setup), where, engine).best(setup)


def test_five_real_steps_beside_4_bit_weights(tmp_path):
    pytest.importorskip("bitsandbytes", reason=NEEDS_BITSANDBYTES)
    setup = setup_of(quantization="nf4", on_gpu=False)
    training = TrainingConfig(output_dir=tmp_path, tokens=1, precision="bf16", per_device_train_batch_size=2)
    assert calibrate.measure(llama_config(bos_token_id=0, eos_token_id=0), training, setup).tokens_per_second > 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with nothing but a configuration, as the page of a model shows it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "published").mkdir()
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "vocab_size": 32_000,
        "max_position_embeddings": 2048,
        "dtype": "bfloat16",
    }
    (tmp_path / "published" / "config.json").write_text(json.dumps(config))
    return tmp_path / "published"


def plan(capsys, *words):
    """What `jpllm plan …` prints of a run of cpt with LoRA on a model that is not there."""
    usual = ["--recipe", "cpt", "--model", "published", "--sources", "none.jsonl", "--tokens", "1000000"]
    code = cli.main(["plan", *usual, "--output_dir", "run", "--gpu", "t4", "--lora_rank", "16", *words])
    return code, capsys.readouterr().out


def rows(text, name):
    return [line.split()[-2] for line in text.splitlines() if line.strip().startswith(name)]


def test_a_configuration_alone_is_planned_with(folder, capsys):
    """A T4 holds what was saved in bf16 in fp16; frozen weights in 2 bytes, LoRA's in 4."""
    code, text = plan(capsys)
    assert code == 0
    num_linear = 8 * (4 * 1024**2 + 3 * 1024 * 2816)
    num_frozen = num_linear + 2 * 32_000 * 1024 + 17 * 1024
    num_lora = 8 * 16 * (4 * 2048 + 3 * 3840)
    assert f"{num_frozen:,} parameters" in text
    assert rows(text, "weights") == [f"{(2 * num_frozen + 4 * num_lora) / (1 << 20):.0f}"]
    (folder / "tokenizer.json").write_text("{}")
    assert cli.main(["plan", "--recipe", "cpt", "--model", "published", "--sources", "a", "--output_dir", "b"]) == 2


def test_4_bit_weights_are_planned_with_as_typed(folder, capsys):
    pytest.importorskip("bitsandbytes", reason=NEEDS_BITSANDBYTES)
    _, whole = plan(capsys)
    code, quantised = plan(capsys, "--quantization", "nf4")
    assert code == 0
    num_linear = 8 * (4 * 1024**2 + 3 * 1024 * 2816)
    saved = float(rows(whole, "weights")[0]) - float(rows(quantised, "weights")[0])
    assert saved == pytest.approx((2 - NF4) * num_linear / (1 << 20), abs=1)


NAMED = Machine(gpu="rtx3070", host_memory_gib=24)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("rtx3070", None, 24)),
        ({"host_memory_gib": 8}, ("rtx3070", None, 8)),
        ({"gpu": "t4"}, ("t4", None, None)),
        ({"gpu": "here"}, (None, None, None)),
        ({"gpu_memory_gib": 10}, (None, 10, None)),
        ({"calibrate": True}, (None, None, None)),
    ],
)
def test_hardware_that_is_named_wins_over_the_machine_of_the_file(given, expected):
    found = for_machine(HardwareConfig(**given), NAMED)
    assert (found.gpu, found.gpu_memory_gib, found.host_memory_gib) == expected
    assert for_machine(HardwareConfig(), None) == HardwareConfig()


def test_a_machine_that_is_not_known():
    with pytest.raises(InputError, match="machine: gpu: unknown GPU 'rtx3071'; did you mean 'rtx3070'"):
        for_machine(HardwareConfig(), Machine(gpu="rtx3071"))
