"""Describe animals, food, tools, jobs, months and places, and ask about them."""

from __future__ import annotations

import random

from jpllm.demo.arithmetic import problem
from jpllm.demo.scene import Scene, between, choose, new_scene
from jpllm.demo.stories import sketch
from jpllm.demo.tables import Topic, fact_table, topic_table


def description(rng: random.Random) -> str:
    """Return a description of one or two subjects of one topic, of a person or a town, or a few general facts."""
    draw = rng.random()
    if draw < 0.08:
        return _general_facts(rng)
    if draw < 0.6:
        return sketch(rng, "profile" if draw < 0.38 else "town")
    topic = choose(rng, topic_table())
    scene = new_scene(rng)
    first = int(rng.random() * len(topic.records))
    second = (first + between(rng, 1, len(topic.records) - 1)) % len(topic.records)
    subjects = [first] if rng.random() < 0.5 else [first, second]
    return "\n".join(_describe(scene, topic, topic.records[subject]) for subject in subjects)


def _describe(scene: Scene, topic: Topic, record: list[str]) -> str:
    rng = scene.rng
    words = dict(zip(topic.fields, record, strict=True))
    scene = new_scene(rng, scene.polite, **words)
    # The first sentence names the subject; the others may be left out.
    sentences = [choose(rng, topic.steps[0])]
    sentences += [choose(rng, step) for step in topic.steps[1:] if rng.random() < 0.85]
    text = "".join(scene.fill(sentence) for sentence in sentences if sentence != "-")
    start = int(rng.random() * len(topic.remarks))
    for index in range(between(rng, 1, 2)):
        text += ("\n" if rng.random() < 0.3 else "") + scene.fill(topic.remarks[(start + index) % len(topic.remarks)])
        # The next remark is about other people.
        scene = new_scene(rng, scene.polite, **words)
    return text


def _general_facts(rng: random.Random) -> str:
    scene = new_scene(rng)
    facts = fact_table()
    start, step = int(rng.random() * len(facts)), choose(rng, (1, 3, 5, 7))
    statements = [facts[(start + step * index) % len(facts)][2] for index in range(between(rng, 5, 8))]
    opening = "<身の回りのこと|毎日の暮らしで役に立つこと|だれでも知っておきたいこと>を<いくつか|少し>[書く/ます]。"
    return scene.fill(opening + "".join(statements))


def questions(rng: random.Random) -> str:
    """Return three to six questions with their answers, 質問 and 答え on lines of their own."""
    pairs = [problem(rng, True) if rng.random() < 0.2 else question(rng) for _ in range(between(rng, 3, 6))]
    # The dict drops a question that was drawn twice.
    return "\n".join(f"質問：{asked}\n答え：{answer}" for asked, answer in dict(pairs).items())


def question(rng: random.Random) -> tuple[str, str]:
    """Return a question about a general fact or a topic, and its answer."""
    if rng.random() < 0.2:
        asked, answer, _ = choose(rng, fact_table())
        return asked, answer
    topic = choose(rng, topic_table())
    scene = new_scene(rng, True, **dict(zip(topic.fields, choose(rng, topic.records), strict=True)))
    asked, answer = choose(rng, topic.pairs)
    return scene.fill(asked), scene.fill(answer)
