"""What learns is counted as in a real model that is trained so; a rehearsal of it allocates what a real step does."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from jpllm.models.classifier import build_classifier, choose_trainable, sees_ahead, small_classifier
from jpllm.models.lora import add_lora
from jpllm.models.losses import use_chunked_loss
from jpllm.models.trained_parts import ALL_PARTS, TrainedParts, meta_model
from jpllm.models.trunk import Trunk
from jpllm.planning.memory import checkpoint_bytes, estimate, evaluation_of, rehearsal_of, states
from jpllm.planning.rehearsal import MemoryTracker, rehearse
from jpllm.planning.setup import TrainingSetup
from jpllm.planning.size import flops_per_token, model_size
from tests.models.test_build import tiny_model

PAD, NAMES = 1, ["few", "many"]
WAYS = [
    TrainedParts(lora_rank=4, lora_dropout=0.1),
    TrainedParts("head"),
    TrainedParts("last_block"),
    TrainedParts("all"),
]
IDS = ["lora", "head", "last_block", "all"]
CAUSAL = ["gpt2-tiny", "neox-tiny", "llama-tiny"]
TWO_MASKS_BYTES = 2 * 3 * 40 * 40  # how a mask is made differs with fake tensors
SETUP = TrainingSetup(micro_batch=3, sequence_length=40, on_gpu=False)


@pytest.fixture
def trained(tmp_path):
    """A real model as the recipes make it, and the layers before what learns."""

    def build(preset, trained_parts, num_layers=2):
        torch.manual_seed(0)
        model = tiny_model(preset)
        if num_layers != 2:
            config = model.config
            config.num_hidden_layers = num_layers
            model = type(model)(config)
        if trained_parts.lora_rank:
            add_lora(model, trained_parts.lora_rank, alpha=8.0, dropout=trained_parts.lora_dropout)
            return model, []
        model.save_pretrained(tmp_path / preset)
        model = build_classifier(tmp_path / preset, NAMES, seed=0)
        model.config.pad_token_id = PAD
        return model, choose_trainable(model, trained_parts.classifier)

    return build


def batch_of(model, trained_parts, rows=3, tokens=40):
    ids = torch.randint(5, 50, (rows, tokens), generator=torch.Generator().manual_seed(0))
    if not trained_parts.classifier:
        return {"input_ids": ids, "labels": ids, "num_items_in_batch": ids.numel()}
    mask = torch.ones_like(ids)
    mask[:, -1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def loss_of(model, trained_parts, batch):
    outputs = model(**batch)
    return outputs.logits.float().square().mean() if trained_parts.classifier else outputs.loss


@pytest.mark.parametrize("preset", [*CAUSAL, "bert-tiny"])
@pytest.mark.parametrize("trained_parts", WAYS, ids=IDS)
def test_counts_and_bytes_are_those_of_the_model_that_is_trained(trained, preset, trained_parts):
    """Weights, gradients and AdamW's moments, added up over the tensors of a real step."""
    if trained_parts.lora_rank and preset == "bert-tiny":
        pytest.skip("LoRA is for language models")
    model, _ = trained(preset, trained_parts)
    size = model_size(model.config, trained_parts=trained_parts)
    everything, learning = ([p for p in model.parameters() if p.requires_grad or is_all] for is_all in (True, False))
    assert size.num_parameters == sum(p.numel() for p in everything)
    assert size.num_trainable == sum(p.numel() for p in learning)
    assert size.num_added == (sum(p.numel() for n, p in model.named_parameters() if "lora_" in n))
    assert size.num_saved == sum(p.numel() for n, p in model.named_parameters() if "lora_" not in n)

    optimizer = torch.optim.AdamW(learning)
    loss_of(model, trained_parts, batch_of(model, trained_parts)).backward()
    optimizer.step()
    moments = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    found = states(size, replace(SETUP, trained_parts=trained_parts))
    assert found.weights == sum(p.nbytes for p in everything)
    assert found.at_step == sum(p.grad.nbytes for p in learning if p.grad is not None)
    assert found.optimizer == sum(moment.nbytes for moment in moments)
    saved = [p.nbytes for n, p in model.named_parameters() if "lora_" in n or not trained_parts.lora_rank]
    assert checkpoint_bytes(size, replace(SETUP, trained_parts=trained_parts)) == sum(saved) + found.optimizer


