"""The memory, the time and the disk that a run takes, and what fits."""
