"""A warning where the model learns its texts by heart: the training loss falls, and that of held-out texts rises."""

from __future__ import annotations

import logging

from transformers import TrainerCallback

from jpllm.tracking import alarms

logger = logging.getLogger(__name__)


class OverfittingWarning(TrainerCallback):
    """Warns at the second evaluation in a row that is worse than the best one while the training loss has fallen."""

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        held_out, training = (
            [(row["step"], row[key]) for row in state.log_history if key in row] for key in ("eval_loss", "loss")
        )
        found = alarms.overfitting(held_out, training)
        if state.is_world_process_zero and found and found.num_worse == alarms.NUM_WORSE:
            logger.warning(
                "step %d: %s; early_stopping_evals keeps the best one, and a lower learning_rate, fewer epochs, "
                "dropout or more text put it off",
                *(state.global_step, found.words),
            )
