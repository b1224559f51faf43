"""The loss curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def plot_loss(rows: Sequence[dict], tokens_per_epoch: int, file: Path, title: str) -> None:
    """Draw training and held-out loss: epochs below, tokens seen above. `rows` are those of `metrics.jsonl`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    train = [(row["tokens"] / tokens_per_epoch, row["loss"]) for row in rows if "loss" in row]
    held_out = [(row["tokens"] / tokens_per_epoch, row["eval_loss"]) for row in rows if "eval_loss" in row]

    figure, axes = plt.subplots(figsize=(8, 4.8), dpi=120, layout="constrained")
    if train:
        axes.plot(*zip(*train, strict=True), color="#8fb3d9", linewidth=1.2, label="training")
    if held_out:
        label = f"held-out ({held_out[-1][1]:.3f})"
        axes.plot(*zip(*held_out, strict=True), color="#c0392b", linewidth=1.8, marker="o", markersize=3, label=label)
    axes.set(xlabel="epochs", ylabel="loss (nats per token)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    top = axes.secondary_xaxis("top", functions=(lambda e: e * tokens_per_epoch, lambda t: t / tokens_per_epoch))
    top.set_xlabel("tokens seen")
    top.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter())
    figure.savefig(file)
    plt.close(figure)
