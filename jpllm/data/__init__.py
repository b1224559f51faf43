"""Texts in, blocks of tokens out: sources, token shards, and random access to them."""
