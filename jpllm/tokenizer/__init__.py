"""Train, convert, extend, compare and load tokenizers, and encode corpora and conversations with them."""
