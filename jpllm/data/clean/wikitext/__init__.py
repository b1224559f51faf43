"""Wikitext, the markup of Wikipedia and Wikibooks, as plain text: `plain_text.py` is the door."""
