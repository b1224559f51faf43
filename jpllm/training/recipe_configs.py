"""The keys that each training recipe has for itself, and the configuration classes that it and `jpllm plan` read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal, cast, get_args

from jpllm.config.parse import ConfigError
from jpllm.config.settings import REQUIRED, option
from jpllm.data.blocks.masking import MASKED_SHARE
from jpllm.data.conversations.layouts import InstructDataConfig
from jpllm.data.corpus import DataConfig
from jpllm.data.labels.rows import LabelledDataConfig
from jpllm.data.read.sources import SourceConfig
from jpllm.evaluation.generate import SamplingConfig
from jpllm.models.classifier import Trainable
from jpllm.models.dtypes import DTYPES_OF_PRECISION, Dtype, DtypeName, Quantization
from jpllm.models.lora import FullPart
from jpllm.models.presets import ModelConfig
from jpllm.models.trained_parts import TrainedParts
from jpllm.tokenizer.chat_template import Learn
from jpllm.tokenizer.templates import TemplateName
from jpllm.training.config import ClassifierTrainingConfig, Precision, TrainingConfig

PROMPTS = {
    "clm": ["今日はどんな一日でしたか?", "吾輩は猫である", "むかし、"],
    "mlm": ["今日は[MASK]へ行きました。", "吾輩は[MASK]である", "むかし、ある[MASK]に"],
}
CLASSIFIER_METRICS = {  # the first of a task is the default
    "classification": ("accuracy", "macro_f1"),
    "regression": ("pearson", "spearman"),
    "multiple_choice": ("accuracy",),
}


@dataclass
class PretrainingConfig:
    """Recipe"""

    tokenizer: str = option(REQUIRED, "Tokenizer folder, or name on the Hugging Face Hub.")
    objective: Literal["clm", "mlm"] = option(
        "clm", "clm: predict the next token; mlm: fill in hidden words, with a bert preset."
    )
    masked_share: float | None = option(
        None, "Share of the tokens that mlm hides and predicts, by default 0.15.", above=0, maximum=0.9
    )
    sample_prompts: list[str] | None = option(
        None, "Prompts that are continued (mlm: whose [MASK] are filled in) at every evaluation; by default three."
    )

    def __post_init__(self) -> None:
        """Fill in the default prompts, so that they are written down with the other settings."""
        if self.sample_prompts is None:
            self.sample_prompts = list(PROMPTS[self.objective])

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield a problem for a share of hidden tokens where none are hidden."""
        if self.masked_share is not None and self.objective != "mlm":
            yield "masked_share", "acts with objective: mlm only; remove it"

    @property
    def effective_masked_share(self) -> float:
        """Share of a block that mlm hides and predicts; 0 for clm."""
        return (self.masked_share or MASKED_SHARE) if self.objective == "mlm" else 0.0

    def refuse_what_cannot_act(self, data: DataConfig, model_config: ModelConfig, sampling: SamplingConfig) -> None:
        """Raise ConfigError for settings that contradict the objective, or that it would pass over."""
        problems = []
        if model_config.shape.is_encoder and self.objective == "clm":
            problems.append(
                f"objective: {model_config.model} sees the tokens that it would predict; write objective: mlm"
            )
        if not model_config.shape.is_encoder and self.objective == "mlm":
            problems.append(f"model: {model_config.model} sees only what comes before; write model: bert-base")
        if self.objective == "mlm":
            if data.isolate_documents:
                problems.append("isolate_documents: BERT cannot tell the documents of a block apart; remove it")
            changed = [f.name for f in fields(sampling) if getattr(sampling, f.name) != f.default]
            problems += [f"{name}: mlm fills in gaps and samples nothing; remove it" for name in changed]
        if problems:
            raise ConfigError(problems)


