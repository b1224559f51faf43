"""Fill templates with words that go together in one document.

Everything is drawn from `random.Random(seed).random()`, the one method whose sequence Python promises to keep, so a
seed gives the same bytes everywhere.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from jpllm.demo.inflection import inflect
from jpllm.demo.tables import synonyms, word_table

_SEASONS = ("春", "夏", "秋", "冬")
_ALTERNATIVES = re.compile(r"<([^<>]*)>")
_SLOT = re.compile(r"\{(\w+)\}")
_INFLECTION = re.compile(r"\[([^\[\]/]+)/([^\[\]/]+)\]")

Item = TypeVar("Item")


def choose(rng: random.Random, items: Sequence[Item]) -> Item:
    """Return one of `items`; `rng.choice` may draw differently in another version of Python."""
    return items[int(rng.random() * len(items))]


def between(rng: random.Random, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`, both included."""
    return low + int(rng.random() * (high - low + 1))


def another(rng: random.Random, table: str, taken: str) -> str:
    """Return an entry of a word table that is not `taken`."""
    return choose(rng, [name for name in word_table()[table] if name != taken])


def new_scene(rng: random.Random, polite: bool | None = None, **words: str) -> Scene:
    """Return a scene with a season, a town and a friend; the style is random where `polite` is None."""
    scene = Scene(rng, rng.random() < 0.5 if polite is None else polite, {"season": choose(rng, _SEASONS)})
    names = [_full_name(rng, "surname"), _full_name(rng, "female"), _full_name(rng, "male")]
    # Two of three names of different kinds are never the same.
    first = int(rng.random() * 3)
    scene.words.update(who=f"{names[first]}さん", friend=names[(first + between(rng, 1, 2)) % 3])
    scene.words.update(town=scene.fill("{town_name}"), **words)
    return scene


def _full_name(rng: random.Random, kind: str) -> str:
    """Return a surname, or a given name (`kind` female or male) that half of the time follows one."""
    name = choose(rng, word_table()[kind])
    return name if kind == "surname" or rng.random() < 0.5 else choose(rng, word_table()["surname"]) + name


@dataclass(frozen=True)
class Scene:
    """What the sentences of one document share: style, season and the words bound to slots."""

    rng: random.Random
    polite: bool
    words: dict[str, str]

    def fill(self, template: str) -> str:
        """Return `template` with its alternatives chosen, its slots filled and its words inflected."""
        template = self._vary(template)
        while "<" in template or "{" in template:
            template = _ALTERNATIVES.sub(lambda match: choose(self.rng, match[1].split("|")), template)
            template = _SLOT.sub(lambda match: self._word(match[1]), template)
        return _INFLECTION.sub(lambda match: inflect(match[1], match[2], self.polite), template)

    def _word(self, slot: str) -> str:
        if slot in self.words:
            return self.words[slot]
        entries = word_table()
        entry = choose(self.rng, entries.get(slot) or entries[f"{slot}_{self.words['season']}"])
        return self._vary(entry) if "[" in entry else entry

    def _vary(self, template: str) -> str:
        """Return `template` with words replaced by synonyms."""
        pattern, others = synonyms()
        return pattern.sub(lambda match: choose(self.rng, others[match[0]]), template)

    def bind(self, binding: str) -> None:
        """Bind the slots of `a=x|y`, `a={slot}` or `key,value=table` to words of this document."""
        names, values = binding.split("=")
        if "," not in names:
            self.words[names] = self.fill(choose(self.rng, values.split("|")))
            return
        key, value = names.split(",")
        self.words[key], entries = choose(self.rng, word_table()[values]).split(":", 1)
        self.words[value] = choose(self.rng, entries.split(","))
