"""Add Japanese pieces to an existing tokenizer without changing any id that it has."""
