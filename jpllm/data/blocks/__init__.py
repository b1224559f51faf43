"""Cut token shards into training blocks whose order is known in advance."""
