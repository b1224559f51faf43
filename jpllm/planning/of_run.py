"""The plan of a run on this machine: kept in its folder before the first step, and asked where memory runs out."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jpllm import terminal, whole_files
from jpllm.models.trained_parts import ALL_PARTS, TrainedParts
from jpllm.planning import budget, hardware
from jpllm.planning.hardware import DEFAULT_MFU, Hardware, HardwareConfig
from jpllm.planning.report import Report, accelerate_config, changed_keys, memory_size
from jpllm.planning.search import Search
from jpllm.planning.setup import SetupDetails, TrainingSetup, setup_of
from jpllm.runtime import InputError
from jpllm.tracking.runs import PLAN_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig

    from jpllm.data.blocks.blend import SourceUse
    from jpllm.data.conversations.blocks import PackedRows, RowsByLength
    from jpllm.data.conversations.layouts import InstructDataConfig
    from jpllm.data.corpus import DataConfig
    from jpllm.data.labels.encoding import EncodedSplits
    from jpllm.data.labels.rows import LabelledDataConfig
    from jpllm.models.classifier import Trainable
    from jpllm.planning.size import ModelSize
    from jpllm.training.config import TrainingConfig
    from jpllm.training.engine import Engine, PlannedEngine

TEXT_NAME = "plan.md"
_TEXT_WIDTH = 118
_CLOSING = "jpllm plan, with the same configuration, looks for what fits"
_USUAL = f"less memory: a smaller per_device_train_batch_size, activation_checkpointing: true; {_CLOSING}"
# RuntimeErrors of PyTorch's allocator on CPUs, and of XLA
_OTHER_ALLOCATORS = ("can't allocate memory", "RESOURCE_EXHAUSTED")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedRun:
    """What decides the memory of a run.

    Attributes:
        sequence_length: tokens of a block, or of the longest sequence.
        engine: what trains it; None where that is still to be chosen.
        details: attributes of a `TrainingSetup` that the training configuration does not decide.
    """

    model: PretrainedConfig
    training: TrainingConfig
    sequence_length: int
    engine: Engine | None = None
    details: SetupDetails = field(default_factory=SetupDetails)

    @property
    def launched(self) -> Engine:
        """The engine of a run that was launched. Raises ValueError where it is still to be chosen."""
        if self.engine is None:
            raise ValueError("the engine of this run is still to be chosen")
        return self.engine

    def size(self) -> ModelSize:
        """Return the counts of the model as it is trained."""
        from jpllm.planning.size import model_size

        parts = self.details.get("trained_parts", TrainedParts())
        return model_size(self.model, self.details.get("masked_share", 0) > 0, parts)

    def setup(self, where: Hardware, engine: PlannedEngine) -> TrainingSetup:
        """Return how the run is configured to train on this hardware with this engine."""
        return setup_of(self.training, self.sequence_length, where, engine, **self.details)

    def search(self) -> tuple[Search, TrainingSetup]:
        """Return a search for setups that fit this machine, and the setup of the run.

        Raises ValueError where its engine is still to be chosen, or one whose memory is not estimated.
        """
        engine = self.launched.planned_as
        if engine is None:
            raise ValueError(f"the memory that {self.launched.name} takes is not estimated")
        where = replace(hardware.resolve(HardwareConfig()), num_gpus=self.launched.num_processes)
        return Search(self.model, self.size(), where), self.setup(where, engine)

    def write(
        self,
        mixture: Sequence[SourceUse],
        num_tokens: int,
        num_steps: int | None = None,
        shards_dir: Path | None = None,
    ) -> None:
        """Write what `jpllm plan` says of this run, as numbers and as a text; a line in the log where it cannot say it.

        `num_steps` is given where steps are not all of `sequence_length` tokens a block. For `shards_dir` see
        `jpllm.planning.budget.disk_needs`.
        """
        output_dir = self.training.output_dir
        files = [output_dir / name for name in (PLAN_NAME, TEXT_NAME)]
        for file in files:  # of an earlier start
            file.unlink(missing_ok=True)
        if self.launched.planned_as is None:
            logger.info("no plan of this run: the memory that %s takes is not estimated", self.launched.name)
            return
        try:
            report = self._report(mixture, num_tokens, num_steps, shards_dir)
            numbers = json.dumps(report.numbers(), indent=2) + "\n"
            text = f"# Plan of {output_dir.name}\n\n```text\n{_text(report)}\n```\n"
        except Exception as error:  # a prediction is worth less than the run
            logger.info("no plan of this run: %s: %s", type(error).__name__, error)
            return
        for file, content in zip(files, (numbers, text), strict=True):
            whole_files.write_whole(file, content)

    @contextmanager
    def explained(self) -> Generator[None]:
        """Make an error of memory that runs out in the body one that says which keys need less, and how much.

        Raises:
            InputError: memory ran out.
        """
        import torch

        try:
            yield
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            is_of_cuda = isinstance(error, torch.OutOfMemoryError)
            if not (is_of_cuda or any(words in str(error) for words in _OTHER_ALLOCATORS)):
                raise
            reason = str(error).splitlines()[0]
            advice = _USUAL
            if self.launched.planned_as is not None:
                with suppress(Exception):  # a prediction that fails is not what ended the run
                    advice = self._advice()
            raise InputError(f"out of memory: {reason}\n{advice}") from error

    def _report(
        self, mixture: Sequence[SourceUse], num_tokens: int, num_steps: int | None, shards_dir: Path | None
    ) -> Report:
        """Return the plan of a run whose data is encoded: nothing in it is an estimate but memory and time."""
        search, asked = self.search()
        tokens_per_step = round(num_tokens / num_steps) if num_steps else asked.tokens_per_step
        spends = budget.Budget(
            num_tokens,
            num_steps or num_tokens // tokens_per_step,
            tokens_per_step,
            [budget.share_of_use(use, "token shards" if num_steps is None else "this run") for use in mixture],
            is_of_rows=num_steps is not None,
        )
        disk = budget.disk_needs(self.training, shards_dir, spends, search.size, asked)
        return Report(
            model=self.training.output_dir.name,
            architecture=self.model.model_type,
            size=search.size,
            where=search.hardware,
            best=search.candidate(asked, asked),
            others=[],
            spends=spends,
            disk=disk,
            disk_shortages=budget.disk_shortages(disk),
            mfu=DEFAULT_MFU,
            measured=None,
        )

    def _advice(self) -> str:
        search, asked = self.search()
        where = search.hardware
        lines = [
            f"this run takes about {memory_size(search.candidate(asked, asked).memory.peak)} of the "
            f"{memory_size(where.memory)} that {where.name} has in all; it would be about"
        ]
        for saving in search.savings(asked):
            keys = changed_keys(saving) or [accelerate_config(saving, where)]
            lines.append(f"  {memory_size(saving.memory.peak):>10} with {', '.join(keys)}")
        return "\n".join([*lines, _CLOSING])


def of_texts(
    model: PretrainedConfig,
    data: DataConfig,
    training: TrainingConfig,
    masked_share: float,
    engine: Engine | None = None,
    trained_parts: TrainedParts = ALL_PARTS,
) -> PlannedRun:
    """Plan to learn from blocks of text; `masked_share` of each block is filled in, 0 where the next token is."""
    details: SetupDetails = {
        "isolates": data.isolate_documents,
        "masked_share": masked_share,
        "trained_parts": trained_parts,
    }
    return PlannedRun(model, training, data.sequence_length, engine, details)


def of_conversations(
    model: PretrainedConfig,
    data: InstructDataConfig,
    training: TrainingConfig,
    items: PackedRows | RowsByLength | None,
    trained_parts: TrainedParts,
    engine: Engine | None = None,
) -> PlannedRun:
    """Plan to learn from conversations; without `items` the longest may have `sequence_length` tokens."""
    is_packed, longest = data.batching == "packed", data.sequence_length
    if items is not None and not is_packed:
        longest = max(map(items.num_tokens, range(items.num_items)))
    details: SetupDetails = {"isolates": is_packed, "trained_parts": trained_parts}
    return PlannedRun(model, training, longest, engine, details)


def of_labelled_rows(
    model: PretrainedConfig,
    data: LabelledDataConfig,
    training: TrainingConfig,
    splits: EncodedSplits | None,
    max_tokens: int,
    trainable: Trainable,
    keeps_trunk: bool,
    engine: Engine | None = None,
) -> PlannedRun:
    """Plan to train a classifier; without encoded rows the longest may have `max_tokens` tokens.

    `keeps_trunk` says that the output of the frozen layers is kept, if there are some.
    """
    from jpllm.data.labels.encoding import sequences_of

    longest, num_kept_tokens = max_tokens, 0
    if splits is not None:
        longest = max(map(len, sequences_of([*splits.train, *splits.validation, *splits.test])))
        num_kept_tokens = sum(map(len, sequences_of([*splits.train, *splits.validation])))
    details: SetupDetails = {
        "trained_parts": TrainedParts(classifier=trainable),
        "sequences_per_row": len(data.choice_columns) if data.choice_columns else 1,
        "keeps_trunk": keeps_trunk,
        # of the file, see `jpllm.models.trunk.KeptStates`
        "kept_bytes": 4 * num_kept_tokens * model.get_text_config().hidden_size if keeps_trunk else 0,
    }
    return PlannedRun(model, training, longest, engine, details)


def _text(report: Report) -> str:
    written = io.StringIO()
    console = terminal.console(file=written, width=_TEXT_WIDTH)
    for part in report.parts():
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in written.getvalue().strip().splitlines())
