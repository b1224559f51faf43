import numpy as np
import pytest

from jpllm.evaluation.token_scores import sum_over_batches


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("num_items", [1, 2, 7, 12])
def test_processes_share_the_batches_and_compute_equally_often(num_items, num_ranks):
    """A model that shares its weights waits for ever where one process calls it more often."""
    items = np.arange(1.0, num_items + 1)
    calls = [[] for _ in range(num_ranks)]

    def of(rank):
        def compute(batch):
            calls[rank].append(len(batch))
            return np.array([sum(batch), len(batch)])

        return sum_over_batches(list(items), compute, 2, rank, num_ranks)

    sums = sum(of(rank) for rank in range(num_ranks))
    assert sums.tolist() == [items.sum(), num_items]
    assert len({len(made) for made in calls}) == 1


def test_nothing_to_sum():
    assert sum_over_batches([], lambda batch: 1 / 0, 2) == 0.0
