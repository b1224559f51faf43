"""Pack documents into token shards on disk, and find the shards again."""
