from dataclasses import replace
from functools import cache

import pytest
import torch

from jpllm.models.build import transformers_config
from jpllm.models.losses import use_chunked_loss
from jpllm.models.presets import ModelConfig
from jpllm.models.trained_parts import TrainedParts
from jpllm.planning import rehearsal
from jpllm.planning.hardware import GIB
from jpllm.planning.memory import (
    BUCKET_ELEMENTS,
    GPU_OVERHEAD_BYTES,
    HOST_OVERHEAD_BYTES,
    checkpoint_bytes,
    estimate,
    offloaded_states,
    rehearsal_of,
    resuming_bytes,
    states,
)
from jpllm.planning.rehearsal import MemoryTracker, Rehearsal, StepBytes, rehearse
from jpllm.planning.setup import TrainingSetup
from jpllm.planning.size import VocabularyOnly, flops_per_token, model_size

NUM_NEOX = 778_263_552
NEOX_SETUP = TrainingSetup(micro_batch=4, sequence_length=1024, accumulation=2, arithmetic="fp16")
ZERO2, OFFLOAD = replace(NEOX_SETUP, engine="zero2"), replace(NEOX_SETUP, engine="zero2_offload")
PURE_BF16 = {"arithmetic": "bf16", "trained_parts": TrainedParts(learning_dtype="bfloat16")}
CHECKPOINTED = {"micro_batch": 8, "activation_checkpointing": True}


def architecture(num_ids: int = 500, **settings: object):
    return transformers_config(ModelConfig(**settings), VocabularyOnly(num_ids))


@cache
def neox():
    config = architecture(32_000, model="neox-1b")
    return config, model_size(config)


@cache
def neox_memory(setup: TrainingSetup):
    config, size = neox()
    return estimate(size, setup, rehearse(config, rehearsal_of(setup)))


def states_gib(setup: TrainingSetup) -> float:
    """Weights, gradients, optimizer and copies for autocast, as the table of the 0.778 B NeoX counts them."""
    found = neox_memory(setup)
    return (found.states.weights + found.states.optimizer + found.forward.gradients + found.forward.autocast) / GIB


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"model": "neox-1b"}, NUM_NEOX), ({"model": "neox-1b", "tie_embeddings": True}, 729_111_552)],
)
def test_parameters_are_counted_exactly(settings, expected):
    assert model_size(architecture(32_000, **settings)).num_parameters == expected


def test_parameters_by_what_they_do():
    """GPT-2 with one matrix for both ends: it multiplies at the output, and is looked up at the input."""
    size = model_size(architecture(500, model="gpt2-tiny"))
    inner = 2 * 12 * 64**2
    assert size.num_matrix_parameters == inner
    assert size.num_product_parameters == inner + 500 * 64
    assert size.num_lookup_parameters == (500 + 128) * 64
    assert size.num_parameters == inner + (500 + 128) * 64 + 2 * (13 * 64) + 2 * 64
    assert flops_per_token(size, 100) == 6 * (inner + 500 * 64) + 12 * 2 * 64 * 100


# Calculated by hand for the 0.778 B NeoX at 1,024 tokens, in GiB.
@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        (NEOX_SETUP, 13.1),
        (OFFLOAD, 2.9),
        (replace(OFFLOAD, **CHECKPOINTED), 2.9),
        (replace(NEOX_SETUP, optimizer="adamw_8bit", activation_checkpointing=True), 8.7),
        (replace(NEOX_SETUP, **PURE_BF16, **CHECKPOINTED), 5.8),
    ],
    ids=["mixed", "offload", "offload-checkpointed", "8bit", "pure-bf16"],
)
def test_states_of_the_neox_table(setup, expected):
    assert states_gib(setup) == pytest.approx(expected, rel=0.1)


def test_zero2_on_one_gpu_of_the_neox_table():
    """The peak is the optimizer's step, when gradients are there in both precisions."""
    found = neox_memory(ZERO2)
    assert (found.states.weights + found.states.optimizer + found.states.at_step) / GIB == pytest.approx(14.5, rel=0.1)


@pytest.mark.parametrize(
    ("setup", "summed", "about"),
    [
        (OFFLOAD, 2.9 + 6.2, 9.4),
        (replace(OFFLOAD, **CHECKPOINTED), 2.9 + 1.6, None),
        (replace(OFFLOAD, chunked_loss=False, **CHECKPOINTED), None, 7),  # the table's 7 is with all logits at once
        (replace(NEOX_SETUP, optimizer="adamw_8bit", activation_checkpointing=True), 8.7 + 0.8, 9.6),
        (replace(NEOX_SETUP, **PURE_BF16, **CHECKPOINTED), 5.8 + 1.6, 7.6),
    ],
    ids=["offload", "offload-checkpointed", "offload-checkpointed-whole-loss", "8bit", "pure-bf16"],
)
def test_peaks_of_the_neox_table(setup, summed, about):
    for expected in filter(None, (summed, about)):
        assert neox_memory(setup).tensors / GIB == pytest.approx(expected, rel=0.1)


