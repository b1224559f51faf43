"""A run on one screen of a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jpllm.tracking import quantities
from jpllm.tracking.metrics import EVAL_GROUP_PREFIX
from jpllm.tracking.planned_memory import planned_peak
from jpllm.tracking.text_plot import text_plot
from jpllm.tracking.watch import LEAST_SILENCE_SECONDS, Look

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

# The figure of an evaluation that is drawn beside the losses: the first that a run has.
FIGURES = {
    "eval_bits_per_byte": "held-out bits per byte",
    "eval_masked_accuracy": "words filled in right",
    "eval_spearman": "Spearman",
    "eval_accuracy": "accuracy",
    "eval_token_accuracy": "answer tokens right",
}
_STATE_STYLES = {"training": "green", "finished": "bold green", "stopped": "yellow", "unknown": "yellow"}
_SILENCE = f"{LEAST_SILENCE_SECONDS // 60} min"
_LEAST_PLOT_LINES, _MOST_PLOT_LINES = 5, 14
_WIDE_COLUMNS = 100  # from here on two plots fit beside each other
_MOST_SAMPLES = 4
_BAR_COLUMNS = 24


def frame(look: Look, width: int, height: int) -> Group:
    """What fits into `width` columns and `height` lines."""
    from rich.console import Group

    top, bottom = list(_facts(look)), [*_samples(look), *_warnings(look)]
    plots = _plots(look)
    beside = len(plots) > 1 and width >= _WIDE_COLUMNS
    rows = 1 if beside else max(len(plots), 1)
    free = height - len(top) - len(bottom) - 2
    lines = max(_LEAST_PLOT_LINES, min(free // rows - 3, _MOST_PLOT_LINES))
    return Group(*top, *_drawn(plots, width, lines, beside), *bottom)


def _facts(look: Look) -> Iterator[Text]:
    """State, progress and the newest numbers, a line each."""
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{shown(look.name)}  ", "bold").append(look.state, _STATE_STYLES.get(look.state, "cyan"))
    step = look.latest("step")
    if step is not None:
        line.append(f"  step {step:,.0f}" + (f" of {look.num_steps:,}" if look.num_steps else ""))
    epoch, tokens = look.latest("epoch"), look.latest("tokens")
    if tokens is not None and epoch is not None:
        line.append(f", {quantities.count(tokens)} tokens, epoch {epoch:.2f}")
    yield line
    if look.state == "stopped":
        place = f"from {look.checkpoint}" if look.checkpoint else "from the beginning"
        yield Text(f"no process holds the folder, silent for {_SILENCE}; the same command goes on {place}", "yellow")
    if look.state == "unknown":
        yield Text(
            f"no process of this machine holds the folder, yet it was written to in the last {_SILENCE}: stopped just "
            "now, or at work on another machine, whose lock cannot be seen from here",
            "yellow",
        )
    if look.share is not None:
        yield _bar(look)
    for pairs in (_newest_losses(look), _newest_others(look)):
        if pairs:
            yield Text("  ".join(f"{name} {value}" for name, value in pairs), no_wrap=True, overflow="ellipsis")


def _bar(look: Look) -> Text:
    from rich.text import Text

    done = int(look.share * _BAR_COLUMNS)
    line = Text("━" * done, "green").append("━" * (_BAR_COLUMNS - done), "bright_black")
    line.append(f" {look.share:.1%}")
    if look.state == "training" and look.seconds_left is not None:
        line.append(f"  about {quantities.duration(look.seconds_left / 3600)} of training left")
    elif (seconds := look.latest("training_seconds")) is not None:
        line.append(f"  {quantities.duration(seconds / 3600)} of training")
    return line


def _newest_losses(look: Look) -> list[tuple[str, str]]:
    names = {"loss": "loss", "eval_loss": "held-out", **FIGURES}
    found = [(words, look.latest(key)) for key, words in names.items()]
    pairs = [(words, f"{value:.4f}") for words, value in found if value is not None]
    bits = look.points("eval_bits_per_byte")
    if len(bits) > 1:
        step, best = min(bits, key=lambda point: point[1])
        pairs.append(("best", f"{best:.4f} at step {step:,}"))
    return pairs


def _newest_others(look: Look) -> list[tuple[str, str]]:
    pairs = []
    if look.tokens_per_second is not None:
        pairs.append(("tokens/s", f"{look.tokens_per_second:,.0f}"))
    on_gpu = look.latest("peak_gpu_bytes") is not None
    for key, words in (("peak_gpu_bytes", "GPU"), ("peak_host_bytes", "host")):
        if (value := look.latest(key)) is not None:
            expected = planned_peak(look.plan, key, on_gpu)
            beside = f" (planned {quantities.byte_size(expected)})" if expected else ""
            pairs.append((f"{words} memory", quantities.byte_size(value) + beside))
    for key, words, form in (
        ("learning_rate", "lr", "{:.2e}"),
        ("grad_norm", "gradient norm", "{:.2f}"),
        ("kwh", "kWh", "{:.3f}"),
    ):
        if (value := look.latest(key)) is not None:
            pairs.append((words, form.format(value)))
    return pairs


def _plots(look: Look) -> list[dict[str, list[tuple[float, float]]]]:
    """The curves of each plot by name."""
    losses = {"training loss": look.points("loss"), "held-out loss": look.points("eval_loss")}
    keys = look.columns.finite.keys()
    groups = {
        f"{shown(key.removeprefix(EVAL_GROUP_PREFIX))}, bits per byte": key
        for key in sorted(keys)
        if key.startswith(EVAL_GROUP_PREFIX)
    }
    figures = groups or {words: key for key, words in FIGURES.items() if key in keys}
    if not groups:
        figures = dict(list(figures.items())[:1])
    plots = [losses, {name: look.points(key) for name, key in figures.items()}]
    drawn = [{name: points for name, points in curves.items() if points} for curves in plots]
    return [curves for curves in drawn if any(len(points) > 1 for points in curves.values())]


def _drawn(plots: Sequence[dict], width: int, lines: int, beside: bool) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    if beside:
        table = Table.grid(padding=(0, 2, 0, 0))
        columns = width // len(plots) - 2
        table.add_row(*(Text("\n").join(text_plot(curves, columns, lines)) for curves in plots))
        yield table
        return
    for curves in plots:
        yield from text_plot(curves, width - 1, lines)


def _samples(look: Look) -> Iterator[Text]:
    from rich.text import Text

    if look.samples:
        yield Text(f"written at step {look.samples[0]['step']:,}", "bold")
    for row in look.samples[:_MOST_SAMPLES]:
        line = Text("  ", no_wrap=True, overflow="ellipsis").append(f"{shown(row.get('prompt', ''))}▸", "cyan")
        yield line.append(shown(row.get("text", "")))


def _warnings(look: Look) -> Iterator[Text]:
    from rich.text import Text

    for words in look.warnings():
        yield Text(f"! {words}", "bold yellow")


def shown(text: object) -> str:
    """A text on one line; what a terminal would obey instead of showing it is left out."""
    return "".join(letter if letter.isprintable() else "⏎" if letter == "\n" else " " for letter in str(text))
