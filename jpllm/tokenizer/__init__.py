"""Train a SentencePiece tokenizer, convert it for Hugging Face, and load tokenizers for encoding a corpus."""
