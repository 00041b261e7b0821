"""A bundle's graphs as this machine computes with them: weights in the order that its processor likes, mapped.

Enters: a bundle. Leaves: a folder of graphs that ONNX Runtime has optimised and whose weights it has packed, found
again by every later `pumice.load` on this machine:

    $PUMICE_CACHE_DIR, or $XDG_CACHE_HOME/pumice, or ~/.cache/pumice
      optimized/<key>/   decoder.onnx  decoder.onnx_data  …  copy.json

The key is a digest of the bundle's manifest, of the processor, of ONNX Runtime's version and of what sessions are asked
for, so that a copy is never taken for another's. Weights are then mapped rather than copied into memory, and of the
bundle's own large files, which were checked when the copy was made, only size and time of change are looked at. A copy
is trusted as far as its folder is the user's own and closed to others; docs/optimize.md says what that means.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pumice.bundle import Bundle
from pumice.errors import OptimizeError
from pumice.manifest import MANIFEST_NAME, GraphSpec, Manifest
from pumice.processor import description

FORMAT = 2
"""Of the folder, and of the options that graphs are optimised with."""
RECORD = "copy.json"
TEMPORARY = ".tmp-"
_LEFT = 3600
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
        return self.folder / graph.file if graph.file in self.record.graphs else None

    def data(self, graph: GraphSpec) -> str:
        """The file of the optimised graph's weights."""
        return str(self.folder / f"{graph.file}_data")


def copied_graphs(manifest: Manifest) -> tuple[GraphSpec, ...]:
    """Those that multiply: the embedding only looks up, in the bundle's own file."""
    graphs = manifest.graphs
    return tuple(graph for graph in graphs.all if graph is not graphs.embedding)


def find(folder: Path) -> Optimized | None:
    """The copy of the bundle in `folder` (resolved) for this machine; None where there is none that is sound."""
    try:
        place = _root() / _key(folder)
        record = _record(place)
    except (OSError, msgspec.DecodeError, RuntimeError):
        return None
    if record is None:
        return None
    same = record.bundle == str(folder)
    unchanged = frozenset(
        name for name, stamp in record.bundle_files.items() if same and _stamp(folder / name) == stamp
    )
    return Optimized(folder=place, record=record, unchanged=unchanged)


def make(bundle: Bundle) -> Optimized:
    """Write the copy, for the CPU, and remove older ones of the same bundle.

    Raises:
        OptimizeError: the disk is too full, or the folder cannot be written.
    """
    from pumice.sessions import write_optimized

    root, began = _root(), time.perf_counter()
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(root, bundle.folder)
        _check_space(root, bundle.manifest)
        temporary = root / f"{TEMPORARY}{secrets.token_hex(8)}"
        temporary.mkdir(mode=0o700)
        try:
            for graph in copied_graphs(bundle.manifest):
                write_optimized(bundle, graph, temporary)
            key = _key(bundle.folder)
            record = _new_record(bundle, key, temporary, time.perf_counter() - began)
            (temporary / RECORD).write_bytes(msgspec.json.encode(record))
            for path in [*temporary.iterdir(), temporary]:
                _sync(path)
            _move(temporary, root / key)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise OptimizeError(f"cannot write a copy in {root}: {error.strerror}") from None
    found = find(bundle.folder)
    if found is None:
        raise OptimizeError(f"the copy in {root} was changed while it was written: try again")
    return found


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
            same = _digest(path) == digest
        except OSError as error:
            raise OptimizeError(f"cannot read {path}: {error.strerror}") from None
        if not same:
            raise OptimizeError(f"{path} was changed: make it again by `pumice optimize --again`")
    return found


def remove(folder: Path) -> int:
    """Remove all copies of the bundle in `folder` (resolved), of other versions too; returns how many there were.

    Raises:
        OptimizeError: one cannot be removed.
    """
    removed = 0
    for place, record in _copies(_root()):
        if record.bundle == str(folder):
            try:
                shutil.rmtree(place)
            except OSError as error:
                raise OptimizeError(f"cannot remove {place}: {error.strerror}") from None
            removed += 1
    return removed


