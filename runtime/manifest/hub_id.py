"""Names on the Hugging Face hub, told from paths.

Enters: a text. Leaves: whether it can be `org/name` there; nobody is asked.
"""

from __future__ import annotations

import re

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_LONGEST = 96


def is_hub_id(text: str) -> bool:
    """Whether `text` can be `org/name`, by the hub's own rules."""
    parts = text.split("/")
    return (
        len(parts) == 2
        and len(text) <= _LONGEST
        and all(_PART.fullmatch(part) for part in parts)
        and "--" not in text
        and ".." not in text
        and not text.endswith(".git")
    )
