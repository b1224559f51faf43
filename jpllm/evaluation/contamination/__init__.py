"""Contamination: benchmark items that occur in training documents, and scores without them."""
