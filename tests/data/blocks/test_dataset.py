import numpy as np
import pytest

from jpllm.data.blocks.dataset import BlockDataset, document_positions, permuted
from jpllm.data.shards import token_shards
from jpllm.data.shards.token_shards import TokenShards
from jpllm.runtime import InputError

EOS = 9


def make_shards(directory, token_ids, label="s", **facts):
    size = token_shards.ShardsSize(num_documents=1, num_tokens=len(token_ids))
    writer = token_shards.ShardWriter(directory, np.dtype("<u2"))
    writer.append(token_shards.Batch(0, size, [np.array(token_ids)], [], []))
    writer.close()
    token_shards.write_meta(
        directory, size, dtype="<u2", source={"label": label}, identity={"eos_token_id": EOS, **facts}
    )
    return TokenShards(directory)


@pytest.fixture
def two_sources(tmp_path):
    return [make_shards(tmp_path / "a", range(10), "a"), make_shards(tmp_path / "b", range(100, 109), "b")]


def test_blocks_do_not_overlap_and_drop_only_the_rest_of_each_source(two_sources):
    dataset = BlockDataset(two_sources, sequence_length=4)
    assert (dataset.num_blocks, dataset.blocks_per_source) == (4, [2, 2])
    assert [dataset.block(source, n).tolist() for source in (0, 1) for n in (0, 1)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [100, 101, 102, 103],
        [104, 105, 106, 107],
    ]


def test_every_epoch_holds_each_block_once_in_another_order(two_sources):
    dataset = BlockDataset(two_sources, sequence_length=1, num_positions=57, seed=3)
    epochs = [[dataset.block_at(position) for position in range(start, start + 19)] for start in (0, 19, 38)]
    every_block = [(0, n) for n in range(10)] + [(1, n) for n in range(9)]
    assert [sorted(epoch) for epoch in epochs] == [every_block] * 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    order = [every_block.index(block) for block in epochs[0]]
    assert order == [11, 5, 3, 2, 17, 6, 8, 9, 1, 10, 15, 12, 0, 18, 7, 4, 16, 14, 13]  # fixed: runs stay comparable


def test_weighted_sources_take_turns_and_are_shuffled_anew_each_time(two_sources):
    dataset = BlockDataset(two_sources, sequence_length=1, num_positions=60, seed=3, weights=[1, 3])
    order = [dataset.block_at(position) for position in range(60)]
    assert [source for source, _ in order[:12]] == [1, 0, 1, 1] * 3
    from_b = [index for source, index in order if source == 1]
    passes = [from_b[start : start + 9] for start in range(0, 45, 9)]
    assert [sorted(one) for one in passes] == [list(range(9))] * 5
    assert len({tuple(one) for one in passes}) == 5
    assert order[:8] == [(1, 3), (0, 6), (1, 4), (1, 8), (1, 6), (0, 8), (1, 0), (1, 2)]  # fixed: runs stay comparable
    assert order[:8] != [BlockDataset(two_sources, 1, 60, seed=4, weights=[1, 3]).block_at(n) for n in range(8)]
    (a, b) = dataset.uses()
    assert (a.source, a.requested_share, a.achieved_share, a.tokens, a.epochs, a.tokens_left) == (
        "a", 0.25, 0.25, 15, 1.5, 0,
    )  # fmt: skip
    assert (b.source, b.achieved_share, b.epochs) == ("b", 0.75, 5.0)
    assert dataset.num_positions_without_repeats == 12  # of b's 9 blocks the last is at position 11


def test_item(two_sources):
    dataset = BlockDataset(two_sources, sequence_length=4, num_positions=9)
    assert len(dataset) == 9
    item = dataset[8]
    assert item["input_ids"].tolist() == dataset.block(*dataset.block_at(8)).tolist()
    assert item["labels"].tolist() == [-100, *item["input_ids"].tolist()[1:]]
    assert list(item) == ["input_ids", "labels"]
    with pytest.raises(IndexError):
        dataset[9]


