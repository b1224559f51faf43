import matplotlib.pyplot as plt
import pytest

from jpllm.tracking.plot import plot_loss

ROWS = [
    {"step": 0, "epoch": 0.0, "tokens": 0, "eval_loss": 9.0},
    {"step": 1, "epoch": 0.5, "tokens": 1000, "loss": 8.0},
    {"step": 2, "epoch": 1.0, "tokens": 2000, "loss": 7.0},
    {"step": 2, "epoch": 1.0, "tokens": 2000, "eval_loss": 7.5},
]


def test_plot_shows_both_curves_with_epochs_below_and_tokens_above(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plt, "close", lambda figure: drawn.update(figure=figure))
    plot_loss(ROWS, 2000, tmp_path / "loss.png", "a run")
    axes = drawn["figure"].axes[0]
    training, held_out = axes.lines
    assert training.get_xydata().tolist() == [[0.5, 8.0], [1.0, 7.0]]
    assert held_out.get_xydata().tolist() == [[0.0, 9.0], [1.0, 7.5]]
    assert axes.get_xlabel() == "epochs"
    (top,) = axes.child_axes
    assert top.get_xlabel() == "tokens seen"
    assert top.get_xlim() == pytest.approx([limit * 2000 for limit in axes.get_xlim()])
    assert (tmp_path / "loss.png").stat().st_size > 10_000
