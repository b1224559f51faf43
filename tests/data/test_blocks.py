import numpy as np
import pytest

from jpllm.data import shards
from jpllm.data.blocks import BlockDataset, permuted
from jpllm.data.shards import ShardWriter, TokenShards
from jpllm.runtime import InputError


def make_shards(directory, token_ids):
    directory.mkdir()
    writer = ShardWriter(directory, np.dtype("<u2"))
    writer.append(np.array(token_ids), "x" * len(token_ids))
    writer.close_file()
    shards.write_meta(directory, writer.size, dtype="<u2")
    return TokenShards(directory)


@pytest.fixture
def two_sources(tmp_path):
    return [make_shards(tmp_path / "a", range(10)), make_shards(tmp_path / "b", range(100, 109))]


def test_blocks_do_not_overlap_and_drop_only_the_rest_of_each_source(two_sources):
    dataset = BlockDataset(two_sources, sequence_length=4)
    assert dataset.num_blocks == 4
    assert [dataset.block(n).tolist() for n in range(4)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [100, 101, 102, 103],
        [104, 105, 106, 107],
    ]


def test_every_epoch_holds_each_block_once_in_another_order(two_sources):
    dataset = BlockDataset(two_sources, sequence_length=1, num_positions=57, seed=3)
    epochs = [[dataset.block_at(position) for position in range(start, start + 19)] for start in (0, 19, 38)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(19))] * 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] == [
        11,
        5,
        3,
        2,
        17,
        6,
        8,
        9,
        1,
        10,
        15,
        12,
        0,
        18,
        7,
        4,
        16,
        14,
        13,
    ]  # fixed: runs stay comparable


def test_item(two_sources):
    dataset = BlockDataset(two_sources, sequence_length=4, num_positions=9)
    assert len(dataset) == 9
    item = dataset[8]
    assert item["input_ids"].tolist() == dataset.block(dataset.block_at(8)).tolist()
    assert item["labels"].tolist() == [-100, *item["input_ids"].tolist()[1:]]
    with pytest.raises(IndexError):
        dataset[9]


def test_corpus_smaller_than_a_block(two_sources):
    with pytest.raises(InputError, match="hold 19 tokens, fewer than one block: lower sequence_length \\(16\\)"):
        BlockDataset(two_sources, sequence_length=16)


@pytest.mark.parametrize("num_items", [1, 2, 3, 100, 257])
def test_permutation_is_one_to_one(num_items):
    assert sorted(permuted(index, num_items, "k") for index in range(num_items)) == list(range(num_items))


def test_permutation_has_no_visible_order():
    order = np.array([permuted(index, 4096, "k") for index in range(4096)])
    correlation = np.corrcoef(order, np.arange(4096))[0, 1]
    assert abs(correlation) < 0.05  # three standard errors of independent orders
    assert np.corrcoef(order[1:], order[:-1])[0, 1] == pytest.approx(0, abs=0.05)
    assert permuted(123_456_789, 10**9, "k") < 10**9  # no memory is taken for a billion blocks
