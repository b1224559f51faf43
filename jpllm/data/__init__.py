"""Turn texts into blocks of tokens: sources, cleaning, token shards, and random access to them."""
