"""What is to be planned of pre-training: the configurations of recipes/pretrain_scratch.py and recipes/cpt.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from jpllm.commands.planning import Asked, PlanConfig
from jpllm.config import option
from jpllm.config_types import suggest
from jpllm.data.corpus import DataConfig
from jpllm.data.masking import MASKED_SHARE
from jpllm.data.sources import SourceConfig
from jpllm.evaluation.generate import SamplingConfig
from jpllm.models.presets import PRESETS, ModelConfig
from jpllm.runtime import InputError
from jpllm.training.config import TrainingConfig
from jpllm.training.hardware import HardwareConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

    from jpllm.models.scheme import Scheme
    from jpllm.training.budget import Budget

_OWN_KEYS = ("model", "vocab_size", "dropout")  # of the model keys, those that a trained model may have beside it
_OF_SFT = (
    *("template", "lora_rank", "lora_alpha", "lora_dropout", "answered_rows"),
    *("held_out_rows", "too_long", "batching", "old_texts"),
)
_OF_CLASSIFY = (
    *("trainable", "keep_trunk_output", "padding", "max_row_tokens", "metric", "task", "encoding"),
    *("train_file", "validation_file", "test_file", "validation_share", "test_share", "balance", "max_train_rows"),
    *("text_column", "pair_column", "choice_columns", "label_column", "split_seed"),
)


@dataclass
class RecipeKeys:
    """Keys of the recipes themselves"""

    renamed_keys: ClassVar[dict[str, str]] = {
        **dict.fromkeys(_OF_SFT, "a key of recipes/sft.py; give --recipe sft"),
        **dict.fromkeys(_OF_CLASSIFY, "a key of recipes/classify.py; give --recipe classify"),
    }

    tokenizer: str | None = option(None, "Tokenizer folder or name on the Hub; by default that of a trained model.")
    objective: Literal["clm", "mlm"] = option("clm", "clm: predict the next token; mlm: fill in hidden words.")
    masked_share: float | None = option(
        None, "Share of the tokens that mlm hides, by default 0.15.", above=0, maximum=0.9
    )
    replay: float = option(0.0, "Share of the training tokens that comes from replay_sources.", minimum=0, maximum=0.95)
    replay_sources: list[SourceConfig] = option(default_factory=list, help="Texts that are mixed in to forget less.")
    embedding_warmup_steps: int = option(0, "Steps in which only the token embeddings learn.", minimum=0)
    sample_prompts: list[str] | None = option(None, "Prompts that are answered at every evaluation.")

    @property
    def effective_masked_share(self) -> float:
        """What is predicted of a block by mlm; 0 for clm."""
        return (self.masked_share or MASKED_SHARE) if self.objective == "mlm" else 0.0


@dataclass
class PlannedModel(ModelConfig):
    """Model"""

    model: str = option("llama-tiny", f"Shape of a new model ({', '.join(PRESETS)}), or a trained one: folder or name.")
    dropout: float | None = option(None, "Dropout probability, instead of the model's own.", minimum=0, maximum=0.9)

    def check(self) -> Iterator[tuple[str, str]]:
        """A preset that can be built; a trained model has a shape already."""
        if self.model in PRESETS:
            yield from super().check()
            return
        for field in dataclasses.fields(self):
            if field.name not in _OWN_KEYS and getattr(self, field.name) is not None:
                yield field.name, f"{self.model} is no preset and has its own shape; remove it"


CONFIGURATION = (HardwareConfig, PlanConfig, RecipeKeys, DataConfig, PlannedModel, TrainingConfig, SamplingConfig)


def texts(recipe: RecipeKeys, data: DataConfig, model: PlannedModel, training: TrainingConfig, *_: object) -> Asked:
    """A run of texts, packed into blocks or still to be packed."""
    from jpllm.data.available import available_tokens
    from jpllm.tokenizer.load import fingerprint

    tokenizer = load_tokenizer(recipe.tokenizer, model)
    every = dataclasses.replace(data, sources=data.sources + recipe.replay_sources)
    available = available_tokens(every, fingerprint(tokenizer) if tokenizer else None)
    weights = source_weights(data, recipe, [source.num_tokens for source in available])

    def budget_of(scheme: Scheme) -> Budget:
        from jpllm.training.budget import budget

        return budget(training, available, weights, scheme, data.when_exhausted == "stop")

    return Asked(
        recipe="pretrain_scratch" if model.model in PRESETS else "cpt",
        model=model.model,
        architecture=transformers_config(model, tokenizer, data.sequence_length),
        training=training,
        sequence_length=data.sequence_length,
        way={"isolates": data.isolate_documents, "masked_share": recipe.effective_masked_share},
        budget=budget_of,
        shards_dir=data.shards_dir,
    )


def load_tokenizer(name: str | None, model: PlannedModel) -> PreTrainedTokenizerFast | None:
    """The tokenizer; None where there is none yet and `vocab_size` says how many ids it will have."""
    from jpllm.tokenizer.load import load

    name = name or (None if model.model in PRESETS else model.model)
    try:
        if name is None:
            raise InputError("required, but not set")
        return load(name)
    except InputError as error:
        if model.vocab_size is None:
            shape = " and --model SHAPE, one of --help" if name == model.model and not Path(name).exists() else ""
            raise InputError(f"tokenizer: {error}; before there is one, plan with --vocab_size N{shape}") from error
        return None


def transformers_config(
    model: PlannedModel, tokenizer: PreTrainedTokenizerFast | None, sequence_length: int
) -> PretrainedConfig:
    """The configuration of the model.

    Raises:
        InputError: there is no such model, or blocks are longer than it has positions.
    """
    from transformers import AutoConfig

    from jpllm.models import build
    from jpllm.models.size import VocabularyOnly

    if model.model in PRESETS:
        keys = {**vars(model), "dropout": model.dropout or 0.0}
        found = build.transformers_config(ModelConfig(**keys), tokenizer or VocabularyOnly(model.vocab_size))
    else:
        try:
            found = AutoConfig.from_pretrained(model.model)
        except (OSError, ValueError) as error:
            raise InputError(
                f"model: {model.model} is no preset{suggest(model.model, PRESETS)}, no folder with a model, and no "
                "model of that name can be found on the Hub"
            ) from error
    positions = getattr(found, "max_position_embeddings", None)
    if positions and sequence_length > positions:
        raise InputError(
            f"sequence_length: {sequence_length:,} tokens are more than the model's {positions:,} positions; lower "
            "sequence_length or raise max_positions"
        )
    return found


def source_weights(data: DataConfig, recipe: RecipeKeys, sizes: Sequence[int | None]) -> list[float] | None:
    """Weights of the sources with the replayed ones behind them; None where sources share by size."""
    from jpllm.data.corpus import weights_with_replay

    if not recipe.replay:
        return data.weights
    if None in sizes:
        return None
    num_new = len(data.sources)
    return weights_with_replay(sizes[:num_new], data.weights, sizes[num_new:], recipe.replay)
