"""jpllm: build a Japanese language model at home, from raw text to proof."""

__version__ = "0.1.0"

# The numbers of the formats that lie on users' disks. One rises when an older jpllm would misread what is written now;
# what an older number stands for is read, or refused with the way out, and CHANGELOG.md says what a user does.
TOKEN_SHARDS_FORMAT = 2
CHECKPOINT_FORMAT = 2  # of manifest.json; 1 had no digest of itself, no position and no best model
RUN_FORMAT = 1  # of run.json; the folders of jpllm 0.1.0 have none
