"""Run a check on generated inputs: a few in the tests of every day, or for as long as an environment variable says.

`JPLLM_FUZZ_SECONDS=600 pytest tests/faults/test_fuzz_runs.py` goes on for ten minutes for each check, with new inputs
in each round. The seed of a round is printed with its failure; an input that failed once is kept as an example beside
the check.
"""

import itertools
import os
import time
from collections.abc import Callable
from datetime import timedelta

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

LONGEST = timedelta(seconds=5)
_EXAMPLES_A_ROUND = 200

# What a key may hold instead of what belongs there.
ODD_TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", "\x1b[2J\x9b\u202e", "\0", "\ud800", "a" * 200_000, "/!" * 50_000, "$\\frac$", "[/x]", "</script>", "| a\n| b"]
)
ODD_NUMBERS = (
    st.integers(-3, 3)
    | st.floats()
    | st.sampled_from([0.0, -0.0, 1e308, -1e308, 5e-324, 2**53, -(2**63), 10**400, float("inf"), float("nan")])
)
ODD_VALUES = st.recursive(
    st.none() | st.booleans() | ODD_NUMBERS | ODD_TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD_TEXTS, inner, max_size=4),
    max_leaves=8,
)


def check_many(check: Callable[[object], None], inputs: st.SearchStrategy, num_examples: int) -> None:
    """Run `check` on inputs, each for at most `LONGEST`; it fails by raising."""
    seconds = float(os.environ.get("JPLLM_FUZZ_SECONDS", "0"))
    end = time.monotonic() + seconds
    for seed in itertools.count():
        examples = _EXAMPLES_A_ROUND if seconds else num_examples
        rounds = hypothesis.settings(
            max_examples=examples,
            deadline=LONGEST,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        try:
            hypothesis.seed(seed)(rounds(hypothesis.given(inputs)(check)))()
        except BaseException as error:
            error.add_note(f"seed {seed}") if hasattr(error, "add_note") else None
            raise
        if time.monotonic() >= end:
            return


@st.composite
def changed(draw: st.DrawFn, value: object) -> object:
    """Draw a value of JSON that differs from `value` at one to three places."""
    for _ in range(draw(st.integers(1, 3))):
        value = _changed_once(draw, value)
    return value


def _changed_once(draw: st.DrawFn, value: object) -> object:
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        kept = {name: item for name, item in value.items() if name != key}
        kind = draw(st.integers(0, 9))
        if kind == 0:
            return kept
        if kind == 1:
            return {**kept, draw(ODD_TEXTS): value[key]}
        return {**kept, key: _changed_once(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], _changed_once(draw, value[index]), *value[index + 1 :]]
    return draw(ODD_VALUES)