def test_positions_begin_again_at_the_eos_before_each_document(tmp_path):
    ids = [1, 2, EOS, 3, EOS, EOS, 4, 5]
    dataset = BlockDataset([make_shards(tmp_path / "a", ids)], 8, num_positions=1, isolate_documents=True)
    assert dataset[0]["position_ids"].tolist() == [0, 1, 0, 1, 0, 0, 1, 2]
    assert document_positions(np.array([EOS, 1, 2]), EOS).tolist() == [0, 1, 2]


BOS = 8


@pytest.fixture
def behind_bos(tmp_path):
    """Three documents, of four, one and five tokens, each behind a BOS."""
    ids = [BOS, 1, 2, 3, 4, EOS, BOS, 5, EOS, BOS, 1, 2, 3, 4, 5, EOS]
    return make_shards(tmp_path / "bos", ids, bos_token_id=BOS)


def blocks_in_order(dataset):
    """The items of one epoch, in the order of the corpus."""
    places = [dataset.block_at(position)[1] for position in range(len(dataset))]
    return [dataset[position] for position in np.argsort(places)]


def test_each_block_begins_with_the_bos_and_never_predicts_it(behind_bos):
    """Cut inside a document, at its beginning, and at the EOS before it."""
    items = blocks_in_order(BlockDataset([behind_bos], 4, num_positions=4))
    assert [item["input_ids"].tolist() for item in items] == [
        [BOS, 1, 2, 3],
        [BOS, EOS, BOS, 5],  # in place of 4
        [BOS, BOS, 1, 2],  # in place of the EOS
        [BOS, 4, 5, EOS],  # in place of 3
    ]
    assert [item["labels"].tolist() for item in items] == [
        [-100, 1, 2, 3],
        [-100, EOS, -100, 5],
        [-100, -100, 1, 2],
        [-100, 4, 5, EOS],
    ]


def test_no_other_id_is_lost_as_a_target(behind_bos, tmp_path):
    """What is predicted is what is predicted of the same blocks without the BOS, but for the BOS itself."""
    plain = make_shards(tmp_path / "plain", behind_bos.tokens(0, 16))
    targets, expected = (
        [item["labels"].tolist() for item in blocks_in_order(BlockDataset([shards], 4, num_positions=4))]
        for shards in (behind_bos, plain)
    )
    assert targets == [[-100 if index == BOS else index for index in labels] for labels in expected]


def test_positions_begin_again_at_each_bos(behind_bos):
    """The EOS belongs to the document that it ends."""
    items = blocks_in_order(BlockDataset([behind_bos], 8, num_positions=2, isolate_documents=True))
    assert items[0]["input_ids"].tolist() == [BOS, 1, 2, 3, 4, EOS, BOS, 5]
    assert items[0]["position_ids"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert items[1]["input_ids"].tolist() == [BOS, BOS, 1, 2, 3, 4, 5, EOS]
    assert items[1]["position_ids"].tolist() == [0, 0, 1, 2, 3, 4, 5, 6]


def test_a_bos_that_is_the_eos_begins_blocks_and_is_learned(tmp_path):
    shards = make_shards(tmp_path / "opt", [1, 2, 3, EOS, 4, 5, EOS, 6], bos_token_id=EOS)
    items = blocks_in_order(BlockDataset([shards], 4, num_positions=2, isolate_documents=True))
    assert [item["input_ids"].tolist() for item in items] == [[EOS, 2, 3, EOS], [EOS, 5, EOS, 6]]
    assert [item["labels"].tolist() for item in items] == [[-100, 2, 3, EOS], [-100, 5, EOS, 6]]
    assert [item["position_ids"].tolist() for item in items] == [[0, 1, 2, 0], [0, 1, 0, 1]]


def test_corpus_smaller_than_a_block(two_sources):
    with pytest.raises(InputError, match="of one source hold 9 tokens, fewer than one block: lower sequence_length"):
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
