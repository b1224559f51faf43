"""A grammar of plain modern Japanese: the texts of the built-in corpus are drawn from it."""