def _root() -> Path:
    """Without links: the system names mapped files by their real paths."""
    own = os.environ.get("PUMICE_CACHE_DIR")
    if own:
        return Path(own).expanduser().resolve() / "optimized"
    cache = os.environ.get("XDG_CACHE_HOME")
    base = Path(cache) if cache and Path(cache).is_absolute() else Path("~/.cache").expanduser()
    return base.resolve() / "pumice" / "optimized"


def _key(folder: Path) -> str:
    import onnxruntime

    manifest = hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest()
    told = [str(FORMAT), manifest, onnxruntime.__version__, onnxruntime.get_build_info(), *description()]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:40]


def _record(place: Path) -> Record | None:
    """What is written of a copy, if all of it is there unchanged, and nobody else may write there."""
    status = place.lstat()
    foreign = hasattr(os, "getuid") and status.st_uid != os.getuid()
    if not stat.S_ISDIR(status.st_mode) or foreign or status.st_mode & 0o022:
        return None
    record = msgspec.json.decode((place / RECORD).read_bytes(), type=Record)
    names = {*record.graphs, *(f"{name}_data" for name in record.graphs)}
    told = {*record.graphs, *record.data}
    plain = told <= names and all(Path(name).name == name for name in names)
    if record.key != place.name or record.files.keys() != told or not plain:
        return None
    if any(_stamp(place / name) != stamp for name, stamp in record.files.items()):
        return None
    whole = all(_digest(place / name) == digest for name, digest in record.graphs.items())
    return record if whole else None


def _new_record(bundle: Bundle, key: str, folder: Path, seconds: float) -> Record:
    large = {name for graph in bundle.manifest.graphs.all for name in graph.external_data}
    stamps = {name: _stamp(bundle.path(name)) for name in sorted(large)}
    files = {path.name: _stamp(path) for path in sorted(folder.iterdir())}
    graphs = {graph.file: _digest(folder / graph.file) for graph in copied_graphs(bundle.manifest)}
    return Record(
        key=key,
        bundle=str(bundle.folder),
        bundle_files={name: stamp for name, stamp in stamps.items() if stamp is not None},
        files={name: stamp for name, stamp in files.items() if stamp is not None},
        graphs=graphs,
        data={name: _digest(folder / name) for name in files if name not in graphs},
        seconds=round(seconds, 2),
    )


def _stamp(path: Path) -> Stamp | None:
    """None where it is no regular file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_space(root: Path, manifest: Manifest) -> None:
    """ONNX Runtime writes weights as they were, and as they are packed."""
    data = {name for graph in copied_graphs(manifest) for name in (graph.file, *graph.external_data)}
    needed = 2 * sum(manifest.files[name].size for name in data) + (64 << 20)
    free = shutil.disk_usage(root).free
    if free < needed:
        raise OptimizeError(
            f"not enough space in {root}: the copy needs about {needed:,} bytes, {free:,} are free; "
            "PUMICE_CACHE_DIR names another folder"
        )


def _move(temporary: Path, place: Path) -> None:
    """Into place; another process's copy of the same is as good, a damaged one makes room."""
    try:
        temporary.rename(place)
    except OSError:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            if _record(place) is not None:
                return
        shutil.rmtree(place)
        temporary.rename(place)


def _sweep(root: Path, folder: Path) -> None:
    """Remove what killed processes left, and this bundle's copies for other versions."""
    for path in root.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process has moved it into place meanwhile
            if path.name.startswith(TEMPORARY) and time.time() - path.stat().st_mtime > _LEFT:
                shutil.rmtree(path, ignore_errors=True)
    current = _key(folder)
    for place, record in _copies(root):
        if record.bundle == str(folder) and place.name != current:
            shutil.rmtree(place, ignore_errors=True)


def _copies(root: Path) -> Iterator[tuple[Path, Record]]:
    """All copies that can be read, sound or not; not those that a process is still writing."""
    with contextlib.suppress(OSError):
        for place in sorted(path for path in root.iterdir() if not path.name.startswith(TEMPORARY)):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                yield place, msgspec.json.decode((place / RECORD).read_bytes(), type=Record)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def told(found: Optimized | None) -> dict[str, Any] | None:
    """A copy for `--json`."""
    if found is None:
        return None
    return {"folder": str(found.folder), "bytes": found.nbytes, "seconds": found.record.seconds}
