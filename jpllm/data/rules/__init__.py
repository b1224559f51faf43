"""Cleaning rules: pure functions from a text to a text, or to the reason why it is dropped."""
