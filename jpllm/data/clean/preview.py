"""Preview what cleaning rules do to the first rows of a source, before hours of work: rates and examples."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm.config.settings import REQUIRED, option
from jpllm.data.clean.pipeline import BLANK, Step, steps
from jpllm.data.clean.wikitext.plain_text import removed_inside_sentences, wikipedia
from jpllm.data.read.quarantine import BadRow
from jpllm.data.read.sources import SourceConfig
from jpllm.data.read.texts import read_texts
from jpllm.terminal import harmless

if TYPE_CHECKING:
    from rich.console import Group

_NUM_EXAMPLES = 5  # of each kind and rule
_EXAMPLE_CHARACTERS = 200
_CONTEXT_CHARACTERS = 40
_NUM_TEMPLATES = 20
_REMOVED_TEMPLATES = "unknown templates removed inside a sentence"


@dataclass
class PreviewConfig:
    """Preview"""

    sources: list[SourceConfig] = option(REQUIRED, "Texts to look at: paths, or entries with the keys below.")
    num_rows: int = option(1000, "First rows of each source to look at.", minimum=1)
    output: Path | None = option(None, "HTML page to write, such as preview.html.")


@dataclass(frozen=True)
class Example:
    """What a rule did to one text.

    Attributes:
        before: where the first change is, or the beginning of a dropped text.
        after: the same place afterwards; empty if the text was dropped, for `reason`.
    """

    before: str
    after: str
    reason: str = ""


@dataclass
class RuleEffect:
    """What one rule did to the texts that came to it."""

    rule: str
    num_seen: int = 0
    num_changed: int = 0
    num_dropped: int = 0
    num_characters_before: int = 0
    num_characters_removed: int = 0
    changed: list[Example] = field(default_factory=list)
    dropped: list[Example] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Count a step, and keep it as an example while there are few."""
        self.num_seen += 1
        self.num_characters_before += len(step.before)
        if step.after is None:
            self.num_dropped += 1
            self.num_characters_removed += len(step.before)
            if len(self.dropped) < _NUM_EXAMPLES:
                self.dropped.append(Example(_beginning(step.before), "", step.reason or ""))
        elif step.after != step.before:
            self.num_changed += 1
            self.num_characters_removed += len(step.before) - len(step.after)
            if len(self.changed) < _NUM_EXAMPLES:
                self.changed.append(_where_changed(step.before, step.after))

    def figures(self) -> list[str]:
        """Return texts seen, shares changed and dropped, and the change of the number of characters, for a table."""
        seen, characters = max(self.num_seen, 1), max(self.num_characters_before, 1)
        return [
            f"{self.num_seen:,}",
            f"{self.num_changed / seen:.1%}",
            f"{self.num_dropped / seen:.1%}",
            f"{-self.num_characters_removed / characters:+.1%}",
        ]


@dataclass
class SourcePreview:
    """The first rows of a source on their way through its rules.

    Attributes:
        removed_templates: how often each template that is not in the table was removed inside a sentence.
    """

    source: str
    num_rows: int = 0
    num_kept: int = 0
    num_blank: int = 0
    effects: list[RuleEffect] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)
    removed_templates: Counter[str] = field(default_factory=Counter)

    def summary(self) -> str:
        """Return how many rows there were and what became of them, in a line."""
        left_out = [f"{self.num_blank:,} blank"] * bool(self.num_blank)
        left_out += [f"{len(self.bad_rows):,} unreadable"] * bool(self.bad_rows)
        return f"{self.source}: {self.num_kept:,} of {self.num_rows:,} rows kept{''.join(f', {x}' for x in left_out)}"


def preview(source: SourceConfig, num_rows: int) -> SourcePreview:
    """Run the rules of `source` on its first `num_rows` rows. Raises InputError where `read_texts` does."""
    result = SourcePreview(source.label, effects=[RuleEffect(rule.rule) for rule in source.clean])
    for text in islice(read_texts(source), num_rows):
        result.num_rows += 1
        if isinstance(text, BadRow):
            result.bad_rows.append(text)
            continue
        rules = source.rules_for(text)
        if len(rules) > len(result.effects):  # the pages of a dump pass one rule more than is written down
            result.effects.insert(0, RuleEffect(rules[0].rule))
        effects = result.effects[len(result.effects) - len(rules) :]
        kept: str | None = text
        for number, step in enumerate(steps(text, rules)):
            kept = step.after
            if step.rule == BLANK:
                result.num_blank += 1
                continue
            effects[number].add(step)
            if step.rule == wikipedia.__name__:
                result.removed_templates.update(removed_inside_sentences(step.before))
        if kept is not None:
            result.num_kept += 1
            if len(result.kept) < _NUM_EXAMPLES:
                result.kept.append(_beginning(kept))
    return result


