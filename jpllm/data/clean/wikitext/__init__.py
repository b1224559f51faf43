"""Turn wikitext, the markup of Wikipedia and Wikibooks, into plain text; `plain_text.py` is the door."""
