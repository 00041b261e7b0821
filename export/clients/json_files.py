"""A bundle's small JSON files, changed key by key.

Enters: a folder, a file's name, keys. Leaves: the file, with what it had besides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pumice.export.checkpoint.json_file import read_json


def read_object(path: Path) -> dict[str, Any]:
    """The object that a file holds; an empty one where there is no such file."""
    return read_json(path) if path.is_file() else {}


def write_object(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def update_object(path: Path, changes: Mapping[str, Any]) -> None:
    """Give keys of a file new values, and leave the rest."""
    write_object(path, read_object(path) | dict(changes))
