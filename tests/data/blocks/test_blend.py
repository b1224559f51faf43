"""The blend keeps its shares in every window, and knows any position at once."""

import numpy as np
import pytest

from jpllm.data.blocks.blend import CYCLE_SLOTS, Blend, slots_per_cycle

WEIGHTS = [5, 1, 3.5, 0.5]


def sources_of(blend: Blend, start: int, stop: int) -> np.ndarray:
    return np.array([blend.at(position)[0] for position in range(start, stop)])


def test_the_order_is_fixed():
    assert sources_of(Blend(WEIGHTS), 0, 20).tolist() == [0, 2, 0, 2, 1, 0, 0, 2, 0, 3, 2, 0, 2, 0, 1, 0, 2, 0, 2, 0]


def test_every_window_keeps_the_shares():
    order = sources_of(Blend(WEIGHTS), 0, 3 * CYCLE_SLOTS)
    for source, share in enumerate(np.array(WEIGHTS) / 10):
        in_window = np.convolve(order == source, np.ones(2000, dtype=int), "valid")
        assert np.abs(in_window - 2000 * share).max() <= 2


def test_a_source_s_blocks_come_one_after_another():
    blend = Blend(WEIGHTS)
    seen = [0] * 4
    for position in range(CYCLE_SLOTS - 500, CYCLE_SLOTS + 500):
        source, nth = blend.at(position)
        assert nth == blend.counts(position)[source]
        seen[source] += 1
    assert (blend.counts(CYCLE_SLOTS + 500) - blend.counts(CYCLE_SLOTS - 500)).tolist() == seen
    assert [blend.at(position) for position in range(3)] == [(0, 0), (2, 0), (0, 1)]


def test_shares_of_a_billion_blocks_in_constant_memory():
    blend = Blend(WEIGHTS)
    assert np.abs(blend.counts(10**9) / 10**9 - np.array(WEIGHTS) / 10).max() < 1e-5
    assert sum(array.nbytes for array in vars(blend).values()) < 1_000_000
    source, nth = blend.at(10**9)
    assert nth == blend.counts(10**9)[source]


def test_shares_are_those_of_the_weights_to_a_slot():
    weights = [1 / 3, 1 / 7, 0.2, 0.001]
    shares = np.array(weights) / sum(weights)
    assert slots_per_cycle(weights).sum() == CYCLE_SLOTS
    assert np.abs(slots_per_cycle(weights) / CYCLE_SLOTS - shares).max() <= 1 / CYCLE_SLOTS


@pytest.mark.parametrize("num_blocks", [[1, 1, 1, 1], [100, 1, 7, 2], [70_000, 10_000, 50_000, 3_277]])
def test_the_first_position_that_would_repeat_a_block(num_blocks):
    blend = Blend(WEIGHTS)
    end = blend.num_positions_until(num_blocks)
    assert (blend.counts(end) <= num_blocks).all()
    assert (blend.counts(end + 1) > num_blocks).sum() == 1


@pytest.mark.parametrize("weights", [[1, 0], [1, -1], [1, float("nan")], [1, 1e-9]])
def test_weights_that_cannot_be(weights):
    with pytest.raises(ValueError, match="weight"):
        slots_per_cycle(weights)
