"""Write the built-in corpus: plain modern Japanese drawn from a grammar, for the demo and the tests.

A seed gives the same bytes everywhere (see `jpllm.demo.scene`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from jpllm.demo.arithmetic import arithmetic, calculations
from jpllm.demo.instructions import instruction
from jpllm.demo.scene import between, choose, new_scene
from jpllm.demo.stories import description, questions, story
from jpllm.demo.tables import review_table

MIN_CHARACTERS = 80
MAX_CHARACTERS = 900
# Cumulative share of the kinds among the documents; stories are longer, so their share of bytes is larger.
_KIND_SHARES = (("story", 0.37), ("description", 0.61), ("arithmetic", 0.91), ("question", 1.0))

# x and y are predicates of the aspects a and b that agree with the label, v and w predicates that do not.
_OPINIONS = (
    "この{s}は、{a}が<とても|本当に|>[{x}/ました]。{end}",
    "{a}が[{x}/て]、{b}も[{y}/ました]。{end}",
    "{b}は[{w}/た]が、{a}は<とても|本当に|>[{x}/ました]。",
    "この{s}は、{b}は[{w}/た]<が|けれども>、{a}は[{x}/ました]。{end}",
    "{a}は[{v}/る]と<聞いていた|思っていた>が、実際は[{x}/ました]。",
    "{b}は[{w}/ました]。<しかし|けれども>、それ以上に{a}が[{x}/ました]。{end}",
    "<友人にすすめられて|広告を見て|前から気になっていて>選んだ{s}は、{a}が[{x}/ました]。",
)
_GOOD_OPINIONS = (
    "あまり期待していなかったが、{a}は[{x}/ました]。{end}",
    "{b}が[{w}/連体]ことを除けば、<全体として満足できる|十分に満足できる>{s}[だ/ました]。",
    "{a}が[{v}/る]という声もあるが、私は<まったく|少しも>そう[思う/ません]。{end}",
)
_BAD_OPINIONS = (
    "<評判を聞いて期待していた|楽しみにしていた>のに、{a}は[{x}/ました]。{end}",
    "{b}が[{w}/連体]ことを除けば、<ほめるところがない|よいところの少ない>{s}[だ/ました]。",
    "{a}が[{v}/る]という声もあるが、私は<まったく|少しも>そう[思う/ません]。{end}",
)
_GOOD_VERDICTS = (
    "<全体として|私は>[満足な/ました]。",
    "<選んで|出会えて>[よい/ました]。",
    "ほかの人にもぜひ[すすめたい/ます]。",
    "<不満はほとんど|後悔は>[ある/ません]。",
)
_BAD_VERDICTS = (
    "<全体として|とても>[残念な/ました]。",
    "<満足とはとても|よかったとは>[言え+る/ません]。",
    "ほかの人には[すすめられ+る/ません]。",
    "<期待しただけに、|>がっかり[する/ました]。",
)


def documents(seed: int = 0, num_bytes: int = 3_000_000) -> Iterator[str]:
    """Yield documents until their UTF-8 texts together reach `num_bytes` bytes (0 yields nothing).

    A document has 80 to 900 characters; its paragraphs are separated by "\\n" and it ends without one.
    """
    for _, text in labelled_documents(seed, num_bytes):
        yield text


def arithmetic_documents(seed: int = 0, num_bytes: int = 1_000_000) -> Iterator[str]:
    """Yield documents as `documents` does, but of arithmetic alone: half bare calculations, half problems in words."""
    rng = random.Random(seed)
    for _, text in _fitting(lambda: ("arithmetic", choose(rng, (calculations, arithmetic))(rng)), num_bytes):
        yield text


def labelled_documents(seed: int = 0, num_bytes: int = 3_000_000) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) of `documents`; kind is one of `story description arithmetic question`."""
    writers = {"story": story, "description": description, "arithmetic": arithmetic, "question": questions}
    rng = random.Random(seed)

    def write() -> tuple[str, str]:
        draw = rng.random()
        kind = next(name for name, share in _KIND_SHARES if draw < share)
        return kind, writers[kind](rng)

    yield from _fitting(write, num_bytes)


def _fitting(write: Callable[[], tuple[str, str]], num_bytes: int) -> Iterator[tuple[str, str]]:
    """Yield each (kind, text) of `write` that has the length of a document, until they have `num_bytes` bytes."""
    written = 0
    while written < num_bytes:
        kind, text = write()
        if MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS:
            written += len(text.encode())
            yield kind, text


def instructions(seed: int = 0, count: int = 1000) -> Iterator[dict[str, str]]:
    """Yield `count` rows with the keys `instruction`, `input` ("" where there is none) and `output`."""
    rng = random.Random(seed)
    for _ in range(count):
        yield dict(zip(("instruction", "input", "output"), instruction(rng), strict=True))


def labelled_sentences(seed: int = 0, count: int = 1000) -> Iterator[dict[str, str]]:
    """Yield `count` opinions with the keys `text` and `label` (`positive` or `negative`), half of each.

    In contrasts such as 「値段は高いが、味はよかった。」 the last clause decides the label.
    """
    rng = random.Random(seed)
    positive = False
    for index in range(count):
        # One of each label in every pair of rows, in random order.
        positive = rng.random() < 0.5 if index % 2 == 0 else not positive
        yield {"text": opinion(rng, positive), "label": "positive" if positive else "negative"}


def opinion(rng: random.Random, positive: bool) -> str:
    """Return one or two sentences; where good meets bad, as in 「高いが、味はよい。」, the last clause decides."""
    subject, aspects = choose(rng, review_table())
    start = int(rng.random() * len(aspects))
    first, second = aspects[start], aspects[(start + between(rng, 1, len(aspects) - 1)) % len(aspects)]
    scene = new_scene(rng, s=subject, a=first[0][0], b=second[0][0])
    same, opposite = (1, 2) if positive else (2, 1)
    scene.words.update(x=choose(rng, first[same]), y=choose(rng, second[same]))
    scene.words.update(v=choose(rng, first[opposite]), w=choose(rng, second[opposite]))
    scene.words["end"] = choose(rng, _GOOD_VERDICTS if positive else _BAD_VERDICTS)
    return scene.fill(choose(rng, _OPINIONS + (_GOOD_OPINIONS if positive else _BAD_OPINIONS)))
