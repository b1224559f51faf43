"""The plan of a run on this machine: kept in its folder before the first step, and asked where memory runs out."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from jpllm.models.learned import Learned
from jpllm.training import out_of_memory, planned_run, run_plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PretrainedConfig

    from jpllm.data.corpus import DataConfig
    from jpllm.data.instruct import InstructDataConfig
    from jpllm.data.instruct_blocks import PackedRows, RowsByLength
    from jpllm.data.label_rows import EncodedSplits
    from jpllm.data.labels import LabelledDataConfig
    from jpllm.data.mix import SourceUse
    from jpllm.models.classifier import Trainable
    from jpllm.training.config import TrainingConfig
    from jpllm.training.engine import Engine


def of_texts(
    model: PretrainedConfig, data: DataConfig, training: TrainingConfig, masked_share: float, engine: Engine
) -> PlannedRun:
    """Plan to learn from blocks of text; `masked_share` of each block is filled in, 0 where the next token is."""
    details = {"isolates": data.isolate_documents, "masked_share": masked_share}
    return PlannedRun(model, training, data.sequence_length, engine, details)


def of_conversations(
    model: PretrainedConfig,
    data: InstructDataConfig,
    training: TrainingConfig,
    items: PackedRows | RowsByLength,
    lora: tuple[int, float],
    engine: Engine,
) -> PlannedRun:
    """Plan to learn from conversations; `lora` is the rank (0 without LoRA) and the dropout of its matrices."""
    is_packed = data.batching == "packed"
    longest = data.sequence_length if is_packed else max(map(items.num_tokens, range(items.num_items)))
    rank, dropout = lora
    details = {"isolates": is_packed, "learned": Learned(lora_rank=rank, lora_dropout=dropout)}
    return PlannedRun(model, training, longest, engine, details)


def of_labelled_rows(
    model: PretrainedConfig,
    data: LabelledDataConfig,
    training: TrainingConfig,
    splits: EncodedSplits,
    max_tokens: int,
    trainable: Trainable,
    keeps_trunk: bool,
    engine: Engine,
) -> PlannedRun:
    """Plan to train a classifier; `keeps_trunk` says that the output of the frozen layers is kept."""
    details = row_details(model, splits, trainable, keeps_trunk)
    return PlannedRun(model, training, longest_sequence(splits), engine, details)


def longest_sequence(splits: EncodedSplits) -> int:
    """Return the tokens of the longest sequence: some batch is padded to it."""
    from jpllm.data.label_rows import sequences_of

    return max(map(len, sequences_of([*splits.train, *splits.validation, *splits.test])))


def row_details(
    model: PretrainedConfig, splits: EncodedSplits, trainable: Trainable, keeps_trunk: bool
) -> dict[str, object]:
    """Return what a plan has to know of labelled rows beside the length of the sequences."""
    from jpllm.data.label_rows import sequences_of

    num_kept_tokens = sum(map(len, sequences_of([*splits.train, *splits.validation]))) if keeps_trunk else 0
    return {
        "learned": Learned(classifier=trainable),
        "sequences_per_row": len(splits.train[0].sequences),
        "keeps_trunk": keeps_trunk,
        # of the file, see `jpllm.models.trunk.KeptStates`
        "kept_bytes": 4 * num_kept_tokens * model.get_text_config().hidden_size,
    }


class PlannedRun(planned_run.PlannedRun):
    """What decides the memory of a run, with the plan and the advice that follow from it."""

    def write(
        self,
        mixture: Sequence[SourceUse],
        num_tokens: int,
        num_steps: int | None = None,
        shards_dir: Path | None = None,
    ) -> None:
        """Write the plan into the run folder; see `jpllm.training.run_plan.write`."""
        run_plan.write(self, mixture, num_tokens, num_steps, shards_dir)

    def explained(self) -> AbstractContextManager[None]:
        """Return a context that explains running out of memory; see `jpllm.training.out_of_memory.explained`."""
        return out_of_memory.explained(self)
