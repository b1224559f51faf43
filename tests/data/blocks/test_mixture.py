"""From files to training blocks: four sources whose documents differ in length a hundredfold, mixed by tokens."""

import numpy as np
import pytest

from jpllm.data.blocks.dataset import BlockDataset
from jpllm.data.read.jsonl import write_jsonl
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.pack import pack
from jpllm.data.shards.token_shards import TokenShards

DOCUMENT_CHARACTERS = {"a": 20, "b": 200, "c": 2000, "d": 600}
WEIGHTS = [4, 3, 2, 1]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """60,000 tokens of each source, whose text is its own name over and over."""
    from tests.conftest import ByteEncoder

    folder = tmp_path_factory.mktemp("mixture")
    packed = []
    for name, length in DOCUMENT_CHARACTERS.items():
        write_jsonl(({"text": name * length} for _ in range(60_000 // length)), folder / f"{name}.jsonl")
        source = SourceConfig(str(folder / f"{name}.jsonl"))
        packed.append(TokenShards(pack(source, ByteEncoder(), folder / "shards", 0)))
    return packed


@pytest.mark.parametrize("num_positions", [1000, 4321])
def test_achieved_shares_of_tokens_are_those_asked_for(shards, num_positions):
    dataset = BlockDataset(shards, 64, num_positions, seed=1, weights=WEIGHTS)
    tokens = np.zeros(4)
    for position in range(num_positions):
        ids = dataset[position]["input_ids"]
        source = int(ids.max()) - 1 - ord("a")  # the encoder writes a byte as its value + 1
        assert set(ids.tolist()) <= {0, ord("a") + source + 1}
        tokens[source] += len(ids)
    assert np.abs(tokens / tokens.sum() - np.array(WEIGHTS) / 10).max() < 0.005
    assert [use.tokens for use in dataset.uses()] == tokens.tolist()
    assert [use.source for use in dataset.uses()] == list("abcd")


def test_changing_the_ratio_does_not_tokenise_again(shards, encoder):
    folder = shards[0].directory.parent
    for weight in (1.0, 9.0):
        source = SourceConfig(str(folder.parent / "a.jsonl"), weight=weight)
        assert pack(source, encoder, folder, 0) == shards[0].directory
    assert encoder.num_calls == 0
