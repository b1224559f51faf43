"""Runs mirrored to Weights & Biases; the library itself is imported in `process` alone."""
