"""Memory of a training step, counted by rehearsing it: the model's own code runs on tensors that hold no data.

PyTorch's fake tensors have a shape, a type and a device and nothing else. A forward and a backward pass on them
allocates what the real one would, in the same order, whatever the architecture, the precision and the version of
transformers; the bytes that are alive are added up (the method of `torch.distributed._tools.mem_tracker`, which has no
peaks of the halves of the backward pass and no kind for half-precision copies of weights). It takes a
second and no memory, and a GPU that is not there can be rehearsed for.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from jpllm.models import quantising
from jpllm.models.dtypes import DTYPES_OF_PRECISION, DtypeName
from jpllm.models.trained_parts import ALL_PARTS, TrainedParts, meta_model
from jpllm.models.trunk import Trunk

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Numbers = Literal["fp32", "fp16", "bf16"]
_FEW_LAYERS = (2, 4)


@dataclass(frozen=True)
class Rehearsal:
    """What decides the memory of a forward and a backward pass.

    Attributes:
        weights: number format of the weights and of their gradients; LoRA's matrices are float32 beside all.
        products: precision of matrix products; where all weights are of another one, or LoRA's are, it is autocast.
        batch_size: blocks of `sequence_length` tokens.
        accumulates: gradients of an earlier batch are there already.
        isolates: tokens attend to their own document only.
        masked_share: share of the positions that a masked language model predicts; 0 for one that predicts the next.
        trained_parts: what of the model learns.
        trunk_batches: batches whose output of the frozen layers is there at once, kept from a first pass; with 0 the
            layers are computed.
        evaluates: it is the forward pass of an evaluation alone.
    """

    on_gpu: bool
    weights: DtypeName
    products: Numbers
    batch_size: int
    sequence_length: int
    accumulates: bool
    activation_checkpointing: bool
    chunked_loss: bool
    isolates: bool = False
    masked_share: float = 0.0
    trained_parts: TrainedParts = ALL_PARTS
    trunk_batches: int = 0
    evaluates: bool = False


@dataclass(frozen=True)
class StepBytes:
    """Bytes alive at the peak of the forward and backward pass, beside the weights.

    Attributes:
        gradients: of the weights; most are not there yet when activations are at their peak.
        autocast: copies of the weights in the type of the products.
        activations: what the layers keep for the backward pass.
        temporary: all else: logits, their loss and its gradient, one layer's gradients of activations.
    """

    gradients: int
    autocast: int
    activations: int
    temporary: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.gradients + self.autocast + self.activations + self.temporary


def rehearse(config: PretrainedConfig, step: Rehearsal) -> StepBytes:
    """Return the peak of the forward and backward pass of a model of this configuration.

    Layers are alike, so that each phase of the step has its peak on a straight line over their number: of a deep model
    two shallow ones are rehearsed.
    """
    if config.num_hidden_layers <= max(_FEW_LAYERS) or not _layers_are_alike(config):
        return max(_peaks_of_phases(config, step), key=lambda peak: peak.total)
    shallow, deeper = (_peaks_of_phases(_with_layers(config, number), step) for number in _FEW_LAYERS)
    steps = (config.num_hidden_layers - _FEW_LAYERS[0]) / (_FEW_LAYERS[1] - _FEW_LAYERS[0])
    peaks = [_on_line(first, second, steps) for first, second in zip(shallow, deeper, strict=True)]
    return max(peaks, key=lambda peak: peak.total)


def _layers_are_alike(config: PretrainedConfig) -> bool:
    return config.get_text_config() is config and len(set(getattr(config, "layer_types", None) or [""])) == 1


def _with_layers(config: PretrainedConfig, num_layers: int) -> PretrainedConfig:
    config = copy.deepcopy(config)
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:num_layers]
    return config


def _on_line(first: StepBytes, second: StepBytes, steps: float) -> StepBytes:
    """Return the values `steps` times as far from the first as the second are: a straight line through both."""
    pairs = zip(astuple(first), astuple(second), strict=True)
    return StepBytes(*(round(one + steps * (other - one)) for one, other in pairs))


def _peaks_of_phases(config: PretrainedConfig, step: Rehearsal) -> list[StepBytes]:
    """Return the peaks of the forward pass and of the first and second half of the backward pass."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import masking_utils

    model = meta_model(
        config, is_masked=step.masked_share > 0, trained_parts=step.trained_parts, dtype=getattr(torch, step.weights)
    )
    with ExitStack() as stack:
        if not step.isolates:
            # transformers takes fake tensors for a compiler's, and would build a mask for documents that may be there.
            stack.enter_context(_replaced(masking_utils, "find_packed_sequence_indices", lambda *_, **__: None))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        _fill_with_fakes(model)
        model.train(not step.evaluates)
        model.config.use_cache, model.loss_type = False, "ForCausalLM"  # as in training
        if step.activation_checkpointing:
            model.activation_checkpointing_enable()
        if step.trunk_batches:
            Trunk(model, [layer for layer in layers_of(model) if not _learns(layer)])
        stack.enter_context(_loss_of(model, step))
        if step.on_gpu:
            stack.enter_context(_gpu_arithmetic())
        stack.enter_context(torch.set_grad_enabled(not step.evaluates))
        inputs = _inputs(step)
        alive = stack.enter_context(MemoryTracker(model, step.accumulates))
        if step.trunk_batches:
            rows = inputs["input_ids"].shape
            kept = torch.zeros(step.trunk_batches, *rows, config.get_text_config().hidden_size)
            inputs["trunk_output"] = kept[0]
        with _autocast(step):
            loss = _loss(model, inputs, step)
        if not step.evaluates:
            alive.is_backward = True
            loss.backward()
    return alive.peaks


