"""Make the summary of runs: one table of what they cost and what they reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jpllm.scores import interval_of, score_with_error
from jpllm.tracking.compare.scores import Best, jglue_rows, text_rows, with_best
from jpllm.tracking.compare.tables import Cell, Row, Table, group_changes, note_on_group, tone_of
from jpllm.tracking.quantities import byte_size, count, duration, four_decimals, per_cent, three_digits
from jpllm.tracking.runs import Run, number, planned_peak

# What tells the objectives apart, and what the loss of each is a mean of.
_LOSS_UNITS = {
    "bits_per_byte": "nats per token",
    "masked_accuracy": "nats per masked token",
    "token_accuracy": "nats per answer token",
    "accuracy": "nats per row",
    "pearson": "squared error",
}


@dataclass(frozen=True)
class _Figure:
    """A row of the table: how a run's number is found and written, which is the best, and what was planned."""

    title: str
    read: Callable[[Run], float | None]
    write: Callable[[float], str]
    best: Best | None = None
    planned: Callable[[Run], float | None] = lambda run: None

    def row(self, group: str, runs: Sequence[Run]) -> Row:
        cells = [self._cell(run) for run in runs]
        return Row(self.title, with_best(cells, self.best if share_texts(runs, cells) else None), group)

    def _cell(self, run: Run) -> Cell | None:
        value, planned = self.read(run), self.planned(run)
        if value is None:
            return None
        return Cell(self.write(value) + (f", planned {self.write(planned)}" if planned else ""), value)


def summary(runs: Sequence[Run]) -> Table:
    """Return the table of cost, quality, benchmarks and forgetting, without rows that no run knows."""
    costs = [figure.row("Size and cost", runs) for figure in _COSTS]
    texts, note = _held_out_texts(runs)
    qualities = [figure.row("On its held-out texts", runs) for figure in _QUALITIES]
    qualities += [_change_row(runs, *names) for names in _CHANGES]
    qualities += [_classifier_row(runs, split) for split in ("validation", "test")]
    qualities += texts
    rows = [_state(runs), *costs, *qualities, *_groups(runs), *jglue_rows(runs), *text_rows(runs)]
    return Table("Summary", [row for row in rows if any(row.cells)], note=note)


def share_texts(runs: Sequence[Run], cells: Sequence[Cell | None]) -> bool:
    """Return whether the runs that have a cell are known to have the same held-out texts or rows."""
    found = {run.held_out for run, cell in zip(runs, cells, strict=True) if cell}
    return len(found) == 1 and None not in found


def loss_unit(run: Run) -> str | None:
    """Return what the held-out loss of a run is measured in; None where it has not been evaluated."""
    scores = run.results.get("validation")
    known = scores if isinstance(scores, dict) else {}
    return next((unit for key, unit in _LOSS_UNITS.items() if run.figure(key) is not None or key in known), None)


def _state(runs: Sequence[Run]) -> Row:
    if all(run.state == "finished" for run in runs):
        return Row("state", [None] * len(runs))
    return Row("state", [Cell(_state_of(run)) for run in runs])


def _state_of(run: Run) -> str:
    step = run.clock.last("step")
    if run.state != "unfinished" or step is None:
        return {"model": "model only"}.get(run.state, run.state)
    planned = number(run.plan.get("num_steps"))
    return f"unfinished, step {step:,.0f}" + (f" of {planned:,.0f}" if planned else "")


def _num_parameters(run: Run) -> float | None:
    return next(
        filter(None, (run.num_parameters, run.result("num_parameters"), number(run.plan.get("num_parameters")))), None
    )


def _place(run: Run, key: str) -> float | None:
    found = run.result(key)
    return found if found is not None else run.clock.last(key)


def _hours(run: Run) -> float | None:
    seconds = run.clock.last("training_seconds")
    found = run.result("hours")
    return found if found is not None else None if seconds is None else seconds / 3600


def _tokens_per_second(run: Run) -> float | None:
    if (found := run.result("tokens_per_second")) is not None:
        return found
    tokens, seconds = run.clock.last("tokens"), run.clock.last("training_seconds")
    return tokens / seconds if tokens and seconds else None


def _largest(key: str) -> Callable[[Run], float | None]:
    """Return a function that reads the largest value of a metric: of the results, or of the rows so far."""

    def read(run: Run) -> float | None:
        found = run.result(key)
        return found if found is not None or key not in run.curves else number(float(run.curves[key].values.max()))

    return read


def _planned(key: str) -> Callable[[Run], float | None]:
    """Return a function that reads the peak which was predicted of the same memory."""
    return lambda run: planned_peak(run.plan, key, on_gpu=_largest("peak_gpu_bytes")(run) is not None)


def _loss_in(unit: str) -> Callable[[Run], float | None]:
    return lambda run: run.figure("loss") if loss_unit(run) == unit else None


