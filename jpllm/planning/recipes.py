"""What the configuration of a recipe says of a run, before there are data, a tokenizer or a trained model."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpllm.config.types import suggest
from jpllm.models.dtypes import frozen_dtype
from jpllm.models.presets import PRESETS, ModelConfig
from jpllm.models.trained_parts import ALL_PARTS, TrainedParts
from jpllm.planning import of_run
from jpllm.planning.budget import Budget, instruct_budget, label_budget, text_budget
from jpllm.planning.hardware import Hardware
from jpllm.planning.of_run import PlannedRun
from jpllm.planning.setup import TrainingSetup, arithmetic
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

    from jpllm.data.conversations.blocks import PackedRows, RowsByLength
    from jpllm.data.conversations.layouts import InstructDataConfig
    from jpllm.data.corpus import DataConfig
    from jpllm.data.labels.encoding import EncodedSplits
    from jpllm.data.labels.rows import LabelledDataConfig
    from jpllm.training.config import ClassifierTrainingConfig, TrainingConfig
    from jpllm.training.recipe_configs import (
        ClassifierConfig,
        ContinuedPretrainingConfig,
        InstructionConfig,
        PretrainingConfig,
        WeightsConfig,
    )

_UNKNOWN_CLASSES = 2  # of rows that are not there yet; the output of a classifier takes next to nothing


@dataclass(frozen=True)
class RecipeRun:
    """A run of a recipe, and what it spends.

    Attributes:
        model: a preset, or name or folder of a trained model.
        budget: tokens and steps of a setup.
        shards_dir: see `jpllm.planning.budget.disk_needs`.
    """

    model: str
    planned: PlannedRun
    budget: Callable[[TrainingSetup], Budget]
    shards_dir: Path | None = None


def run_of(recipe: str, configuration: Sequence[Any], shape: ModelConfig, where: Hardware) -> RecipeRun:
    """Return the run of a recipe with these instances of its classes (`jpllm.training.recipe_configs.RECIPES`).

    `shape` is that of a new model, or of one that stands in for the trained model; of a trained model it holds the
    name, and `vocab_size` where there is no tokenizer yet.

    Raises:
        InputError: there is no such model or tokenizer, or it cannot read sequences of the length that is asked for.
    """
    if recipe == "pretrain_scratch":
        keys, data, _, training, _ = configuration
        return _texts(keys, data, training, shape, keys.effective_masked_share)
    if recipe == "classify":
        return _labelled_rows(*configuration, shape)
    keys, weights, data, training, _ = configuration
    parts = partial(trained_parts, weights, training, shape.model, where)
    if recipe == "cpt":
        return _texts(keys, data, training, shape, parts_of=parts)
    return _conversations(keys, parts, data, training, shape)


def trained_parts(
    weights: WeightsConfig, training: TrainingConfig, name: str, where: Hardware, model: PretrainedConfig
) -> TrainedParts:
    """Return what learns of the model of a name, a trained one or a preset, and how this hardware holds its weights."""
    from jpllm.models import pretrained

    saved = "float32" if name in PRESETS else pretrained.saved_dtype(name, model)
    held = weights.load_dtype(training.precision, arithmetic(training, where))
    if held == "auto":
        held = frozen_dtype(saved, "xla" if where.is_tpu else "cuda" if where.on_gpu else "cpu", where.has_bf16)
    return weights.trained_parts(held, weights.merged_dtype(held, saved))


def _texts(
    recipe: PretrainingConfig | ContinuedPretrainingConfig,
    data: DataConfig,
    training: TrainingConfig,
    shape: ModelConfig,
    masked_share: float = 0.0,
    parts_of: Callable[[PretrainedConfig], TrainedParts] = lambda _: ALL_PARTS,
) -> RecipeRun:
    """Return a run on texts, which are packed into blocks or still to be packed."""
    from jpllm.data.corpus import weights_with_replay
    from jpllm.data.shards.available import available_tokens
    from jpllm.tokenizer.document_tokens import document_bos
    from jpllm.tokenizer.load import fingerprint

    tokenizer = load_tokenizer(recipe.tokenizer, shape)
    replayed, replay = getattr(recipe, "replay_sources", []), getattr(recipe, "replay", 0.0)
    every = dataclasses.replace(data, sources=data.sources + replayed)
    of_tokenizer = (fingerprint(tokenizer), document_bos(tokenizer)) if tokenizer else (None, None)
    available = available_tokens(every, *of_tokenizer)
    sizes, num_new, shares = [source.num_tokens for source in available], len(data.sources), data.weights
    if replay:  # sources share by size where that of one is not known
        shares = None
        known = [size for size in sizes if size is not None]
        if len(known) == len(sizes):
            shares = weights_with_replay(known[:num_new], data.weights, known[num_new:], replay)

    def spends(setup: TrainingSetup) -> Budget:
        return text_budget(training, available, shares, setup, data.when_exhausted == "stop")

    model = transformers_config(shape, tokenizer, data.sequence_length)
    planned = of_run.of_texts(model, data, training, masked_share, trained_parts=parts_of(model))
    return RecipeRun(shape.model, planned, spends, data.shards_dir)


def _conversations(
    recipe: InstructionConfig,
    parts_of: Callable[[PretrainedConfig], TrainedParts],
    data: InstructDataConfig,
    training: TrainingConfig,
    shape: ModelConfig,
) -> RecipeRun:
    """Return a run on conversations, encoded here where they and the tokenizer are there."""
    tokenizer = load_tokenizer(recipe.tokenizer, shape)
    model = transformers_config(shape, tokenizer, data.sequence_length)
    _add_pad_row(model, tokenizer)
    items = _encoded_conversations(recipe, data, training, tokenizer)
    return RecipeRun(
        shape.model,
        of_run.of_conversations(model, data, training, items, parts_of(model)),
        partial(instruct_budget, data, training, items),
        data.shards_dir if data.replay else None,
    )


def _labelled_rows(
    recipe: ClassifierConfig, data: LabelledDataConfig, training: ClassifierTrainingConfig, shape: ModelConfig
) -> RecipeRun:
    """Return a run on labelled rows, encoded here where they and the tokenizer are there."""
    from jpllm.models.build import context_length
    from jpllm.models.classifier import layers_of, sees_ahead, small_classifier
    from jpllm.models.trained_parts import TrainedParts, meta_model
    from jpllm.models.trunk import gives_hidden_states

    tokenizer = load_tokenizer(recipe.tokenizer, shape)
    model = transformers_config(shape, tokenizer, 0, is_classifier=True)
    if getattr(model, "pad_token_id", None) is None:  # else positions may be counted from it
        model.pad_token_id = 0
    _add_pad_row(model, tokenizer)
    small = small_classifier(model)
    is_encoder = sees_ahead(small)
    classifier = meta_model(model, trained_parts=TrainedParts(classifier="all"))
    most = min(context_length(classifier), tokenizer.model_max_length if tokenizer else sys.maxsize)
    longest = recipe.max_row_tokens or most
    if longest > most:
        raise InputError(f"max_row_tokens: {longest:,} are more than the {most:,} that the model can read")
    splits = _encoded_splits(data, tokenizer, is_encoder, longest)
    model.num_labels = 1
    if data.task == "classification":
        model.num_labels = len(splits.class_names) if splits and splits.class_names else _UNKNOWN_CLASSES
    trainable = recipe.trainable or ("all" if is_encoder else "last_block")
    keeps_trunk = (
        trainable != "all"
        and recipe.keep_trunk_output is not False
        and gives_hidden_states(small, layers_of(small)[-1])
    )
    planned = of_run.of_labelled_rows(model, data, training, splits, longest, trainable, keeps_trunk)
    return RecipeRun(shape.model, planned, partial(label_budget, data, training, splits))


def load_tokenizer(name: str | None, shape: ModelConfig) -> PreTrainedTokenizerFast | None:
    """Return the tokenizer; None where there is none yet, and `vocab_size` says how many ids it will have.

    A folder that holds config.json alone says so too.
    """
    from jpllm.tokenizer.load import load

    name = name or (None if shape.model in PRESETS else shape.model)
    try:
        if name is None:
            raise InputError("required, but not set")
        return load(name)
    except InputError as error:
        if shape.vocab_size is None and name == shape.model and _is_configuration_alone(Path(name)):
            return None
        if shape.vocab_size is None:
            instead = " and --model SHAPE, one of --help" if name == shape.model and not Path(name).exists() else ""
            raise InputError(f"tokenizer: {error}; before there is one, plan with --vocab_size N{instead}") from error
        return None


def _is_configuration_alone(folder: Path) -> bool:
    return [file.name for file in folder.glob("*")] == ["config.json"]


def transformers_config(
    shape: ModelConfig,
    tokenizer: PreTrainedTokenizerFast | None,
    sequence_length: int,
    is_classifier: bool = False,
) -> PretrainedConfig:
    """Return the configuration of the model.

    Raises:
        InputError: there is no such model, or blocks are longer than it has positions.
    """
    from jpllm.models import build
    from jpllm.planning.size import VocabularyOnly

    if shape.model in PRESETS:
        found = build.transformers_config(shape, tokenizer or VocabularyOnly(shape.vocab_size or 0))
    else:
        found = _trained_config(shape.model, is_classifier)
    positions = build.configured_positions(found)
    if positions and sequence_length > positions:
        raise InputError(
            f"sequence_length: {sequence_length:,} tokens are more than the model's {positions:,} positions; lower "
            "sequence_length or raise max_positions"
        )
    return found


def _trained_config(name: str, is_classifier: bool) -> PretrainedConfig:
    """Return the configuration of a trained model, which is looked at as the recipe will."""
    import transformers

    from jpllm.models import build, classifier, multimodal, pretrained, weight_files

    try:
        found = pretrained.read_config(name)
    except pretrained.ModelNotFound as error:
        raise InputError(
            f"model: {name} is no preset{suggest(name, PRESETS)}, no folder with a model, and no model of that name "
            "can be found on the Hub"
        ) from error
    if is_classifier:
        classifier.refuse_no_classifier("model", found)
        auto_class = transformers.AutoModelForSequenceClassification
    else:
        build.refuse_no_causal("model", found)
        found = multimodal.text_configuration(found)
        auto_class = transformers.AutoModelForCausalLM
    if weight_files.has_some(Path(name)):  # a configuration alone can be planned with
        weight_files.examine(Path(name))
    pretrained.build_without_memory(name, auto_class, found)
    return found


def _add_pad_row(model: PretrainedConfig, tokenizer: PreTrainedTokenizerFast | None) -> None:
    """Give the vocabulary a row for the padding id, where it has none."""
    from jpllm.tokenizer.special_tokens import ensure_pad_token

    if tokenizer:
        ensure_pad_token(tokenizer)
        model.vocab_size = max(model.vocab_size, tokenizer.pad_token_id + 1)


def _encoded_conversations(
    recipe: InstructionConfig,
    data: InstructDataConfig,
    training: TrainingConfig,
    tokenizer: PreTrainedTokenizerFast | None,
) -> PackedRows | RowsByLength | None:
    """Return the rows as the recipe takes them; None without a tokenizer, or where a source is not on this machine."""
    from jpllm.data.conversations.blocks import PackedRows, RowsByLength
    from jpllm.data.conversations.rows import held_out_and_rest, read_rows
    from jpllm.data.read.files import find_files
    from jpllm.tokenizer.chat_template import encode_conversation, set_template, special_token_in
    from jpllm.tokenizer.special_tokens import special_ids

    if tokenizer is None:
        return None
    try:
        for source in data.sources:
            if source.is_hub:
                return None
            find_files(source.path)
    except InputError:
        return None
    set_template(tokenizer, recipe.template, recipe.eos_token)
    encode = partial(encode_conversation, tokenizer, learn=recipe.learn)
    find_special = partial(special_token_in, tokenizer, special=special_ids(tokenizer))
    rows, _ = read_rows(data.sources, data, encode, find_special)
    if not data.eval_sources:
        _, rows = held_out_and_rest(rows, data.held_out_rows)
    if data.batching == "packed":
        return PackedRows(rows, data.sequence_length, tokenizer.eos_token_id, training.seed)
    return RowsByLength(rows, training.blocks_per_step(1), training.seed)


def _encoded_splits(
    data: LabelledDataConfig, tokenizer: PreTrainedTokenizerFast | None, sees_ahead: bool, max_row_tokens: int
) -> EncodedSplits | None:
    """Return the rows as the recipe takes them; None where there is no tokenizer yet, or a file of them."""
    from jpllm.data.labels.encoding import encode_splits
    from jpllm.data.labels.splits import read_splits
    from jpllm.tokenizer.special_tokens import mark_boundaries

    files = filter(None, (data.train_file, data.validation_file, data.test_file))
    if tokenizer is None or not all(file.is_file() for file in files):
        return None
    mark_boundaries(tokenizer, at_beginning=sees_ahead)
    return encode_splits(read_splits(data), tokenizer, max_row_tokens)
