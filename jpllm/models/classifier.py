"""A classifier made of a language model or an encoder: a new head on the trained layers, and what of it is to learn."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from jpllm.models import pretrained
from jpllm.models.build import initializer_range, load_trained, refuse_foreign_tokenizer
from jpllm.runtime import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Trainable = Literal["head", "last_block", "all"]
_POOLER = "pooler."


def build_classifier(name_or_path: str | Path, class_names: Sequence[str] | None, seed: int) -> PreTrainedModel:
    """Load a trained model in float32 on the CPU and give it a head for these outputs (None: for one number).

    Several names are those of classes; a single one is that of a number, which the head gives as it is.

    Everything but the head has to be in the checkpoint. What the head lacks is new: matrices are normal with the
    model's `initializer_range`, dependent on `seed` alone, biases 0. A checkpoint that is a classifier of the same
    classes keeps its head.

    Raises:
        InputError: there is no such model, its weights are not whole, it cannot classify, or it is a classifier of
            other classes.
    """
    from transformers import AutoModelForSequenceClassification

    config = _configuration(name_or_path, class_names)
    model, missing, unexpected = pretrained.load(name_or_path, AutoModelForSequenceClassification, config)
    body = f"{model.base_model_prefix}."
    for kind, names in (("missing", missing), ("unexpected", unexpected)):
        names = [name for name in names if name.startswith(body) and not name.startswith(body + _POOLER)]
        if names:
            raise InputError(f"{name_or_path}: the weights do not fit the model: {kind} {names[:3]}")
    _fill(model, missing, seed)
    return model


def refuse_no_classifier(name_or_path: str | Path, config: PretrainedConfig) -> None:
    """Raise InputError for a model that has no classifier of one part."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    if config.is_encoder_decoder:
        raise InputError(f"{name_or_path}: {config.model_type} has an encoder and a decoder; take one or the other")
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise InputError(
            f"{name_or_path}: no classifier can be made of it: transformers has none for {config.model_type}"
        )


def load_any_kind(name_or_path: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> PreTrainedModel:
    """Load a language model as `jpllm.models.build.load_trained` does; of an encoder the layers, without a head.

    Raises:
        InputError: see `build_classifier`.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    if type(pretrained.read_config(name_or_path)) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return load_trained(name_or_path, tokenizer=tokenizer)
    classifier = build_classifier(name_or_path, None, seed=0)
    if sees_ahead(classifier):
        if tokenizer is not None:
            refuse_foreign_tokenizer(name_or_path, classifier, tokenizer)
        return cast("PreTrainedModel", classifier.base_model)  # transformers calls it any module
    return load_trained(name_or_path, tokenizer=tokenizer)


def sees_ahead(model: PreTrainedModel) -> bool:
    """Return whether a token's hidden state depends on later tokens, as in an encoder; found by trying."""
    import torch

    from jpllm.models.evaluating import evaluating

    with evaluating(model):
        first, second = model.base_model(torch.tensor([[5, 6], [5, 7]], device=model.device)).last_hidden_state[:, 0]
    return not torch.allclose(first, second, atol=1e-6)


def small_classifier(config: PretrainedConfig) -> PreTrainedModel:
    """Return a classifier of one layer for a few ids, which tells how those of a configuration behave.

    Raises:
        InputError: no classifier can be made of them.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    small = copy.deepcopy(config)
    small.num_hidden_layers, small.vocab_size, small.pad_token_id = 1, 8, 0
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:1]
    try:
        return AutoModelForSequenceClassification.from_config(small, dtype=torch.float32)
    except Exception as error:  # an architecture may refuse another number of layers in any way
        raise InputError(f"model: no classifier of one layer can be made of it: {error}") from error


def choose_trainable(model: PreTrainedModel, trainable: Trainable) -> list[torch.nn.Module]:
    """Let a part of the parameters learn, and return the layers before them: all that is computed without learning.

    `head` is what is new, `last_block` also the last layer and what comes behind it, such as the final norm. Frozen
    modules stay in evaluation mode, so their output for a text is always the same. In order; empty where a frozen part
    has no layers.

    Raises:
        InputError: the layers of this architecture are not known.
    """
    if trainable == "all":
        return []
    body = model.base_model
    layers = layers_of(model)
    frozen = layers if trainable == "head" else layers[:-1]
    names = [name for name, _ in body.named_parameters()]
    if trainable == "last_block":
        in_last = {id(parameter) for parameter in layers[-1].parameters()}
        first = next(index for index, p in enumerate(body.parameters()) if id(p) in in_last)
        learned = {*names[first:]}
    else:
        learned = {name for name in names if name.startswith(_POOLER)}
    for name, parameter in body.named_parameters():
        parameter.requires_grad = name in learned
    _keep_evaluating(body, {layers[-1]} if trainable == "last_block" else set())
    return frozen


def trainable_line(model: PreTrainedModel) -> str:
    """Return in words how many parameters learn."""
    learned = num_trainable(model)
    return f"{learned:,} of {model.num_parameters():,} parameters are trained ({learned / model.num_parameters():.2%})"


def num_trainable(model: PreTrainedModel) -> int:
    """Return the number of parameters that learn."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _configuration(name_or_path: str | Path, class_names: Sequence[str] | None) -> PretrainedConfig:
    config = pretrained.read_config(name_or_path)
    refuse_no_classifier(name_or_path, config)
    names = ["score"] if class_names is None else list(class_names)
    is_classifier = any("ForSequenceClassification" in name for name in config.architectures or ())
    labels = {int(index): name for index, name in (config.id2label or {}).items()}
    old_names = [labels[index] for index in sorted(labels)]
    if is_classifier and old_names != names:
        raise InputError(
            f"{name_or_path}: a classifier of {', '.join(old_names)}, and the labels are {', '.join(names)}; "
            "take the model that it was made of"
        )
    config.id2label = dict(enumerate(names))  # which sets num_labels too
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = "regression" if len(names) == 1 else "single_label_classification"
    return config


def _fill(model: PreTrainedModel, names: Sequence[str], seed: int) -> None:
    """Give parameters their first values."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in names:
            parameter = model.get_parameter(name)
            if parameter.ndim > 1:
                parameter.normal_(0, initializer_range(model.config), generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def layers_of(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The layers of a model in order. Raises InputError where they are not known."""
    import torch

    body, num_layers = model.base_model, model.config.get_text_config().num_hidden_layers
    for module in body.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == num_layers:
            return list(module)
    raise InputError(f"trainable: the layers of {type(body).__name__} are not told apart; write trainable: all")


def _keep_evaluating(module: torch.nn.Module, learned: set[torch.nn.Module]) -> None:
    """Have `train()` pass over what is inside a module, but for the modules in `learned` and what holds them."""
    for child in module.children():
        if child in learned:
            continue
        if learned.isdisjoint(child.modules()):
            child.eval()
            child.train = lambda mode=True, child=child: child
        else:
            _keep_evaluating(child, learned)
