"""A bundle's folder, opened and found whole.

Enters: a path. Leaves: a `Bundle` whose files are all there, unchanged, inside the folder, and whose graphs read
nothing but them. A manifest proves that nothing was changed since the export, not who exported it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pumice.bundle.hub_cache import is_cached_file
from pumice.bundle.onnx_file import OnnxFile, read_onnx
from pumice.errors import BundleError
from pumice.machine.cpu import saturates
from pumice.manifest import FileEntry, GraphSpec, Manifest, load_manifest
from pumice.manifest.operators import lowest_version, version_numbers
from pumice.manifest.regular_file import named, read_regular

_MAX_GRAPH_BYTES = 2**31
"""A protobuf message's limit."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle: its folder and manifest."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """Where a file of the manifest lies."""
        return self.folder / name

    def read(self, name: str) -> bytes:
        """The bytes of a (small) file of the manifest."""
        try:
            return read_regular(self.path(name), self.manifest.files[name].size)
        except OSError as error:
            raise BundleError(f"cannot read {self.path(name)}: {error.strerror}") from None


def bundle_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder's resolved path. Raises BundleError where that cannot be had."""
    try:
        return named(folder).resolve()
    except (ValueError, OSError, RuntimeError):
        raise BundleError(f"{os.fspath(folder)!r} is not a usable path") from None


def open_bundle(folder: str | os.PathLike[str], *, unchanged: Collection[str] = ()) -> Bundle:
    """Open a bundle and check every file of its manifest: place, size, SHA-256, and what its graphs refer to.

    Files that are known to be `unchanged` since they were checked are not digested again.

    Raises:
        BundleError: no bundle there; a file missing, changed, or reached through a link that leaves the bundle; a graph
            that is damaged or reads a file that is not its own.
        SchemaVersionError: written for a newer pumice.
    """
    path = bundle_folder(folder)
    bundle = Bundle(folder=path, manifest=load_manifest(path))
    _check_onnxruntime(bundle.manifest.requires.onnxruntime)
    for name, entry in bundle.manifest.files.items():
        _check_place(bundle, name, entry)
    digested = [item for item in bundle.manifest.files.items() if item[0] not in unchanged]
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda item: _check_digest(bundle, *item), digested):
            pass
    for graph in bundle.manifest.graphs.all:
        read = _check_graph(bundle, graph)
        _check_onnxruntime(lowest_version(read.operators, makes_unsigned=False))
        _check_onnxruntime(lowest_version(read.operators, makes_unsigned=saturates()), " on this processor")
    return bundle


def _check_onnxruntime(required: str, where: str = "") -> None:
    """What the manifest asks for, and what its graphs do: those written before that was known promise too much."""
    import onnxruntime

    installed: str = onnxruntime.__version__
    if version_numbers(installed) < version_numbers(required):
        raise BundleError(
            f"this bundle needs onnxruntime {required} or newer{where}, installed is {installed}: upgrade it"
        )


def _check_place(bundle: Bundle, name: str, entry: FileEntry) -> None:
    """The file is a regular one of the right size, in the bundle or in the Hugging Face cache that holds it."""
    path = bundle.path(name)
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except FileNotFoundError:
        raise BundleError(f"{path} is missing: copy the whole bundle, or export it again") from None
    except (OSError, RuntimeError):
        raise BundleError(f"{path} cannot be opened") from None
    if not (real.is_relative_to(bundle.folder) or is_cached_file(path, bundle.folder)):
        raise BundleError(f"{path} is a link that leaves the bundle: a bundle holds its own files")
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is not a file")
    if status.st_size != entry.size:
        raise BundleError(
            f"{path} has {status.st_size:,} bytes, its manifest says {entry.size:,}: copy or export the bundle again"
        )


def _check_digest(bundle: Bundle, name: str, entry: FileEntry) -> None:
    path = bundle.path(name)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from None
    if digest != entry.sha256:
        raise BundleError(
            f"{path} was changed: its SHA-256 is not the manifest's; copy or export the bundle again"
        )


def _check_graph(bundle: Bundle, graph: GraphSpec) -> OnnxFile:
    """The graph reads its own external data files only, and no further than they reach."""
    path = bundle.path(graph.file)
    if not 0 < bundle.manifest.files[graph.file].size < _MAX_GRAPH_BYTES:
        raise BundleError(f"{path} is empty or larger than a graph can be")
    try:
        with path.open("rb") as file:
            found = read_onnx(file.read())
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from None
    except BundleError as error:
        raise BundleError(f"{path} is not a sound ONNX graph: {error}") from None
    beside = Path(graph.file).parent
    allowed = {
        str(Path(name).relative_to(beside))
        for name in graph.external_data
        if Path(name).is_relative_to(beside)
    }
    for tensor in found.tensors:
        if tensor.location not in allowed:
            raise BundleError(
                f"{path} refers to {tensor.location[:80]!r}, which is not among its external data files"
            )
        size = bundle.manifest.files[str(beside / tensor.location)].size
        if tensor.offset + tensor.length > size:
            raise BundleError(
                f"{path} reads up to byte {tensor.offset + tensor.length:,} of {tensor.location!r}, which has {size:,}"
            )
    return found
