"""`jpllm card`: write the README.md of a model out of what its run recorded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jpllm import bounded, runtime
from jpllm.config.parse import parse
from jpllm.config.settings import REQUIRED, option
from jpllm.runtime import InputError
from jpllm.sharing.card.compose import CARD_NAME, CardConfig

if TYPE_CHECKING:
    from jpllm.tracking.runs import Run

logger = logging.getLogger(__name__)


@dataclass
class CardFiles:
    """Files"""

    run: list[Path] = option(REQUIRED, "Folder of the run, or of a model without a record.")
    evaluation: list[Path] = option(
        default_factory=list,
        help="More folders with an evaluation.json of this model; those in the run are read anyway.",
    )
    overwrite: bool = option(False, "Replace a README.md that is there.")
    report_to: Literal["none", "wandb"] = option(
        "none", "Add the card to the run of Weights & Biases that the training was mirrored to, as an artifact."
    )

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield a problem where there is not exactly one run."""
        if len(self.run) != 1:
            yield "run", "name one run folder"


def card(argv: Sequence[str]) -> None:
    """Write the model card of a run: README.md beside its model."""
    files, settings = parse(
        [CardFiles, CardConfig],
        argv,
        prog="jpllm card",
        description=f"{card.__doc__} Example: jpllm card runs/NAME --license apache-2.0",
        positional="run",
    )
    from jpllm.sharing.card import compose as cards
    from jpllm.tracking.wandb import mirror

    (folder,) = files.run
    target = cards.model_folder(folder) / CARD_NAME
    if target.exists() and not files.overwrite:
        raise InputError(f"{target}: there is a card already; --overwrite replaces it")
    mirrored = mirror.mirrored_run(target.parent) if files.report_to == "wandb" else None
    facts = cards.gather(folder, read_run(folder, files.evaluation), settings)
    file = cards.write(cards.compose(facts, settings), target.parent, facts.plots, folder)
    runtime.announce(f"card {file}")
    if mirrored:
        mirror.send_card(mirrored, file)


def read_run(folder: Path, evaluations: Sequence[Path]) -> Run:
    """Return the record of a run with the evaluations in it and those given, without those of other weights.

    Raises:
        InputError: the folder holds neither a run nor a model, or one of the others no evaluation.
    """
    from jpllm.tracking import runs

    try:
        run = runs.read_run(folder, folder.resolve().name)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    run.evaluations += map(_evaluation, evaluations)
    if run.evaluations:
        own = weights_of(folder)
        known = [found for found in run.evaluations if found.get("weights_sha256") == own]
        if len(known) < len(run.evaluations):
            logger.warning(
                "%d of %d evaluations are of other weights, and left out",
                *(len(run.evaluations) - len(known), len(run.evaluations)),
            )
        run.evaluations = known
    return run


def _evaluation(folder: Path) -> dict:
    from jpllm.tracking.runs import EVALUATION_NAME, shareable

    file = folder / EVALUATION_NAME
    if not file.is_file():
        raise InputError(f"evaluation: {folder} holds no {EVALUATION_NAME}")
    try:
        return shareable(bounded.json_object(file))
    except InputError as error:
        raise InputError(f"{file}: broken JSON ({error}); measure again with recipes/evaluate.py") from error


def weights_of(folder: Path) -> str:
    """Return the fingerprint of a model's weights, as evaluations name it."""
    from jpllm.evaluation.results import identity
    from jpllm.models.classifier import load_any_kind
    from jpllm.sharing.card.compose import model_folder
    from jpllm.tokenizer.load import load

    model_dir = model_folder(folder)
    return identity("", load_any_kind(model_dir), load(model_dir))["weights_sha256"]
