"""What is packed is what the Hugging Face tokenizer gives, document by document, and no token is lost."""

import pytest

from jpllm.data.pack import pack
from jpllm.data.shards import TokenShards
from jpllm.data.sources import SourceConfig, read_documents
from jpllm.tokenizer.encoder import corpus_encoder
from jpllm.tokenizer.load import load


@pytest.mark.slow
def test_ids_of_the_whole_corpus(real_data, tmp_path):
    path = real_data / "llm-jp-tokenizer"
    tokenizer, source = load(path), SourceConfig(str(real_data / "aozora.jsonl.gz"))
    shards = TokenShards(pack(source, corpus_encoder(tokenizer, path), tmp_path, held_out_fraction=0))
    position = 0
    for number, text in enumerate(read_documents(source)):
        expected = [*tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.eos_token_id]
        found = shards.tokens(position, position + len(expected)).tolist()
        assert found == expected, f"document {number}"
        position += len(expected)
    assert position == shards.size.num_tokens