@dataclass
class ContinuedPretrainingConfig:
    """Recipe"""

    model: str = option(REQUIRED, "Model to go on with: a folder, or a name on the Hugging Face Hub.")
    tokenizer: str | None = option(None, "Its tokenizer, a folder or a name on the Hub; by default that of `model`.")
    dropout: float | None = option(None, "Dropout probability, instead of the model's own.", minimum=0, maximum=0.9)
    replay: float = option(0.0, "Share of the training tokens that comes from replay_sources.", minimum=0, maximum=0.95)
    replay_sources: list[SourceConfig] = option(
        default_factory=list, help="Texts like those that the model was trained on before; of the group old."
    )
    embedding_warmup_steps: int = option(
        0, "Steps in which only the token embeddings learn; good for those of an extended tokenizer.", minimum=0
    )
    sample_prompts: list[str] = option(
        default_factory=lambda: ["今日はどんな一日でしたか?", "吾輩は猫である", "How was your day?"],
        help="Prompts that are continued before, during and after.",
    )

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield a problem for a share of replayed texts without texts, and for texts without a share."""
        if bool(self.replay) != bool(self.replay_sources):
            yield "replay", "give both the share and replay_sources, or neither"


@dataclass
class InstructionConfig:
    """Recipe"""

    model: str = option(REQUIRED, "Model to teach: a folder, or a name on the Hugging Face Hub.")
    tokenizer: str | None = option(None, "Its tokenizer, a folder or a name on the Hub; by default that of `model`.")
    template: TemplateName = option(
        "alpaca-ja", "How a conversation is written: a form by its name, or own: as the tokenizer has it."
    )
    eos_token: str | None = option(
        None, "Token that ends answers, such as <end_of_turn>; by default the template's, or the tokenizer's EOS."
    )
    learn: Learn = option(
        "all_answers",
        "What is learned of a conversation: all answers, or the last one, with the turns before it given.",
    )
    dropout: float | None = option(None, "Dropout probability, instead of the model's own.", minimum=0, maximum=0.9)
    sample_prompts: list[str] = option(
        default_factory=lambda: ["日本の首都はどこですか。", "3+5を計算してください。"],
        help="Questions that are answered at every evaluation.",
    )
    answered_rows: int = option(
        20, "Held-out rows that are answered at every evaluation too, and compared with what is wanted.", minimum=0
    )


@dataclass
class WeightsConfig:
    """Weights and LoRA"""

    dtype: Dtype = option(
        "auto",
        "Number format that the weights of the model are held in. auto: weights that learn in float32; frozen ones as "
        "they were saved, where this machine computes with that.",
    )
    lora_rank: int = option(
        0, "Train matrices of this rank beside the weights (LoRA); 0 trains all weights.", minimum=0
    )
    lora_alpha: float | None = option(None, "Scale of LoRA's matrices times their rank; by default twice it.", above=0)
    lora_dropout: float = option(0.0, "Dropout in front of LoRA's matrices.", minimum=0, maximum=0.9)
    lora_targets: list[str] = option(
        default_factory=list,
        help="Layers that get LoRA's matrices, by name or by the end of their names, such as q_proj; experts of a "
        "mixture too, such as experts.gate_up_proj. By default all linear layers but the output layer.",
    )
    lora_full: list[FullPart] = option(
        default_factory=list,
        help="What learns as a whole beside LoRA's matrices: embeddings, head (the output layer), or both.",
    )
    quantization: Quantization = option(
        "none", "nf4: hold the frozen linear layers in 4 bits (QLoRA), with lora_rank; needs bitsandbytes."
    )
    save: Literal["merged", "adapter"] = option(
        "merged", "What LoRA leaves: a model with the matrices added to its weights, or the matrices alone."
    )

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield a problem for keys of LoRA where no LoRA is trained, and for one that another makes void."""
        if not self.lora_rank:
            names = ("lora_alpha", "lora_dropout", "lora_targets", "lora_full")
            acting = [name for name in names if getattr(self, name)]
            if acting:
                yield "lora_rank", f"is 0, so {' and '.join(acting)} cannot act; give a rank, or remove what needs one"
            if self.quantization != "none":
                yield "quantization", "4-bit weights cannot learn; give lora_rank too, or remove it"
            if self.save == "adapter":
                yield "save", "without lora_rank there is no adapter; give a rank, or remove it"
            if self.dtype == "float16":
                yield "dtype", "weights that learn lose small updates in float16; write auto, float32 or bfloat16"

    def load_dtype(self, wanted: Precision, precision: Precision) -> Dtype:
        """Return what weights are to be loaded in; "auto" is what they were saved in, where the machine computes so.

        That is for frozen ones: others learn in float32, and all of them are float32 where fp32 is `wanted`. Beside
        4-bit layers the others are in the number format that is computed in, that of the run's `precision`.
        """
        if self.dtype != "auto":
            return self.dtype
        if self.quantization != "none":
            return DTYPES_OF_PRECISION[precision]
        return "auto" if self.lora_rank and wanted != "fp32" else "float32"

    def merged_dtype(self, held: DtypeName, published: str) -> DtypeName:
        """Return what weights held in `held` are saved in: that of the published ones, where no key says otherwise."""
        is_free = self.dtype == "auto" or self.quantization != "none"
        return cast("DtypeName", published) if is_free and published in get_args(DtypeName) else held

    def trained_parts(self, held: DtypeName, saved: DtypeName) -> TrainedParts:
        """Return what learns, and how weights are held and saved, of a model that is held in `held`.

        `saved` is what a model with LoRA's matrices in its weights is saved in.
        """
        return TrainedParts(
            lora_rank=self.lora_rank,
            lora_dropout=self.lora_dropout,
            lora_targets=tuple(self.lora_targets),
            lora_full=tuple(self.lora_full),
            frozen_dtype="nf4" if self.quantization == "nf4" else held if self.lora_rank else "float32",
            learning_dtype="float32" if self.lora_rank else held,
            saved_dtype=saved if self.lora_rank else held,
            saves_adapter=self.save == "adapter",
        )


