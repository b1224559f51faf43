"""Models: presets, and building them from random weights for a tokenizer."""
