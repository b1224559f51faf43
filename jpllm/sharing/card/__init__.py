"""The model card of a run: what its record says, and a template for each language that says it."""