@dataclass
class ClassifierConfig:
    """Recipe"""

    model: str = option(REQUIRED, "Language model or encoder to go on with: a folder, or a name on the Hub.")
    tokenizer: str | None = option(None, "Its tokenizer, a folder or a name on the Hub; by default that of `model`.")
    trainable: Trainable | None = option(
        None,
        "What learns: the new head; the last layer, the final norm and the head; or all. By default last_block for a "
        "language model and all for an encoder.",
    )
    keep_trunk_output: bool | None = option(
        None, "Compute frozen layers once and keep their output in output_dir; by default wherever there are some."
    )
    padding: Literal["batch", "longest_train_row"] = option(
        "batch", "Pad training batches to their longest row, or all of them to the longest of all."
    )
    max_row_tokens: int | None = option(
        None, "Tokens of a row; longer ones are cut. By default as many as the model can read.", minimum=2
    )
    metric: Literal["accuracy", "macro_f1", "pearson", "spearman"] | None = option(
        None, "What early_stopping_evals goes by: by default accuracy, for numbers pearson."
    )

    def refuse_what_cannot_act(self, data: LabelledDataConfig, training: ClassifierTrainingConfig) -> None:
        """Raise ConfigError for settings that contradict the task, or that it would pass over."""
        problems, metrics = [], CLASSIFIER_METRICS[data.task]
        if self.metric and self.metric not in metrics:
            problems.append(f"metric: {data.task} has {' and '.join(metrics)}, not {self.metric}")
        if self.metric and not training.early_stopping_evals:
            problems.append("metric: acts with early_stopping_evals only; give that, or remove it")
        if training.label_smoothing and data.task == "regression":
            problems.append("label_smoothing: acts on classes only; remove it")
        if self.keep_trunk_output and self.trainable == "all":
            problems.append("keep_trunk_output: nothing is frozen with trainable: all; remove it")
        if problems:
            raise ConfigError(problems)


# The classes of each recipe, by the name of its file: each instance holds the keys of one section of `--help`.
RECIPES: dict[str, tuple[type, ...]] = {
    "pretrain_scratch": (PretrainingConfig, DataConfig, ModelConfig, TrainingConfig, SamplingConfig),
    "cpt": (ContinuedPretrainingConfig, WeightsConfig, DataConfig, TrainingConfig, SamplingConfig),
    "sft": (InstructionConfig, WeightsConfig, InstructDataConfig, TrainingConfig, SamplingConfig),
    "classify": (ClassifierConfig, LabelledDataConfig, ClassifierTrainingConfig),
}
