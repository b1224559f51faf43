"""Leaps of the loss, and texts learned by heart, as rules on rows."""

import pytest

from jpllm.tracking import metrics

CALM = [3.0, 3.1] * 10


@pytest.mark.parametrize(("loss", "is_spike"), [(3.5, False), (3.6, True), (2.0, False)])
def test_spike(loss, is_spike):
    """The median is 3.05 and half lie within 0.05 of it, so the limit is that of half a nat."""
    assert bool(metrics.spike(loss, CALM)) == is_spike


def test_spike_among_noisy_losses():
    noisy = [2.0, 4.0] * 10  # median 3, spread 1: six of it are 9
    assert metrics.spike(8.9, noisy) is None
    assert metrics.spike(9.1, [99.0, *noisy]) == "loss 9.1000, the median of the 20 rows before is 3.0000"
    assert metrics.spike(99.0, noisy[:19]) is None  # too few to know


def points(pairs):
    """Held-out and training losses, one of each a step."""
    train, held_out = zip(*pairs, strict=True)
    return list(enumerate(held_out)), list(enumerate(train))


def test_overfitting_lasts():
    falling = [(3, 3.1), (2.5, 3), (2, 3.1), (1.5, 3.2), (1, 3.3)]
    assert metrics.overfitting(*points(falling[:3])) is None
    assert metrics.overfitting(*points(falling[:4])).num_worse == metrics.NUM_WORSE == 2
    found = metrics.overfitting(*points(falling))
    assert found.num_worse == 3
    assert found.words.startswith(
        "held-out loss 3.3000, it was 3.0000 at step 1, while the training loss fell from 2.5"
    )
    assert metrics.overfitting([], []) is None
    assert metrics.overfitting(points(falling)[0], []) is None
