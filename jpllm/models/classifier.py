"""A classifier made of a language model or an encoder: a new head on the trained layers, and what of it is to learn."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from jpllm.models.build import load_trained
from jpllm.runtime import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

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
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    if Path(name_or_path).exists() and not (Path(name_or_path) / "config.json").is_file():
        raise InputError(f"{name_or_path}: no model folder: it holds no config.json")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of a head that is missing, as it has to be
    try:
        config = _configuration(name_or_path, class_names)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name_or_path, config=config, dtype=torch.float32, output_loading_info=True
        )
    except InputError:
        raise
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{name_or_path}: no such folder, and no model of that name can be loaded from the Hub"
        ) from error
    except ValueError as error:
        raise InputError(f"{name_or_path}: no classifier can be made of it: {str(error).splitlines()[0]}") from error
    finally:
        logging.set_verbosity(verbosity)
    body = f"{model.base_model_prefix}."
    for kind in ("missing", "unexpected"):
        names = [name for name in info[f"{kind}_keys"] if name.startswith(body)]
        names = sorted(name for name in names if not name.startswith(body + _POOLER))
        if names:
            raise InputError(f"{name_or_path}: the weights do not fit the model: {kind} {names[:3]}")
    _fill(model, sorted(info["missing_keys"]), seed)
    return model


def load_any_kind(name_or_path: str | Path) -> PreTrainedModel:
    """Load a language model as `jpllm.models.build.load_trained` does; of an encoder the layers, without a head.

    Raises:
        InputError: see `build_classifier`.
    """
    classifier = build_classifier(name_or_path, None, seed=0)
    if sees_ahead(classifier):
        return cast("PreTrainedModel", classifier.base_model)  # transformers calls it any module
    return load_trained(name_or_path)


def sees_ahead(model: PreTrainedModel) -> bool:
    """Return whether a token's hidden state depends on later tokens, as in an encoder; found by trying."""
    import torch

    from jpllm.models.evaluating import evaluating

    with evaluating(model):
        first, second = model.base_model(torch.tensor([[5, 6], [5, 7]], device=model.device)).last_hidden_state[:, 0]
    return not torch.allclose(first, second, atol=1e-6)


def is_encoder(config: PretrainedConfig) -> bool:
    """Return whether models of a configuration see ahead; found by trying a small one.

    Raises:
        InputError: no classifier can be made of them.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    if config.is_encoder_decoder:
        raise InputError(f"model: {config.model_type} has an encoder and a decoder; take one or the other")
    small = copy.deepcopy(config)
    small.num_hidden_layers, small.vocab_size, small.pad_token_id = 1, 8, 0
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:1]
    try:
        model = AutoModelForSequenceClassification.from_config(small, dtype=torch.float32)
    except ValueError as error:
        raise InputError(f"model: no classifier can be made of it: {str(error).splitlines()[0]}") from error
    return sees_ahead(model)


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
    layers = _layers(body, model.config.get_text_config().num_hidden_layers)
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
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name_or_path)
    if config.is_encoder_decoder:
        raise InputError(f"{name_or_path}: {config.model_type} has an encoder and a decoder; take one or the other")
    names = ["score"] if class_names is None else list(class_names)
    is_classifier = any("ForSequenceClassification" in name for name in config.architectures or ())
    old_names = [config.id2label[index] for index in sorted(config.id2label)]
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
    """Give parameters their first values; raises InputError if any parameter of the model is not finite."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in names:
            parameter = model.get_parameter(name)
            if parameter.ndim > 1:
                parameter.normal_(0, model.config.initializer_range, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise InputError(f"{model.config.name_or_path}: {name} has values that are not finite; the file is damaged")


def _layers(body: torch.nn.Module, num_layers: int) -> list[torch.nn.Module]:
    import torch

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
