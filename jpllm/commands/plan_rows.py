"""What is to be planned of runs on rows: the configurations of recipes/sft.py and recipes/classify.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from jpllm.commands.plan_row_budgets import instruct_budget, label_budget
from jpllm.commands.plan_texts import PlannedModel, load_tokenizer, transformers_config
from jpllm.commands.planning import Asked, PlanConfig
from jpllm.config import REQUIRED, option
from jpllm.data.instruct import InstructDataConfig
from jpllm.data.labels import LabelledDataConfig
from jpllm.evaluation.generate import SamplingConfig
from jpllm.models.classifier import Trainable
from jpllm.models.presets import PRESETS
from jpllm.runtime import InputError
from jpllm.training.config import ClassifierTrainingConfig, TrainingConfig
from jpllm.training.hardware import HardwareConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from jpllm.data.instruct_blocks import PackedRows, RowsByLength
    from jpllm.data.label_rows import EncodedSplits

_UNKNOWN_CLASSES = 2  # of rows that are not there yet; the output of a classifier takes next to nothing


@dataclass
class InstructKeys:
    """Keys of recipes/sft.py itself"""

    tokenizer: str | None = option(None, "Tokenizer folder or name on the Hub; by default that of a trained model.")
    template: Literal["alpaca-ja", "chat", "own"] = option("alpaca-ja", "How a conversation is written.")
    lora_rank: int = option(0, "Rank of the matrices beside the weights (LoRA); 0 trains all weights.", minimum=0)
    lora_alpha: float | None = option(None, "Scale of LoRA's matrices times their rank.", above=0)
    lora_dropout: float = option(0.0, "Dropout in front of LoRA's matrices.", minimum=0, maximum=0.9)
    sample_prompts: list[str] | None = option(None, "Questions that are answered at every evaluation.")
    answered_rows: int = option(20, "Held-out rows that are answered at every evaluation.", minimum=0)

    def check(self) -> Iterator[tuple[str, str]]:
        """LoRA's keys with LoRA."""
        if not self.lora_rank and (self.lora_alpha is not None or self.lora_dropout):
            yield "lora_rank", "is 0, so lora_alpha and lora_dropout cannot act; give a rank, or remove them"


@dataclass
class LabelKeys:
    """Keys of recipes/classify.py itself"""

    tokenizer: str | None = option(None, "Tokenizer folder or name on the Hub; by default that of a trained model.")
    trainable: Trainable | None = option(None, "What learns; by default last_block, and all of an encoder.")
    keep_trunk_output: bool | None = option(
        None, "Compute frozen layers once and keep their output; by default wherever there are some."
    )
    padding: Literal["batch", "longest_train_row"] = option("batch", "To what length training batches are padded.")
    max_row_tokens: int | None = option(None, "Tokens of a row; by default as many as the model can read.", minimum=2)
    metric: Literal["accuracy", "macro_f1", "pearson", "spearman"] | None = option(
        None, "What early_stopping_evals goes by."
    )


@dataclass
class TaughtModel(PlannedModel):
    """Model"""

    model: str = option(
        REQUIRED, f"Trained model, a folder or a name; before there is one, its shape ({', '.join(PRESETS)})."
    )


_ROWS = (HardwareConfig, PlanConfig)
INSTRUCT_CONFIGURATION = (*_ROWS, InstructKeys, InstructDataConfig, TaughtModel, TrainingConfig, SamplingConfig)
LABEL_CONFIGURATION = (*_ROWS, LabelKeys, LabelledDataConfig, TaughtModel, ClassifierTrainingConfig)


def instructions(
    recipe: InstructKeys, data: InstructDataConfig, model: PlannedModel, training: TrainingConfig, *_: object
) -> Asked:
    """A run of conversations, encoded here where they and the tokenizer are there."""
    from jpllm.models.learned import Learned
    from jpllm.tokenizer.pad import ensure_pad_token

    tokenizer = load_tokenizer(recipe.tokenizer, model)
    architecture = transformers_config(model, tokenizer, data.sequence_length)
    if tokenizer and ensure_pad_token(tokenizer):
        architecture.vocab_size = max(architecture.vocab_size, tokenizer.pad_token_id + 1)
    items = _instruct_items(recipe, data, training, tokenizer)
    is_packed = data.batching == "packed"
    longest = data.sequence_length
    if items and not is_packed:
        longest = max(map(items.num_tokens, range(items.num_items)))
    return Asked(
        recipe="sft",
        model=model.model,
        architecture=architecture,
        training=training,
        sequence_length=longest,
        way={
            "isolates": is_packed,
            "learned": Learned(lora_rank=recipe.lora_rank, lora_dropout=recipe.lora_dropout),
        },
        budget=partial(instruct_budget, data, training, items),
        shards_dir=data.shards_dir if data.replay else None,
    )


