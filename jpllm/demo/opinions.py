"""Opinions about products and places, good or bad."""

from __future__ import annotations

import random

from jpllm.demo.scene import between, choose, new_scene
from jpllm.demo.tables import review_table

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
