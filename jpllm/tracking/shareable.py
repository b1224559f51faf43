"""Texts of a run folder as others may see them: a report is made to be passed on."""

from __future__ import annotations

import re
from pathlib import Path

_ADDRESS = r"(?P<address>\w{2,}://[^/\s][^\s,]*)"  # of the Web or a bucket, where such a folder is nobody's home
_PART = r"[^\\/\s]+"
_HOMES = rf"(?:[A-Za-z]:)?(?:[\\/]{_PART}){{0,8}}?[\\/](?i:home|users)[\\/]{_PART}"  # also on another disk


def shareable(value: object) -> object:
    """The value of a JSON or YAML file with a tilde wherever one of its texts or keys names somebody's home folder."""
    if isinstance(value, str):
        return _home_folders().sub(lambda found: found["address"] or "~", encodable(value))
    if isinstance(value, dict):
        return {shareable(str(key)): shareable(item) for key, item in value.items()}
    return [shareable(item) for item in value] if isinstance(value, list) else value


def encodable(text: str) -> str:
    """Without halves of characters, which JSON can hold and no file can."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _home_folders() -> re.Pattern[str]:
    """That of this user, wherever it is, and those of others, for a run may come from another machine."""
    own = str(Path.home())
    folders = [re.escape(own), _HOMES, "/root"] if len(own) > 1 else [_HOMES, "/root"]
    return re.compile(rf"{_ADDRESS}|(?<![\w.~-])(?:{'|'.join(folders)})(?![\w.-])")