@pytest.mark.parametrize("preset", CAUSAL)
@pytest.mark.parametrize("trained_parts", WAYS, ids=IDS)
@pytest.mark.parametrize("changes", [{}, {"arithmetic": "bf16"}, {"activation_checkpointing": True}])
def test_a_rehearsal_allocates_what_a_real_step_does(trained, preset, trained_parts, changes):
    setup = replace(SETUP, trained_parts=trained_parts, **changes)
    model, _ = trained(preset, trained_parts, num_layers=3)
    rehearsed = rehearse(model.config, rehearsal_of(setup))
    if not trained_parts.classifier:
        use_chunked_loss(model)
    real = real_peak(model, setup, batch_of(model, trained_parts))
    assert rehearsed.total == pytest.approx(real, rel=0.02, abs=TWO_MASKS_BYTES)


class RealBytes(MemoryTracker):
    """Of tensors with data, which answer for themselves."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator is torch.ops.aten._local_scalar_dense.default:
            return operator(*args, **(kwargs or {}))
        return super().__torch_dispatch__(operator, types, args, kwargs)


def real_peak(model, setup, batch):
    """The bytes of a real forward and backward pass that were alive together."""
    model.train()
    model.config.use_cache = False
    if setup.activation_checkpointing:
        model.activation_checkpointing_enable()
    with RealBytes(model, accumulates=False) as alive:
        if "trunk_output" in batch:
            batch = batch | {"trunk_output": batch["trunk_output"].clone()}
        with torch.autocast("cpu", torch.bfloat16, enabled=setup.arithmetic == "bf16"):
            loss = loss_of(model, setup.trained_parts, batch)
        alive.is_backward = True
        loss.backward()
    return max(peak.total for peak in alive.peaks)


@pytest.mark.parametrize("preset", [*CAUSAL, "bert-tiny"])
@pytest.mark.parametrize("trainable", ["head", "last_block"])
def test_kept_output_is_there_and_the_layers_are_not(trained, preset, trainable):
    setup = replace(SETUP, trained_parts=TrainedParts(trainable), keeps_trunk=True, accumulation=1)
    model, layers = trained(preset, setup.trained_parts, num_layers=3)
    step = rehearsal_of(setup)
    assert step.trunk_batches == 2  # the next batch is read while this one is trained on
    batch = batch_of(model, setup.trained_parts)
    trunk = Trunk(model, layers)
    batch["trunk_output"] = trunk.output(batch)
    one_batch = 3 * 40 * 32 * 4
    real = real_peak(model, setup, batch)
    assert rehearse(model.config, step).total - one_batch == pytest.approx(real, rel=0.02, abs=TWO_MASKS_BYTES)


@pytest.mark.parametrize("trained_parts", WAYS[:3], ids=IDS[:3])
def test_two_shallow_rehearsals_are_a_deep_one(trained, trained_parts):
    from jpllm.planning import rehearsal

    model, _ = trained("llama-tiny", trained_parts, num_layers=7)
    for setup in (SETUP, replace(SETUP, on_gpu=True, arithmetic="bf16", micro_batch=16, accumulation=2)):
        step = rehearsal_of(replace(setup, trained_parts=trained_parts))
        deep = max(peak.total for peak in rehearsal._peaks_of_phases(model.config, step))
        assert rehearse(model.config, step).total == pytest.approx(deep, rel=0.005)


def test_frozen_layers_keep_nothing(trained):
    """Without adapters more of them change nothing; with LoRA they keep as much as others, but no gradients."""
    activations = {}
    for trained_parts in (TrainedParts("last_block"), TrainedParts(lora_rank=2), ALL_PARTS):
        for num_layers in (5, 9):
            model, _ = trained(
                "neox-tiny", trained_parts if trained_parts != ALL_PARTS else TrainedParts(lora_rank=1), num_layers
            )
            step = rehearsal_of(replace(SETUP, trained_parts=trained_parts, accumulation=2))
            activations[trained_parts, num_layers] = rehearse(model.config, step)
    more = {
        trained_parts: activations[trained_parts, 9].activations - activations[trained_parts, 5].activations
        for trained_parts in (TrainedParts("last_block"), TrainedParts(lora_rank=2), ALL_PARTS)
    }
    assert more[TrainedParts("last_block")] == 0
    assert more[TrainedParts(lora_rank=2)] > 0.8 * more[ALL_PARTS] > 0
    assert activations[TrainedParts(lora_rank=2), 9].gradients < 0.2 * activations[ALL_PARTS, 9].gradients


def test_an_evaluation_of_a_classifier_is_a_forward_pass_of_all_layers(trained):
    trained_parts = TrainedParts("head")
    model, _ = trained("gpt2-tiny", trained_parts)
    setup = replace(SETUP, trained_parts=trained_parts, keeps_trunk=True, eval_batch=64)
    step = evaluation_of(setup)
    assert (step.batch_size, step.trunk_batches, step.evaluates) == (64, 0, True)
    assert evaluation_of(replace(SETUP, eval_batch=64)) is None
    evaluation = rehearse(model.config, step)
    with RealBytes(model.eval(), accumulates=False) as alive, torch.no_grad():
        model(**batch_of(model, trained_parts, rows=64))
    assert evaluation.total == pytest.approx(alive.peaks[0].total, rel=0.05)
    size = model_size(model.config, trained_parts=trained_parts)
    found = estimate(size, setup, rehearse(model.config, rehearsal_of(setup)), evaluation)
    assert found.all_tensors == found.states.lasting + evaluation.total > found.tensors
    assert sum(found.parts().values()) == found.peak
    kept = estimate(size, replace(setup, kept_bytes=1000), rehearse(model.config, rehearsal_of(setup)), evaluation)
    assert sum(kept.parts().values()) == kept.peak == found.peak + 1000
    assert (kept.claimed, kept.host) == (found.claimed, found.claimed)  # the system takes the file's pages back


def test_what_layers_keep_is_told_apart_where_the_peak_is_in_them(trained):
    """An encoder's peak is in its last layer: beside its small output it never takes more."""
    trained_parts = TrainedParts("all")
    found = {}
    for num_layers in (2, 3):
        model, _ = trained("bert-tiny", trained_parts, num_layers)
        found[num_layers] = rehearse(model.config, rehearsal_of(replace(SETUP, trained_parts=trained_parts)))
    assert found[2].temporary < 0.5 * found[2].activations
    assert found[3].activations - found[2].activations > 0.95 * (found[3].total - found[2].total) > 0


