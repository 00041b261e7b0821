"""Where pumice keeps what it can make again: `$PUMICE_CACHE_DIR`, or `$XDG_CACHE_HOME/pumice`, or `~/.cache/pumice`.

Enters: what is kept. Leaves: the path of its folder, which may not be there yet.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder of one kind of things, below a path without links: the system names mapped files by their real ones.

    Raises:
        RuntimeError: links in a circle, or the user has no home.
    """
    own = os.environ.get("PUMICE_CACHE_DIR")
    if own:
        return Path(own).expanduser().resolve() / kind
    cache = os.environ.get("XDG_CACHE_HOME")
    base = Path(cache) if cache and Path(cache).is_absolute() else Path("~/.cache").expanduser()
    return base.resolve() / "pumice" / kind
