"""Draw the curves of a run as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm.terminal import harmless
from jpllm.tracking.metrics import EVAL_GROUP_PREFIX
from jpllm.whole_files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#c0392b", "#2c7fb8", "#41903a", "#8e5ea2")


def plot_loss(
    rows: Sequence[dict], tokens_per_epoch: float, file: Path, title: str, loss_unit: str = "nats per token"
) -> None:
    """Draw training and held-out loss: epochs below, tokens seen above. `rows` are those of `metrics.jsonl`.

    Where the held-out texts are in groups, a second picture shows the bits per byte of each.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    groups = sorted({key for row in rows for key in row if key.startswith(EVAL_GROUP_PREFIX)})
    figure, axes = plt.subplots(
        *(1, 1 + bool(groups)), figsize=(8 + 6 * bool(groups), 4.8), dpi=120, layout="constrained", squeeze=False
    )
    losses, *others = axes[0]

    def points(key: str) -> list[tuple[float, float]]:
        return [(row["tokens"] / tokens_per_epoch, row[key]) for row in rows if key in row]

    if train := points("loss"):
        losses.plot(*zip(*train, strict=True), color="#8fb3d9", linewidth=1.2, label="training")
    if held_out := points("eval_loss"):
        label = f"held-out ({held_out[-1][1]:.3f})"
        _draw(losses, held_out, _COLOURS[0], label)
    losses.set(xlabel="epochs", ylabel=f"loss ({loss_unit})", title=_as_it_is(title))
    for panel in others:
        for key, colour in zip(groups, itertools.cycle(_COLOURS[1:])):
            values = points(key)
            name = key.removeprefix(EVAL_GROUP_PREFIX)
            _draw(panel, values, colour, f"{name} texts ({values[0][1]:.3f} → {values[-1][1]:.3f})")
        panel.set(xlabel="epochs", ylabel="bits per byte", title="learned and forgotten")
    for panel in axes[0]:
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
        top = panel.secondary_xaxis("top", functions=(lambda e: e * tokens_per_epoch, lambda t: t / tokens_per_epoch))
        top.set_xlabel("tokens seen")
        top.xaxis.set_major_formatter(EngFormatter())
    with whole_file(file) as unfinished:
        figure.savefig(unfinished, format=file.suffix.removeprefix("."))
    plt.close(figure)


def plot_figures(rows: Sequence[dict], names: Sequence[str], file: Path, title: str) -> None:
    """Draw figures of the evaluations, such as `accuracy`, over the epochs. `rows` are those of `metrics.jsonl`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(8, 4.8), dpi=120, layout="constrained")
    for name, colour in zip(names, itertools.cycle(_COLOURS)):
        values = [(row["epoch"], row[f"eval_{name}"]) for row in rows if f"eval_{name}" in row]
        _draw(panel, values, colour, f"{name} ({values[0][1]:.4f} → {values[-1][1]:.4f})")
    panel.set(xlabel="epochs", ylabel="validation rows", title=_as_it_is(title))
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    with whole_file(file) as unfinished:
        figure.savefig(unfinished, format=file.suffix.removeprefix("."))
    plt.close(figure)


def _draw(panel: Axes, values: Sequence[tuple[float, float]], colour: str, label: str) -> None:
    label = _as_it_is(label)
    panel.plot(*zip(*values, strict=True), color=colour, linewidth=1.8, marker="o", markersize=3, label=label)


def _as_it_is(text: str) -> str:
    """Return what matplotlib draws as the text; between two dollars it would read a formula, and may refuse it."""
    return harmless(text).replace("$", r"\$")