@pytest.mark.parametrize("trained_parts", [ALL_PARTS, *WAYS[:3]], ids=["every weight", *IDS[:3]])
def test_operations_are_those_that_pytorch_counts(trained, trained_parts):
    """But for the first product behind what is frozen: its input needs no gradient, unless a norm before it learns."""
    model, _ = trained(
        "gpt2-tiny", trained_parts if trained_parts != ALL_PARTS else TrainedParts(lora_rank=1), num_layers=4
    )
    if trained_parts == ALL_PARTS:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_config(model.config)
    model.set_attn_implementation("eager")
    model.train()
    batch = batch_of(model, trained_parts)
    with FlopCounterMode(display=False) as counter:
        loss_of(model, trained_parts, batch).backward()
    size = model_size(model.config, trained_parts=trained_parts)
    width, tokens = 32, 3 * 40
    missing = 2 * 2 * width if trained_parts.classifier == "head" else 0
    if trained_parts.lora_rank:
        missing = 2 * 3 * width * width + 2 * trained_parts.lora_rank * width  # and LoRA's first matrix beside it
    assert flops_per_token(size, 40) - missing == pytest.approx(counter.get_total_flops() / tokens, rel=1e-6)


def test_operations_where_frozen_layers_are_computed_once(trained):
    model, _ = trained("gpt2-tiny", TrainedParts("last_block"), num_layers=4)
    size = model_size(model.config, trained_parts=TrainedParts("last_block"))
    assert (size.num_frozen_layers, size.num_frozen_products) == (3, 3 * (4 * 32 * 32 + 2 * 32 * 64))
    every, third = (flops_per_token(size, 40, share) for share in (1, 1 / 3))
    assert every - third == pytest.approx(2 / 3 * (2 * size.num_frozen_products + 3 * 4 * 32 * 40))


