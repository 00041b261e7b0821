"""A bundle's graphs as this machine computes with them: weights in the order that its processor likes, mapped.

Enters: a bundle. Leaves: a folder of graphs that ONNX Runtime has optimised and whose weights it has packed, found
again by every later `pumice.load` on this machine:

    $PUMICE_CACHE_DIR, or $XDG_CACHE_HOME/pumice, or ~/.cache/pumice
      optimized/<key>/   onnx-decoder_model_merged.onnx  onnx-decoder_model_merged.onnx_data  …  copy.json

The key is a digest of the bundle's manifest, of the processor, of ONNX Runtime's version and of what sessions are asked
for, so that a copy is never taken for another's. Weights are then mapped rather than copied into memory, and of the
bundle's own large files, which were checked when the copy was made, only size and time of change are looked at. A copy
is trusted as far as its folder is the user's own and closed to others; docs/optimize.md says what that means.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pumice.errors import OptimizeError
from pumice.machine.cache_folder import cache_folder
from pumice.machine.cpu import description
from pumice.manifest import MANIFEST_NAME, GraphSpec, Manifest
from pumice.manifest.file import MOST_BYTES
from pumice.manifest.regular_file import read_regular

FORMAT = 2
"""Of the folder, and of the options that graphs are optimised with."""
RECORD = "copy.json"
TEMPORARY = ".tmp-"
_SHOWN = 5
"""Of somebody's files, in a message."""
ABANDONED = 3600
"""Seconds after which a temporary folder is taken for one that a killed process left."""


class Stamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By what a file is known to be unchanged: bytes, and nanoseconds of its last change."""

    size: int
    mtime_ns: int


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`copy.json`: whose copy it is, and its files; SHA-256 of graphs, and of their data."""

    key: str
    bundle: str
    bundle_files: dict[str, Stamp]
    files: dict[str, Stamp]
    graphs: dict[str, str]
    data: dict[str, str]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Optimized:
    """A copy that was found sound. `unchanged` are the bundle's files that need not be digested again."""

    folder: Path
    record: Record
    unchanged: frozenset[str]

    @property
    def nbytes(self) -> int:
        """Bytes of the copy."""
        return sum(stamp.size for stamp in self.record.files.values())

    def path(self, graph: GraphSpec) -> Path | None:
        """Where the optimised graph lies, if there is one."""
        return self.folder / copy_name(graph) if copy_name(graph) in self.record.graphs else None

    def data(self, graph: GraphSpec) -> str:
        """The file of the optimised graph's weights."""
        return str(self.folder / f"{copy_name(graph)}_data")


def copy_name(graph: GraphSpec) -> str:
    """The file of a graph's copy, all of which lie in one folder."""
    return graph.file.replace("/", "-")


def copied_graphs(manifest: Manifest) -> tuple[GraphSpec, ...]:
    """Those that multiply: the embedding only looks up, in the bundle's own file."""
    graphs = manifest.graphs
    return tuple(graph for graph in graphs.all if graph is not graphs.embedding)


def find(folder: Path) -> Optimized | None:
    """The copy of the bundle in `folder` (resolved) for this machine; None where there is none that is sound."""
    try:
        place = copies_folder() / copy_key(folder)
        record = read_record(place)
    except (OSError, msgspec.DecodeError, RuntimeError):
        return None
    if record is None:
        return None
    same = record.bundle == str(folder)
    unchanged = frozenset(
        name for name, stamp in record.bundle_files.items() if same and stamp_of(folder / name) == stamp
    )
    return Optimized(folder=place, record=record, unchanged=unchanged)


def verify(folder: Path) -> Optimized:
    """The copy of the bundle in `folder` (resolved), all of it digested, which no load does.

    Raises:
        OptimizeError: there is none that is sound, or its weights were changed.
    """
    found = find(folder)
    if found is None:
        raise OptimizeError(f"no sound copy of {folder} for this machine: make one by `pumice optimize`")
    for name, digest in found.record.data.items():
        path = found.folder / name
        try:
            same = digest_of(path) == digest
        except OSError as error:
            raise OptimizeError(f"cannot read {path}: {error.strerror}") from None
        if not same:
            raise OptimizeError(f"{path} was changed: make it again by `pumice optimize --again`")
    return found