def test_what_fits_12_gb_in_the_neox_table():
    usable = 12 * GIB
    assert neox_memory(OFFLOAD).peak < usable
    assert neox_memory(replace(OFFLOAD, **CHECKPOINTED)).peak < usable
    assert neox_memory(NEOX_SETUP).peak > usable
    assert neox_memory(ZERO2).peak > usable
    assert 12 * GIB < neox_memory(OFFLOAD).host < 18 * GIB  # the table's 12 to 17 is without DeepSpeed's own copies


def test_logits_at_once_take_ten_bytes_a_token_and_id():
    """In half precision, in float32, and their gradient in float32."""
    whole, chunked = (
        neox_memory(replace(OFFLOAD, chunked_loss=is_chunked, **CHECKPOINTED)).forward.temporary
        for is_chunked in (False, True)
    )
    assert whole == pytest.approx(10 * 8 * 1024 * 32_000, rel=0.25)
    assert whole > 4 * chunked


def test_parts_add_up():
    for setup in (NEOX_SETUP, OFFLOAD, ZERO2, replace(ZERO2, activation_checkpointing=True)):
        found = neox_memory(setup)
        assert sum(found.parts().values()) == found.peak == found.tensors + GPU_OVERHEAD_BYTES
        assert ("gradients, at the optimizer's step" in found.parts()) == (found.states.at_step > found.forward.total)


@pytest.mark.parametrize(
    ("engine", "weights", "optimizer", "at_step"),
    [
        ("ddp", 4, 8, 4),
        ("zero1", 2, 12 / 4, 2 + 4 / 4),
        ("zero2", 2, 12 / 4, 2 / 4 + 4 / 4),
        ("zero2_offload", 2, 0, 0),
        ("zero3", 2 / 4, 12 / 4, 2 / 4 + 4 / 4),
        ("zero3_offload", 0, 0, 0),
    ],
)
def test_bytes_per_parameter_on_four_gpus(engine, weights, optimizer, at_step):
    _, size = neox()
    found = states(size, replace(NEOX_SETUP, engine=engine, num_processes=4))
    gathered = 2 * 100_000_000 if engine.startswith("zero3") else 0
    assert found.weights == weights * NUM_NEOX + gathered
    assert found.optimizer == optimizer * NUM_NEOX
    assert found.at_step == at_step * NUM_NEOX
    largest = 2 * 32_000 * 1536 if engine.endswith("offload") else 0  # a gradient that is added up with earlier ones
    assert found.buckets == (4 * NUM_NEOX if engine == "ddp" else 2 * 2 * BUCKET_ELEMENTS + largest)


@pytest.mark.parametrize(
    ("engine", "accumulation", "bytes_in_training", "bytes_resuming"),
    [
        ("zero2_offload", 1, 4 + 8 + 4 + 2, 4 + 4 + 2 + 12 + 2),
        ("zero2_offload", 2, 4 + 8 + 4 + 2 + 2, 4 + 4 + 2 + 12 + 2),
        ("zero3_offload", 1, 4 + 8 + 4 + 2 + 2, 4 + 4 + 2 + 2 + 12 + 2),
    ],
)
def test_bytes_per_parameter_in_host_memory(engine, accumulation, bytes_in_training, bytes_resuming):
    """As counted in runs below DeepSpeed 0.19.8 (`benchmarks/memory_by_part.py`), ZeRO-2's largest gradient apart."""
    _, size = neox()
    setup = replace(NEOX_SETUP, engine=engine, accumulation=accumulation, num_processes=2)
    largest = (2 + 8) * 32_000 * 1536 if engine == "zero2_offload" else 0
    assert sum(offloaded_states(size, setup).values()) == bytes_in_training * NUM_NEOX + largest
    assert resuming_bytes(size, setup) == bytes_resuming * NUM_NEOX + largest
    planned = estimate(size, setup, neox_memory(NEOX_SETUP).forward)
    assert planned.host == 2 * HOST_OVERHEAD_BYTES + bytes_in_training * NUM_NEOX + largest
    assert planned.host_resuming == 2 * HOST_OVERHEAD_BYTES + bytes_resuming * NUM_NEOX + largest


def test_host_and_device_are_one_memory_on_a_cpu():
    _, size = neox()
    forward = neox_memory(NEOX_SETUP).forward
    on_cpu = replace(NEOX_SETUP, engine="zero2_offload", on_gpu=False)
    here, on_gpu = estimate(size, on_cpu, forward), estimate(size, replace(on_cpu, on_gpu=True), forward)
    assert here.tensors == on_gpu.tensors - forward.gradients + sum(offloaded_states(size, on_cpu).values())
    assert sum(here.parts().values()) == here.peak == here.host
    assert here.parts()["float32 gradients"] == 4 * NUM_NEOX