def labels(
    recipe: LabelKeys, data: LabelledDataConfig, model: PlannedModel, training: ClassifierTrainingConfig
) -> Asked:
    """A run of labelled rows, encoded here where they and the tokenizer are there."""
    from jpllm.models.build import context_length
    from jpllm.models.classifier import is_encoder
    from jpllm.models.learned import Learned, empty_model
    from jpllm.planning.of_run import longest_sequence, row_details
    from jpllm.tokenizer.pad import ensure_pad_token

    tokenizer = load_tokenizer(recipe.tokenizer, model)
    architecture = transformers_config(model, tokenizer, 0)
    architecture.pad_token_id = 0
    if tokenizer and ensure_pad_token(tokenizer):
        architecture.vocab_size = max(architecture.vocab_size, tokenizer.pad_token_id + 1)
    sees_ahead = is_encoder(architecture)
    classifier = empty_model(architecture, learned=Learned(classifier="all"))
    most = min(context_length(classifier), tokenizer.model_max_length if tokenizer else sys.maxsize)
    longest = recipe.max_row_tokens or most
    if longest > most:
        raise InputError(f"max_row_tokens: {longest:,} are more than the {most:,} that the model can read")
    splits = _label_splits(data, tokenizer, sees_ahead, longest)
    if data.task == "classification":
        architecture.num_labels = len(splits.class_names) if splits else _UNKNOWN_CLASSES
    else:
        architecture.num_labels = 1
    trainable = recipe.trainable or ("all" if sees_ahead else "last_block")
    keeps_trunk = trainable != "all" and recipe.keep_trunk_output is not False
    way = {
        "learned": Learned(classifier=trainable),
        "sequences_per_row": len(data.choice_columns) if data.choice_columns else 1,
        "keeps_trunk": keeps_trunk,
    }
    if splits:
        longest, way = longest_sequence(splits), row_details(architecture, splits, trainable, keeps_trunk)
    return Asked(
        recipe="classify",
        model=model.model,
        architecture=architecture,
        training=training,
        sequence_length=longest,
        way=way,
        budget=partial(label_budget, data, training, splits),
    )


def _instruct_items(
    recipe: InstructKeys,
    data: InstructDataConfig,
    training: TrainingConfig,
    tokenizer: PreTrainedTokenizerFast | None,
) -> PackedRows | RowsByLength | None:
    """The rows as the recipe takes them; None where there is no tokenizer yet, or a source is not on this machine."""
    from jpllm.data.instruct_blocks import PackedRows, RowsByLength
    from jpllm.data.instruct_rows import held_out_and_rest, read_rows
    from jpllm.data.sources import find_files
    from jpllm.tokenizer.chat_template import encode_conversation, set_template, special_token_in

    try:
        for source in data.sources:
            if tokenizer is None or source.is_hub:
                return None
            find_files(source.path)
    except InputError:
        return None
    set_template(tokenizer, recipe.template)
    rows, _ = read_rows(
        data.sources, data, partial(encode_conversation, tokenizer), partial(special_token_in, tokenizer)
    )
    if not data.eval_sources:
        _, rows = held_out_and_rest(rows, min(data.held_out_rows, len(rows) // 10))
    if data.batching == "packed":
        return PackedRows(rows, data.sequence_length, tokenizer.eos_token_id, training.seed)
    return RowsByLength(rows, training.blocks_per_step(1), training.seed)


def _label_splits(
    data: LabelledDataConfig, tokenizer: PreTrainedTokenizerFast | None, sees_ahead: bool, max_row_tokens: int
) -> EncodedSplits | None:
    """The rows as the recipe takes them; None where there is no tokenizer yet, or a file of them."""
    from jpllm.data.label_rows import encode_splits
    from jpllm.data.label_splits import read_splits
    from jpllm.tokenizer.boundaries import mark_boundaries

    files = filter(None, (data.train_file, data.validation_file, data.test_file))
    if tokenizer is None or not all(file.is_file() for file in files):
        return None
    mark_boundaries(tokenizer, at_beginning=sees_ahead)
    return encode_splits(read_splits(data), tokenizer, max_row_tokens)
