"""A JSON file of a checkpoint's or an adapter's, read with bounds.

Enters: a path. Leaves: the object that it holds, or a `CheckpointError` of one line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pumice.errors import CheckpointError
from pumice.manifest.regular_file import read_regular

MOST_BYTES = 512 << 20
"""Of each file beside the weights; the largest tokenizers have a tenth."""


def read_json(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """A JSON file of `most` bytes or fewer that holds an object.

    Raises:
        CheckpointError: missing, unreadable, not JSON, or not an object.
    """
    try:
        content = json.loads(read_regular(path, most))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}): download or convert it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}: expected an object")
    return content