@pytest.mark.parametrize(("engine", "num_processes"), [("ddp", 2), ("zero1", 4), ("zero2", 4), ("zero3", 4)])
def test_only_what_learns_has_gradients_and_moments_below_every_engine(engine, num_processes):
    trained_parts = TrainedParts(lora_rank=4)
    size = model_size(tiny_model("llama-tiny").config, trained_parts=trained_parts)
    setup = TrainingSetup(
        3, 40, engine=engine, num_processes=num_processes, arithmetic="bf16", trained_parts=trained_parts
    )
    count, lora, number = size.num_parameters, size.num_trainable, setup.weight_bytes
    found = states(size, setup)
    if engine == "ddp":
        expected = (4 * count, 8 * lora, 4 * lora, 4 * lora)
    else:
        weights = 2 * count // num_processes + 2 * count if engine == "zero3" else 2 * count
        gradients = 2 * lora // (1 if engine == "zero1" else num_processes) + 4 * lora // num_processes
        expected = (weights, 12 * lora // num_processes, gradients, 2 * 50_000_000 * number)
    assert (found.weights, found.optimizer, found.at_step, found.buckets) == expected


@pytest.mark.parametrize("arithmetic", ["fp32", "bf16"])
def test_fsdp2_shares_float32_weights_gradients_and_moments(arithmetic):
    config = tiny_model("llama-tiny").config
    size, setup = model_size(config), TrainingSetup(3, 40, engine="fsdp2", num_processes=4, arithmetic=arithmetic)
    found, number = states(size, setup), 2 if arithmetic == "bf16" else 4
    layer = 4 * 32 * 32 + 3 * 32 * 64  # of two; the rest is embeddings, the output layer and norms
    outside = size.num_parameters - 2 * layer
    assert found.weights == 4 * size.num_parameters // 4 + number * (outside + 2 * layer)
    assert found.optimizer == 8 * size.num_parameters // 4
    assert found.at_step == 4 * size.num_parameters // 4
    assert found.buckets == number * 2 * layer
    assert checkpoint_bytes(size, setup) == 12 * size.num_parameters
    forward = rehearse(config, rehearsal_of(setup))
    assert estimate(size, setup, forward).forward.gradients == forward.gradients * 4 // number // 4


@pytest.mark.parametrize("preset", [*CAUSAL, "bert-tiny"])
def test_encoders_are_found_by_their_configuration(preset):
    config = tiny_model(preset).config
    assert sees_ahead(small_classifier(config)) == (preset == "bert-tiny")
    assert (config.num_hidden_layers, config.vocab_size) == (2, 50)


def test_a_model_of_one_process_below_zero3(monkeypatch):
    """ZeRO-3 has transformers make whatever model comes in all processes together; only the main one makes a plan."""
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    from accelerate.utils import HfDeepSpeedConfig
    from transformers.integrations import deepspeed

    def fail(*_, **__):
        raise AssertionError("all processes would have to make this model")

    config = tiny_model("gpt2-tiny").config
    asked = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})
    monkeypatch.setattr("deepspeed.zero.Init", fail)
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", None)
    deepspeed.set_hf_deepspeed_config(asked)
    assert sum(weights.numel() for weights in meta_model(config).parameters()) == model_size(config).num_parameters
    assert deepspeed.is_deepspeed_zero3_enabled()
