"""A model to give away: its card out of the record of its run, a proved folder, a GGUF file, the Hub."""
