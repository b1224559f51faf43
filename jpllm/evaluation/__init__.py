"""Evaluation: what a model knows (perplexity, bits per byte) and what it writes."""
