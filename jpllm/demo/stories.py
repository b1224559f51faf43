"""Write short stories, and sketches of a day, a person or a town."""

from __future__ import annotations

import random
import re

from jpllm.demo.scene import Scene, another, choose, new_scene
from jpllm.demo.tables import story_table, word_table

_SKETCHES = ("diary", "profile", "town")


def story(rng: random.Random) -> str:
    """Return a short story: one hero, one season and one place from beginning to end."""
    if rng.random() < 0.55:
        return sketch(rng, "diary")
    kind, bindings, steps = choose(rng, [entry for entry in story_table() if entry.kind not in _SKETCHES])
    scene = new_scene(rng)
    if kind != "fable":
        _cast(scene, choose(rng, ("child", "adult")) if kind == "any" else kind)
    for binding in bindings:
        scene.bind(binding)
    return _tell(scene, steps)


def sketch(rng: random.Random, kind: str) -> str:
    """Return a text made of short facts: a day (`diary`), a person (`profile`) or a town (`town`)."""
    _, bindings, steps = next(entry for entry in story_table() if entry.kind == kind)
    scene = new_scene(rng)
    facts = scene
    if kind == "diary":
        _cast(scene, "adult")
    elif kind == "town":
        name = scene.words["town_name"] = scene.fill("{town_name}")
        # What is told of a town depends on its name alone, so that no two documents contradict each other.
        facts = Scene(random.Random(int.from_bytes(name.encode(), "big")), scene.polite, scene.words)
    else:
        scene.words["full"] = scene.fill("{full}")
    for binding in bindings:
        facts.bind(binding)
    return _tell(scene, steps)


def _cast(scene: Scene, age: str) -> None:
    """Bind the hero, the friend and how others call the hero."""
    rng, words = scene.rng, scene.words
    gender = choose(rng, ("female", "male"))
    child = age == "child"
    name = choose(rng, word_table()[gender if child else "surname"])
    friend = another(rng, choose(rng, ("female", "male")) if child else "surname", name)
    words["name"] = name + ("くん" if child and gender == "male" else "さん")
    words["hero"] = name if child and not scene.polite else name + "さん"
    if rng.random() < 0.5:
        words["full_hero"] = (
            (choose(rng, word_table()["surname"]) + name) if child else name + choose(rng, word_table()[gender])
        )
        words["full_hero"] += words["hero"].removeprefix(name)
    words["pronoun"] = "彼" if gender == "male" else "彼女"
    if rng.random() < 0.3:
        words["hero"] = "僕" if gender == "male" and child else "私"
        words["pronoun"] = ""
        words.pop("full_hero", None)
    words["friend"] = friend if child else friend + "さん"
    words["friend_intro"] = choose(rng, word_table()[f"role_{age}"]) + words["friend"]
    words["intro"] = choose(rng, word_table()[f"intro_{age}"])


def _tell(scene: Scene, steps: list[list[str]]) -> str:
    """Return a text with one alternative of each step, and a paragraph break at about every second one."""
    chosen = [choose(scene.rng, step) for step in steps]
    text, *others = [scene.fill(template) for template in chosen if template != "-"]
    for sentence in others:
        text += ("\n" if scene.rng.random() < 0.45 else "") + sentence
    return _vary_subject(scene, text) if "hero" in scene.words else text


def _vary_subject(scene: Scene, text: str) -> str:
    """Return `text` with some mentions of the hero left out or replaced by a pronoun.

    The subject is left out only where the sentence before has the same one: there no reader is in doubt.
    """
    hero, pronoun = scene.words["hero"], scene.words["pronoun"]
    parts = re.split(r"(?<=[。\n])", text)
    mentioned = False
    for index, part in enumerate(parts):
        topic = part.startswith(f"{hero}は")
        rest = part[len(hero) + 1 :].removeprefix("、")
        follows = topic and mentioned and index > 0 and not parts[index - 1].endswith("\n")
        draw = scene.rng.random()
        if follows and draw < 0.55:
            parts[index] = rest
        elif follows and draw > 0.8 and pronoun:
            parts[index] = f"{pronoun}は{rest}"
        elif topic and "、" not in rest[:12] and draw < 0.4:
            parts[index] = f"{hero}は、{rest}"
        mentioned = topic
    # The first mention may give the full name.
    return "".join(parts).replace(hero, scene.words.get("full_hero", hero), 1)