def test_an_evaluation_can_be_the_peak():
    """Logits in half precision of a batch, three times those of a block in float32, and copies for autocast."""
    few = neox_memory(replace(NEOX_SETUP, micro_batch=1))
    many = neox_memory(replace(NEOX_SETUP, micro_batch=1, eval_batch=128))
    _, size = neox()
    block = 1024 * 32_000
    assert many.evaluation == 128 * block * 2 + 3 * block * 4 + 2 * size.num_product_parameters
    assert many.peak == few.peak - few.tensors + many.states.lasting + many.evaluation
    assert many.parts()["a batch of an evaluation"] == many.evaluation
    assert sum(many.parts().values()) == many.peak


def test_optimizers():
    _, size = neox()
    assert states(size, NEOX_SETUP).optimizer == 8 * NUM_NEOX
    assert (
        states(size, replace(NEOX_SETUP, optimizer="muon")).optimizer == 8 * NUM_NEOX - 4 * size.num_matrix_parameters
    )
    eight_bit = states(size, replace(NEOX_SETUP, optimizer="adamw_8bit")).optimizer
    assert eight_bit == int(2.03125 * NUM_NEOX) + 6 * 32_000 * 1536
    assert checkpoint_bytes(size, NEOX_SETUP) == 12 * NUM_NEOX
    assert checkpoint_bytes(size, OFFLOAD) == 14 * NUM_NEOX


STEP = Rehearsal(
    on_gpu=False,
    weights="float32",
    products="fp32",
    batch_size=3,
    sequence_length=40,
    accumulates=False,
    activation_checkpointing=False,
    chunked_loss=True,
)


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
@pytest.mark.parametrize(
    ("batch_size", "num_ids", "changes"),
    [
        (1, 2000, {}),  # mostly weights
        (16, 300, {}),  # mostly activations
        (1, 2000, {"activation_checkpointing": True}),
        (16, 300, {"on_gpu": True, "products": "fp16", "accumulates": True, "activation_checkpointing": True}),
    ],
)
def test_two_shallow_rehearsals_are_a_deep_one(preset, batch_size, num_ids, changes):
    config = architecture(num_ids, model=preset, num_layers=7)
    step = replace(STEP, batch_size=batch_size, **changes)
    deep = max(rehearsal._peaks_of_phases(config, step), key=lambda peak: peak.total)
    assert rehearse(config, step).total == pytest.approx(deep.total, rel=0.005)


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
@pytest.mark.parametrize("changes", [{}, {"products": "bf16"}, {"activation_checkpointing": True}])
def test_a_rehearsal_allocates_what_a_real_step_does(preset, changes):
    from transformers import AutoModelForCausalLM

    config, step = architecture(model=preset, num_layers=3), replace(STEP, **changes)
    rehearsed = rehearse(config, step)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()
    model.config.use_cache = False
    use_chunked_loss(model)
    if step.activation_checkpointing:
        model.activation_checkpointing_enable()
    ids = torch.randint(0, 500, (step.batch_size, step.sequence_length))
    with MemoryTracker(model, accumulates=False) as alive:
        with torch.autocast("cpu", torch.bfloat16, enabled=step.products == "bf16"):
            loss = model(input_ids=ids, labels=ids, num_items_in_batch=ids.numel()).loss
        alive.is_backward = True
        loss.backward()
    real = max(alive.peaks, key=lambda peak: peak.total)
    assert rehearsed.total == pytest.approx(real.total, rel=0.01)


def test_a_gpu_keeps_gpt2_s_powers_in_float32_and_no_attention_weights():
    """Autocast computes GELU's power in float32 there; dropout makes a CPU keep the matrix of attention weights."""
    config = architecture(model="gpt2-tiny", dropout=0.1)
    step = replace(STEP, products="fp16", sequence_length=128)
    on_gpu, on_cpu = (rehearse(config, replace(step, on_gpu=is_gpu)).activations for is_gpu in (True, False))
    attention_weights = 2 * 2 * 3 * 128 * 128 * 2  # layers × heads × blocks × length² × bytes
    assert on_cpu > on_gpu + attention_weights
    without = replace(step, on_gpu=True)
    plain = architecture(model="gpt2-tiny")
    more = rehearse(plain, without).activations - rehearse(plain, replace(without, on_gpu=False)).activations
    assert more / (3 * 128) / 2 / 256 == pytest.approx(6, rel=0.01)  # 14 bytes a token, layer and unit instead of 8


def test_isolated_documents_cost_a_mask_in_each_layer():
    config = architecture(model="llama-tiny", num_layers=3)
    step = replace(STEP, on_gpu=True, weights="float16", products="fp16", sequence_length=256)
    more = rehearse(config, replace(step, isolates=True)).activations - rehearse(config, step).activations
    masks = 3 * 3 * 256 * 256  # layers × blocks × length²
    assert more == pytest.approx(2 * masks, rel=0.6)


def test_a_masked_language_model_has_logits_at_its_labels_only():
    config = architecture(5000, model="bert-tiny")
    step = replace(STEP, masked_share=0.15)
    few = rehearse(config, step)
    assert isinstance(few, StepBytes)
    assert rehearse(config, replace(step, chunked_loss=False)).temporary > 2 * few.temporary
