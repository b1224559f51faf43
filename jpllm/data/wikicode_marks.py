"""Noncharacters of Unicode, which no text may use, that stand for what must not be parsed."""

from __future__ import annotations

import re

# Around the number of a text that was lifted out, and in place of what is shown nowhere.
KEPT_START, KEPT_END, REMOVED = "\ufdd0", "\ufdd1", "\ufdd2"
HIDDEN = {"<": "\ufdd3", "[": "\ufdd4", "|": "\ufdd5", "=": "\ufdd6", "\n": "\ufdd7"}
SHOW = str.maketrans({hidden: shown for shown, hidden in HIDDEN.items()} | {"\u00a0": " "})
NONCHARACTERS = re.compile(r"[\ufdd0-\ufdef]")
KEPT = re.compile(rf"{KEPT_START}(\d+){KEPT_END}")
