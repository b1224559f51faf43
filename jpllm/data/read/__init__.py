"""Read sources: their files, rows and texts, and what cannot be read."""
