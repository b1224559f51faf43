"""Read conversations, encode them, and order them for supervised fine-tuning."""