class MemoryTracker(TorchDispatchMode):
    """Adds up the storages that are alive, and keeps what they were when there were most.

    The weights are not counted: they are there all the time. A question about data, which fake tensors cannot answer
    ("does every label count?"), is answered yes.

    Attributes:
        is_backward: to be set when the backward pass begins.
        peaks: of the forward pass, of the backward pass through the upper half of the layers, and of the rest.
    """

    def __init__(self, model: PreTrainedModel, accumulates: bool) -> None:
        super().__init__()
        self.is_backward = False
        self.peaks = [StepBytes(0, 0, 0, 0)] * 3
        self._alive = {"gradients": 0, "autocast": 0, "other": 0}
        self._kept_bytes = 0
        self._is_lower_half = False
        self._kind_of = WeakIdKeyDictionary()  # storage → a list with its kind, which may change
        self._weights = {id(weight): weight.untyped_storage() for weight in model.parameters()}
        scales = (tensor for weight in model.parameters() for tensor in quantising.tensors_beside(weight))
        for weight in (*model.parameters(), *model.buffers(), *scales):
            self._kind_of[weight.untyped_storage()] = ["weights"]
        for weight in (p for p in model.parameters() if p.requires_grad):
            if accumulates:
                weight.grad = torch.empty_like(weight)
                self._add(weight.grad.untyped_storage(), "gradients")
            weight.register_post_accumulate_grad_hook(self._claim_gradient)
        layers = layers_of(model)
        for weight in (p for p in layers[: len(layers) // 2].parameters() if p.requires_grad):
            weight.register_post_accumulate_grad_hook(self._note_lower_half)
        model.base_model.register_forward_hook(self._note_kept)

    def __torch_dispatch__(self, func, types, args: tuple = (), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            return True
        result = func(*args, **(kwargs or {}))
        is_cast = func is torch.ops.aten._to_copy.default and id(args[0]) in self._weights
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage(), "autocast" if is_cast else "other")
        return result

    def _add(self, storage: torch.UntypedStorage, kind: str) -> None:
        if storage in self._kind_of:
            return
        holder, num_bytes = [kind], storage.nbytes()
        self._kind_of[storage] = holder
        weakref.finalize(storage, self._remove, holder, num_bytes).atexit = False
        self._alive[kind] += num_bytes
        phase = 0 if not self.is_backward else 2 if self._is_lower_half else 1
        if sum(self._alive.values()) > self.peaks[phase].total:
            kept = min(self._kept_bytes, self._alive["other"])
            self.peaks[phase] = StepBytes(
                self._alive["gradients"], self._alive["autocast"], kept, self._alive["other"] - kept
            )

    def _remove(self, holder: list[str], num_bytes: int) -> None:
        self._alive[holder[0]] -= num_bytes

    def _claim_gradient(self, weight: torch.Tensor) -> None:
        if weight.grad is None:  # it is called when the gradient is there
            return
        storage = weight.grad.untyped_storage()
        holder, num_bytes = self._kind_of[storage], storage.nbytes()
        self._alive[holder[0]] -= num_bytes
        self._alive["gradients"] += num_bytes
        holder[0] = "gradients"

    def _note_lower_half(self, weight: torch.Tensor) -> None:
        self._is_lower_half = True

    def _note_kept(self, *_) -> None:
        """Note what the forward pass holds after the last layer, also where its peak came before (small logits)."""
        self._kept_bytes, peak = self._alive["other"], self.peaks[0]
        kept = min(self._kept_bytes, peak.temporary)
        self.peaks[0] = replace(peak, activations=kept, temporary=peak.temporary - kept)


def _autocast(step: Rehearsal) -> torch.autocast:
    """Return the context in which products are computed in their precision, where it is not that of all weights."""
    products = DTYPES_OF_PRECISION[step.products]
    has_others = products != step.weights or step.trained_parts.lora_rank > 0
    return torch.autocast("cpu", getattr(torch, products), enabled=step.products != "fp32" and has_others)


def layers_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the model's stack of layers."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    num_layers = model.config.get_text_config().num_hidden_layers
    return next((stack for stack in lists if len(stack) == num_layers), torch.nn.ModuleList())


def _inputs(step: Rehearsal) -> dict[str, torch.Tensor]:
    """Return a batch; that of a classifier is padded, and a mask says where."""
    ids = torch.zeros(step.batch_size, step.sequence_length, dtype=torch.int64)
    inputs = {"input_ids": ids}
    if step.isolates:
        inputs["position_ids"] = ids
    if step.trained_parts.classifier:
        inputs["attention_mask"] = ids
    return inputs


def _loss(model: PreTrainedModel, inputs: dict[str, torch.Tensor], step: Rehearsal) -> torch.Tensor:
    """Return the loss that the recipes train; a classifier's two losses take the same few bytes."""
    if not step.trained_parts.classifier:
        ids = inputs["input_ids"]
        return model(**inputs, labels=ids, num_items_in_batch=ids.numel()).loss
    return model(**inputs).logits.float().square().mean()


def _learns(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Generator[None]:
    """Give an attribute of a module another value for the time of the body."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def _loss_of(model: PreTrainedModel, step: Rehearsal) -> Generator[None]:
    """Give the model the loss that it is trained with; what depends on data is replaced."""
    from jpllm.models import losses

    num_labels = int(step.masked_share * step.batch_size * step.sequence_length)

    def first_labels(hidden, labels):
        return hidden.flatten(0, 1)[:num_labels].clone(), labels.flatten()[:num_labels]

    if step.trained_parts.classifier:
        yield
        return
    if step.masked_share:
        losses.use_masked_loss(model, everywhere=not step.chunked_loss)
    elif step.chunked_loss:
        as_products = _replaced(
            losses, "logit_function", lambda _: losses.LogitFunction()
        )  # a cap takes no more memory
        with as_products, _replaced(losses, "_refuse_other_losses", lambda *_: None):
            losses.use_chunked_loss(model)
    few_counted = _replaced(losses, "_few_counted", lambda targets: None)
    with few_counted, _replaced(losses, "_at_labels", first_labels):
        yield


def _fill_with_fakes(model: PreTrainedModel) -> None:
    """Put fake tensors in the place of a meta model's parameters and buffers; shared ones stay shared."""
    moved: dict[int, torch.Tensor] = {}
    for module in model.modules():
        stores: Any = (module._parameters, module._buffers)  # parameters stay parameters
        for tensors in stores:
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    moved[id(tensor)] = _fake_of(tensor, module)
                tensors[name] = moved[id(tensor)]


def _fake_of(tensor: torch.Tensor, module: Any) -> torch.Tensor:
    if quantising.is_to_be_quantised(tensor):
        return quantising.empty_weight(tensor.shape, module.compute_dtype)
    fake = torch.empty(tensor.shape, dtype=tensor.dtype)
    is_weight = isinstance(tensor, torch.nn.Parameter)
    return torch.nn.Parameter(fake, tensor.requires_grad) if is_weight else fake


@contextmanager
def _gpu_arithmetic() -> Generator[None]:
    """Compute, on the CPU's fake tensors, what a GPU would: PyTorch may be built without CUDA.

    Attention is fused, the pieces of the loss are a GPU's, and autocast computes powers in float32 (in GPT-2's GELU).
    """
    from jpllm.models import losses

    power = torch.pow

    def float32_power(base, exponent):
        return power(base.float() if torch.is_autocast_enabled("cpu") else base, exponent)

    with (
        _replaced(torch, "pow", float32_power),
        _replaced(torch.nn.functional, "scaled_dot_product_attention", _fused_attention),
        _replaced(losses, "CHUNK_LOGITS_CPU", losses.CHUNK_LOGITS_GPU),
    ):
        yield


def _fused_attention(query, key, value, *, attn_mask=None, dropout_p=0.0, scale=None, **_):
    """Keep queries, keys, values, the output, a number for each row and the mask, but no matrix of weights."""
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (query, key, value))
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, True, scale=scale)[0]
    added = torch.zeros_like(attn_mask, dtype=query.dtype).expand(*query.shape[:3], -1)
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, added, True, dropout_p, False, scale=scale
    )[0]
