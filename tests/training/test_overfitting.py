"""The warning comes once, when held-out texts get worse while those of the training get better."""

import logging
from types import SimpleNamespace

import pytest

from jpllm.training.callbacks import OverfittingWarning


def warnings(caplog, pairs):
    """Of a run with one training loss and one evaluation at each step."""
    state = SimpleNamespace(log_history=[], is_world_process_zero=True)
    with caplog.at_level(logging.WARNING):
        for step, (train, held_out) in enumerate(pairs, 1):
            state.global_step = step
            state.log_history += [{"step": step, "loss": train}, {"step": step, "eval_loss": held_out}]
            OverfittingWarning().on_evaluate(None, state, None)
    return [record.getMessage() for record in caplog.records]


def test_overfitting(caplog):
    (message,) = warnings(caplog, [(3, 3.1), (2.5, 3), (2, 3.1), (1.5, 3.2), (1, 3.3), (0.9, 3.4)])
    assert message.startswith(
        "step 4: held-out loss 3.2000, it was 3.0000 at step 2, while the training loss fell from 2.5000 to 1.5000"
    )


@pytest.mark.parametrize(
    "pairs",
    [
        [(3, 3), (2, 2.9), (1, 2.8)],
        [(3, 3), (2, 3.01), (1, 3.02)],  # hardly any worse
        [(3, 3), (3.1, 3.2), (3.2, 3.4)],  # diverging is another matter
        [(3, 3), (2, 3.2), (1.5, 2.9)],
    ],
)
def test_no_overfitting(caplog, pairs):
    assert warnings(caplog, pairs) == []