def remove(folder: Path) -> int:
    """Remove all copies of the bundle in `folder` (resolved), of other versions too; returns how many there were.

    Raises:
        OptimizeError: one cannot be removed, or holds what is not of it; then it is whole still.
    """
    removed = 0
    for place, record in copies(copies_folder()):
        if record.bundle == str(folder):
            try:
                remove_copy(place)
            except OSError as error:
                raise OptimizeError(f"cannot remove {place}: {error.strerror}") from None
            removed += 1
    return removed


def remove_copy(place: Path) -> None:
    """Remove a copy, whole or half written, and nothing that somebody else put there.

    Raises:
        OptimizeError: something else lies there, or it is a link to another folder.
        OSError: it cannot be removed.
    """
    if place.is_symlink():
        raise OptimizeError(f"{place} is a link, which no copy is: remove it yourself")
    strange = _strangers(place)
    if strange:
        raise OptimizeError(
            f"{place} holds what is not of a copy: {', '.join(strange[:_SHOWN])}: move it away, and try again"
        )
    shutil.rmtree(place)


def _strangers(place: Path) -> list[str]:
    """What a copy's record does not list; without a record, what is neither a graph nor its data."""
    known: re.Pattern[str] | None = None
    try:
        names = {RECORD, *msgspec.json.decode((place / RECORD).read_bytes(), type=Record).files}
    except (OSError, msgspec.DecodeError):
        names, known = {RECORD}, re.compile(r".+\.onnx(_data)?")
    with os.scandir(place) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.is_file(follow_symlinks=False)
            or not (entry.name in names or (known and known.fullmatch(entry.name)))
        )


def copies_folder() -> Path:
    """Of all bundles."""
    return cache_folder("optimized")


def copy_key(folder: Path) -> str:
    """The name of the copy of the bundle in `folder`, for this machine and this ONNX Runtime."""
    import onnxruntime

    manifest = hashlib.sha256(read_regular(folder / MANIFEST_NAME, MOST_BYTES)).hexdigest()
    identity = [str(FORMAT), manifest, onnxruntime.__version__, onnxruntime.get_build_info(), *description()]
    return hashlib.sha256("\0".join(identity).encode()).hexdigest()[:40]


def read_record(place: Path) -> Record | None:
    """What is written of a copy, if all of it is there unchanged, and nobody else may write there."""
    status = place.lstat()
    foreign = hasattr(os, "getuid") and status.st_uid != os.getuid()
    if not stat.S_ISDIR(status.st_mode) or foreign or status.st_mode & 0o022:
        return None
    record = msgspec.json.decode(read_regular(place / RECORD, MOST_BYTES), type=Record)
    names = {*record.graphs, *(f"{name}_data" for name in record.graphs)}
    expected = {*record.graphs, *record.data}
    plain = expected <= names and all(Path(name).name == name for name in names)
    if record.key != place.name or record.files.keys() != expected or not plain:
        return None
    if any(stamp_of(place / name) != stamp for name, stamp in record.files.items()):
        return None
    whole = all(digest_of(place / name) == digest for name, digest in record.graphs.items())
    return record if whole else None


def stamp_of(path: Path) -> Stamp | None:
    """None where it is no regular file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copies(root: Path) -> Iterator[tuple[Path, Record]]:
    """All copies that can be read, sound or not; not those that a process is still writing."""
    with contextlib.suppress(OSError):
        for place in sorted(path for path in root.iterdir() if not path.name.startswith(TEMPORARY)):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                yield place, msgspec.json.decode(read_regular(place / RECORD, MOST_BYTES), type=Record)


def summary(found: Optimized | None) -> dict[str, Any] | None:
    """A copy for `--json`."""
    if found is None:
        return None
    return {"folder": str(found.folder), "bytes": found.nbytes, "seconds": found.record.seconds}
