"""What a training run needs, before it starts: memory, time, tokens and disk, and what would make it fit."""