def terminal_tables(previews: Sequence[SourcePreview]) -> Group:
    """Return a table of rates for each source, with an example of what each rule changed and dropped."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    tables: list[Table | str] = []
    for result in previews:
        table = Table(title=result.summary(), title_justify="left", show_lines=True)
        for name in ("rule", "seen", "changed", "dropped", "characters", "example"):
            table.add_column(name, justify="left" if name in ("rule", "example") else "right", overflow="fold")
        for effect in result.effects:
            examples = [
                Text.assemble(("−", "red"), f" {example.before}\n", ("+", "green"), f" {example.after}")
                for example in effect.changed[:1]
            ]
            examples += [
                Text.assemble((f"✗ {example.reason}", "red"), f": {example.before[:80]}")
                for example in effect.dropped[:1]
            ]
            table.add_row(effect.rule, *effect.figures(), Text("\n").join(examples))
        tables.append(table)
        if result.removed_templates:
            templates = Table()
            templates.add_column("template", overflow="fold")
            templates.add_column("times", justify="right")
            for name, count in result.removed_templates.most_common(_NUM_TEMPLATES):
                templates.add_row(name, f"{count:,}")
            tables += [f"{result.source}: {_REMOVED_TEMPLATES}", templates]
    return Group(*tables)


def html_page(previews: Sequence[SourcePreview]) -> str:
    """Return an HTML page that needs no other file: rates, and all examples with the place of the change marked."""
    return _PAGE.replace("<!--body-->", harmless("\n".join(map(_section, previews))))


def _section(result: SourcePreview) -> str:
    cells = "".join(f"<th>{name}</th>" for name in ("rule", "seen", "changed", "dropped", "characters"))
    rows = "".join(
        f"<tr><td>{effect.rule}</td>{''.join(f'<td>{figure}</td>' for figure in effect.figures())}</tr>"
        for effect in result.effects
    )
    parts = [f"<h2>{html.escape(result.summary())}</h2><table><tr>{cells}</tr>{rows}</table>"]
    for effect in result.effects:
        changed = "".join(
            f"<pre><del>{html.escape(example.before)}</del>\n<ins>{html.escape(example.after)}</ins></pre>"
            for example in effect.changed
        )
        dropped = "".join(
            f"<pre><b>{html.escape(example.reason)}</b>\n{html.escape(example.before)}</pre>"
            for example in effect.dropped
        )
        for title, body in ((f"{effect.rule}: changed", changed), (f"{effect.rule}: dropped", dropped)):
            if body:
                parts.append(f"<details open><summary>{title}</summary>{body}</details>")
    if result.removed_templates:
        parts.append(_templates_table(result.removed_templates))
    kept = "".join(f"<pre>{html.escape(text)}</pre>" for text in result.kept)
    bad = "".join(f"<pre>{html.escape(str(row))}</pre>" for row in result.bad_rows[:_NUM_EXAMPLES])
    for title, body in (("kept", kept), ("unreadable", bad)):
        if body:
            parts.append(f"<details open><summary>{title}</summary>{body}</details>")
    return "\n".join(parts)


def _templates_table(counts: Counter[str]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{count:,}</td></tr>" for name, count in counts.most_common(_NUM_TEMPLATES)
    )
    return f"<h3>{_REMOVED_TEMPLATES}</h3><table><tr><th>template</th><th>times</th></tr>{rows}</table>"


def _where_changed(before: str, after: str) -> Example:
    """Return both texts from a little before their first difference."""
    start = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    start = max(0, start - _CONTEXT_CHARACTERS)
    return Example(_beginning(before[start:]), _beginning(after[start:]))


def _beginning(text: str) -> str:
    shown = text[:_EXAMPLE_CHARACTERS]
    return shown if len(text) <= _EXAMPLE_CHARACTERS else f"{shown}…"


_PAGE = """<!doctype html>
<html lang="ja"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>jpllm data preview</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.6 system-ui, "Hiragino Sans", "Noto Sans JP", sans-serif; max-width: 60em; }
body { margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; } td, th { padding: .2em .8em; border-bottom: 1px solid #8886; text-align: right; }
td:first-child, th:first-child { text-align: left; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; border-left: 3px solid #8886; padding-left: .8em; }
del { color: #c33; text-decoration: none; } ins { color: #2a2; text-decoration: none; }
summary { font-weight: bold; cursor: pointer; }
</style>
<!--body-->
</html>
"""