def _of(key: str) -> Callable[[Run], float | None]:
    return lambda run: run.figure(key)


_COSTS = (
    _Figure("parameters", _num_parameters, count),
    _Figure("tokens", lambda run: _place(run, "tokens"), count),
    _Figure("epochs", lambda run: _place(run, "epoch"), three_digits),
    _Figure("training time", _hours, duration),
    _Figure("tokens per second", _tokens_per_second, lambda value: f"{value:,.0f}"),
    *(
        _Figure(f"peak {words} memory", _largest(key), byte_size, planned=_planned(key))
        for words, key in (("GPU", "peak_gpu_bytes"), ("host", "peak_host_bytes"))
    ),
    _Figure("energy, kWh", _largest("kwh"), three_digits),
)
_QUALITIES = (
    _Figure("bits per byte", _of("bits_per_byte"), four_decimals, "low"),
    _Figure("xz -9, bits per byte", lambda run: run.result("xz_bits_per_byte"), four_decimals),
    *(_Figure(f"loss, {unit}", _loss_in(unit), four_decimals) for unit in _LOSS_UNITS.values()),
    # of these two none is the best: what a token is depends on the tokenizer
    _Figure("masked words filled in right", _of("masked_accuracy"), per_cent),
    _Figure("answer tokens right", _of("token_accuracy"), per_cent),
)
_CHANGES = (
    ("answers that end by themselves", "answers_ended"),
    ("right answers", "answers_right"),
)


def _change_row(runs: Sequence[Run], title: str, key: str) -> Row:
    """Return a row of a share before the training and after it."""
    cells: list[Cell | None] = []
    for run in runs:
        before, after = run.result(key, "before"), run.result(key, "after")
        if after is None and f"eval_{key}" in run.curves:
            before, after = (number(float(run.curves[f"eval_{key}"].values[index])) for index in (0, -1))
        known = before is not None and after is not None
        cells.append(Cell(f"{100 * before:.0f} % → {100 * after:.0f} %", after, bar=after) if known else None)
    return Row(title, cells, "On its held-out texts")


def _classifier_row(runs: Sequence[Run], split: str) -> Row:
    """Return a row of a classifier's accuracy with what chance gives, or of its correlation."""
    cells: list[Cell | None] = []
    for run in runs:
        value, pearson = _split_figure(run, split, "accuracy"), _split_figure(run, split, "pearson")
        chance, error = run.result(split, "chance"), run.result(split, "standard_error")
        if value is not None:
            accuracy = score_with_error("acc", value, error, interval_of(run.results.get(split)))
            cells.append(Cell(f"{accuracy} accuracy", value, bar=value, mark=chance))
        else:
            cells.append(None if pearson is None else Cell(f"{pearson:.3f} Pearson", pearson, bar=max(pearson, 0.0)))
    settings = {_scored_by(run, split) for run, cell in zip(runs, cells, strict=True) if cell}
    is_comparable = share_texts(runs, cells) and len(settings) == 1
    return Row(f"{split} rows", with_best(cells, "high" if is_comparable else None), "On its held-out texts")


def _scored_by(run: Run, split: str) -> tuple:
    """Return what must be equal for scores to compare, beside the held-out rows: metric, and what the test rows are."""
    metric = "accuracy" if _split_figure(run, split, "accuracy") is not None else "pearson"
    if split == "validation":
        return (metric,)
    return metric, run.result("test", "num_rows"), *(str(run.settings.get(key)) for key in ("test_file", "test_share"))


def _split_figure(run: Run, split: str, name: str) -> float | None:
    """Return a figure of the results or, of a training that goes on, of its latest evaluation on validation rows."""
    return run.figure(name) if split == "validation" and not run.results else run.result(split, name)


def _held_out_texts(runs: Sequence[Run]) -> tuple[list[Row], str]:
    """Return a row and a note on which runs were measured on the same texts; empty where all were."""
    letters: dict[str, str] = {}
    for run in runs:
        if run.held_out:
            letters.setdefault(run.held_out, f"set {len(letters) + 1}")
    if len(letters) < 2:
        return [], ""
    cells = [Cell(letters[run.held_out]) if run.held_out else None for run in runs]
    note = "The runs were not all measured on the same held-out texts: compare losses and bits per byte within a set."
    return [Row("held-out texts", cells, "On its held-out texts")], note


def _groups(runs: Sequence[Run]) -> list[Row]:
    """Return rows of the change of bits per byte of each group of texts."""
    changes = [group_changes(run) for run in runs]
    rows = []
    for group in dict.fromkeys(group for own in changes for group in own):
        by = [own[group][1] - own[group][0] if group in own else None for own in changes]
        cells = [None if b is None else Cell(f"{b:+.4f}", b, tone=tone_of(b)) for b in by]
        note = note_on_group(group, runs, changes)
        rows.append(Row(f"{group} texts", cells, "Change of bits per byte", note))
    return rows
