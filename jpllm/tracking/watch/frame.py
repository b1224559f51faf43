"""Show a run on one screen of a terminal, with curves of braille patterns, two dots wide and four high a character."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from jpllm.terminal import on_one_line as shown
from jpllm.tracking import quantities
from jpllm.tracking.metrics import EVAL_GROUP_PREFIX
from jpllm.tracking.runs import planned_peak
from jpllm.tracking.watch.status import LEAST_SILENCE_SECONDS, RunStatus

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
_COLOURS = ("cyan", "red", "green", "magenta", "yellow")
_BLANK = 0x2800
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # the bits of a pattern: left and right column, downwards


def frame(status: RunStatus, width: int, height: int) -> Group:
    """Return as much of a run's status as fits into `width` columns and `height` lines."""
    from rich.console import Group

    top, bottom = list(_facts(status)), [*_samples(status), *_warnings(status)]
    plots = _plots(status)
    beside = len(plots) > 1 and width >= _WIDE_COLUMNS
    rows = 1 if beside else max(len(plots), 1)
    free = height - len(top) - len(bottom) - 2
    lines = max(_LEAST_PLOT_LINES, min(free // rows - 3, _MOST_PLOT_LINES))
    return Group(*top, *_drawn(plots, width, lines, beside), *bottom)


def _facts(status: RunStatus) -> Iterator[Text]:
    """Yield state, progress and the newest numbers, a line each."""
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{shown(status.name)}  ", "bold").append(status.state, _STATE_STYLES.get(status.state, "cyan"))
    step = status.latest("step")
    if step is not None:
        line.append(f"  step {step:,.0f}" + (f" of {status.num_steps:,}" if status.num_steps else ""))
    epoch, tokens = status.latest("epoch"), status.latest("tokens")
    if tokens is not None and epoch is not None:
        line.append(f", {quantities.count(tokens)} tokens, epoch {epoch:.2f}")
    yield line
    if status.state == "stopped":
        place = f"from {status.checkpoint}" if status.checkpoint else "from the beginning"
        yield Text(f"no process holds the folder, silent for {_SILENCE}; the same command goes on {place}", "yellow")
    if status.state == "unknown":
        yield Text(
            f"no process of this machine holds the folder, yet it was written to in the last {_SILENCE}: stopped just "
            "now, or at work on another machine, whose lock cannot be seen from here",
            "yellow",
        )
    if (share := status.share) is not None:
        yield _bar(status, share)
    for pairs in (_newest_losses(status), _newest_others(status)):
        if pairs:
            yield Text("  ".join(f"{name} {value}" for name, value in pairs), no_wrap=True, overflow="ellipsis")


def _bar(status: RunStatus, share: float) -> Text:
    from rich.text import Text

    done = int(share * _BAR_COLUMNS)
    line = Text("━" * done, "green").append("━" * (_BAR_COLUMNS - done), "bright_black")
    line.append(f" {share:.1%}")
    if status.state == "training" and status.seconds_left is not None:
        line.append(f"  about {quantities.duration(status.seconds_left / 3600)} of training left")
    elif (seconds := status.latest("training_seconds")) is not None:
        line.append(f"  {quantities.duration(seconds / 3600)} of training")
    return line


def _newest_losses(status: RunStatus) -> list[tuple[str, str]]:
    names = {"loss": "loss", "eval_loss": "held-out", **FIGURES}
    found = [(words, status.latest(key)) for key, words in names.items()]
    pairs = [(words, f"{value:.4f}") for words, value in found if value is not None]
    bits = status.points("eval_bits_per_byte")
    if len(bits) > 1:
        step, best = min(bits, key=lambda point: point[1])
        pairs.append(("best", f"{best:.4f} at step {step:,}"))
    return pairs


def _newest_others(status: RunStatus) -> list[tuple[str, str]]:
    pairs = []
    if status.tokens_per_second is not None:
        pairs.append(("tokens/s", f"{status.tokens_per_second:,.0f}"))
    on_gpu = status.latest("peak_gpu_bytes") is not None
    for key, words in (("peak_gpu_bytes", "GPU"), ("peak_host_bytes", "host")):
        if (value := status.latest(key)) is not None:
            expected = planned_peak(status.plan, key, on_gpu)
            beside = f" (planned {quantities.byte_size(expected)})" if expected else ""
            pairs.append((f"{words} memory", quantities.byte_size(value) + beside))
    for key, words, form in (
        ("learning_rate", "lr", "{:.2e}"),
        ("grad_norm", "gradient norm", "{:.2f}"),
        ("kwh", "kWh", "{:.3f}"),
    ):
        if (value := status.latest(key)) is not None:
            pairs.append((words, form.format(value)))
    return pairs


def _plots(status: RunStatus) -> list[dict[str, list[tuple[float, float]]]]:
    """Return the curves of each plot by name."""
    losses = {"training loss": status.points("loss"), "held-out loss": status.points("eval_loss")}
    keys = status.columns.finite.keys()
    groups = {
        f"{shown(key.removeprefix(EVAL_GROUP_PREFIX))}, bits per byte": key
        for key in sorted(keys)
        if key.startswith(EVAL_GROUP_PREFIX)
    }
    figures = groups or {words: key for key, words in FIGURES.items() if key in keys}
    if not groups:
        figures = dict(list(figures.items())[:1])
    plots = [losses, {name: status.points(key) for name, key in figures.items()}]
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


def _samples(status: RunStatus) -> Iterator[Text]:
    from rich.text import Text

    if status.samples:
        yield Text(f"written at step {status.samples[0]['step']:,}", "bold")
    for row in status.samples[:_MOST_SAMPLES]:
        line = Text("  ", no_wrap=True, overflow="ellipsis").append(f"{shown(row.get('prompt', ''))}▸", "cyan")
        yield line.append(shown(row.get("text", "")))


def _warnings(status: RunStatus) -> Iterator[Text]:
    from rich.text import Text

    for words in status.warnings():
        yield Text(f"! {words}", "bold yellow")


def text_plot(curves: Mapping[str, Sequence[tuple[float, float]]], width: int, height: int) -> list[Text]:
    """Return curves of finite (x, y) points, x never falling, as lines: names, `height` lines of dots, range of x."""
    from rich.text import Text

    height = max(height, 2)
    lines = [Text(no_wrap=True, overflow="ellipsis")]
    low_x, high_x = min(points[0][0] for points in curves.values()), max(points[-1][0] for points in curves.values())
    ys = [y for points in curves.values() for _, y in points]
    low_y, high_y = min(ys), max(ys)
    labels = [f"{high_y:.4g}", *[""] * (height - 2), f"{low_y:.4g}"]
    margin = max(map(len, labels))
    columns = max(width - margin - 2, 1)  # a terminal may have none
    cells = [[(_BLANK, "")] * columns for _ in range(height)]
    for (name, points), colour in zip(curves.items(), itertools.cycle(_COLOURS)):
        lines[0].append("━ ", colour).append(f"{name}  ")
        points = _thinned(points, low_x, high_x, 2 * columns)
        places_x = _places([x for x, _ in points], low_x, high_x, 2 * columns)
        places_y = _places([-y for _, y in points], -high_y, -low_y, 4 * height)
        for x, y in _strokes(list(zip(places_x, places_y, strict=True))):
            pattern = cells[y // 4][x // 2][0] | _DOTS[x % 2][y % 4]
            cells[y // 4][x // 2] = (pattern, colour)
    for label, row in zip(labels, cells, strict=True):
        lines.append(Text(f"{label:>{margin}} ┤" if label else f"{'':>{margin}} │"))
        for colour, alike in itertools.groupby(row, key=lambda cell: cell[1]):
            lines[-1].append("".join(chr(pattern) for pattern, _ in alike), colour)
    first, last = quantities.count(low_x), quantities.count(high_x)
    return [*lines, Text(f"{'':{margin}}  {first}{last:>{max(columns - len(first), 1)}}")]


def _places(values: Sequence[float], low: float, high: float, size: int) -> list[int]:
    """Return which of `size` dots each value falls on; the middle one where there is no range."""
    return [round((value - low) / (high - low) * (size - 1)) if high > low else size // 2 for value in values]


def _thinned(
    points: Sequence[tuple[float, float]], low: float, high: float, size: int
) -> Sequence[tuple[float, float]]:
    """Return first, lowest, highest and last of the points on each of `size` dots in x: they are drawn as all are."""
    if len(points) <= 4 * size:
        return points

    def place(point: tuple[float, float]) -> int:
        return _places([point[0]], low, high, size)[0]

    found, begin = [], 0
    while begin < len(points):
        end = bisect.bisect_right(points, place(points[begin]), begin + 1, key=place)
        alike = points[begin:end]
        found += [alike[0], min(alike, key=itemgetter(1)), max(alike, key=itemgetter(1)), alike[-1]]
        begin = end
    return found


def _strokes(places: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return the places and, on the way from each to the next, vertical strokes that join them."""
    found = set(places)
    for (x, y), (next_x, next_y) in itertools.pairwise(places):
        steps = max(next_x - x, 1)
        heights = [y + round((next_y - y) * step / steps) for step in range(steps + 1)]
        for at, (begin, end) in enumerate(itertools.pairwise(heights), start=x + 1):
            found |= {(min(at, next_x), height) for height in range(min(begin, end), max(begin, end) + 1)}
    return found
