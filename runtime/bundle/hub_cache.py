"""The links of a Hugging Face cache, the only ones that may leave a bundle's folder.

Enters: a file of a bundle that lies in such a cache. Leaves: whether it is linked as the hub's client links it:

    CACHE/models--org--name/snapshots/<commit>/onnx/decoder.onnx_data
       → CACHE/models--org--name/blobs/<etag>                            a file; or, since huggingface_hub 2,
          → CACHE/blobs/<2 digits>/<hash>                                a file that several repositories share
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""Git's SHA-1, or SHA-256 of large files."""
_SHARED = re.compile(r"[0-9a-f]{64}")


def is_cached_file(path: Path, bundle: Path) -> bool:
    """Whether `path`, of the bundle in the folder `bundle` (resolved), ends at a file of the cache that holds it."""
    repository = _repository(bundle)
    if repository is None or not path.parent.resolve().is_relative_to(bundle):
        return False
    blob = _target(path)
    if blob is None or blob.parent != repository / "blobs" or not _ETAG.fullmatch(blob.name):
        return False
    if _is_plain(blob):
        return blob.resolve() == blob
    shared = _target(blob)
    if shared is None or not _SHARED.fullmatch(shared.name):
        return False
    place = repository.parent / "blobs" / shared.name[:2]
    return shared.parent == place and _is_plain(shared) and shared.resolve() == shared


def _repository(bundle: Path) -> Path | None:
    """`…/models--name`, where the bundle is a snapshot of it or lies in one."""
    for snapshot in (bundle, *bundle.parents):
        if snapshot.parent.name == "snapshots" and snapshot.parent.parent.name.startswith("models--"):
            return snapshot.parent.parent
    return None


def _target(link: Path) -> Path | None:
    """Where one link goes, which may be a link again; None where it is none."""
    try:
        there = os.readlink(link)  # noqa: PTH115
    except OSError:
        return None
    return Path(os.path.normpath(link.parent.resolve() / there))


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
