"""The copy of a bundle that ONNX Runtime has optimised for this machine, written.

Enters: a checked bundle. Leaves: the folder that `pumice.bundle.optimized` finds.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from pathlib import Path

import msgspec

from pumice.bundle.folder import Bundle
from pumice.bundle.optimized import (
    ABANDONED,
    RECORD,
    TEMPORARY,
    Optimized,
    Record,
    copied_graphs,
    copies,
    copies_folder,
    copy_key,
    copy_name,
    digest_of,
    find,
    read_record,
    remove_copy,
    stamp_of,
)
from pumice.errors import OptimizeError
from pumice.machine.disk import sync
from pumice.manifest import GraphSpec, Manifest
from pumice.sessions.opening import open_session, session_options


def write_optimized(bundle: Bundle, graph: GraphSpec, folder: Path) -> None:
    """Write a graph to `folder` as ONNX Runtime has it on the CPU, with weights packed.

    Raises:
        BundleError: ONNX Runtime refuses it.
        OSError: the disk is full, or cannot be written.
    """
    options = session_options(1, low_memory=False, profile=None)
    options.optimized_model_filepath = str(folder / copy_name(graph))
    for key, value in {
        "session.save_external_prepacked_constant_initializers": "1",
        "session.optimized_model_external_initializers_file_name": f"{copy_name(graph)}_data",
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    }.items():
        options.add_session_config_entry(key, value)
    open_session(bundle, graph, "cpu", options)


def make(bundle: Bundle) -> Optimized:
    """Write the copy, for the CPU, and remove older ones of the same bundle.

    Raises:
        OptimizeError: the disk is too full, or the folder cannot be written.
    """
    root, began = copies_folder(), time.perf_counter()
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(root, bundle.folder)
        _check_space(root, bundle.manifest)
        temporary = root / f"{TEMPORARY}{secrets.token_hex(8)}"
        temporary.mkdir(mode=0o700)
        try:
            for graph in copied_graphs(bundle.manifest):
                write_optimized(bundle, graph, temporary)
            key = copy_key(bundle.folder)
            record = _new_record(bundle, key, temporary, time.perf_counter() - began)
            (temporary / RECORD).write_bytes(msgspec.json.encode(record))
            for path in [*temporary.iterdir(), temporary]:
                sync(path)
            _move(temporary, root / key)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise OptimizeError(f"cannot write a copy in {root}: {error.strerror}") from None
    found = find(bundle.folder)
    if found is None:
        raise OptimizeError(f"the copy in {root} was changed while it was written: try again")
    return found


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
            if read_record(place) is not None:
                return
        remove_copy(place)
        temporary.rename(place)


def _sweep(root: Path, folder: Path) -> None:
    """Remove what killed processes left, and this bundle's copies for other versions."""
    for path in root.iterdir():
        # another process may have moved it into place meanwhile; what somebody put there stays
        with contextlib.suppress(OSError, OptimizeError):
            if path.name.startswith(TEMPORARY) and time.time() - path.stat().st_mtime > ABANDONED:
                remove_copy(path)
    current = copy_key(folder)
    for place, record in copies(root):
        if record.bundle == str(folder) and place.name != current:
            with contextlib.suppress(OSError, OptimizeError):
                remove_copy(place)


def _new_record(bundle: Bundle, key: str, folder: Path, seconds: float) -> Record:
    large = {name for graph in bundle.manifest.graphs.all for name in graph.external_data}
    stamps = {name: stamp_of(bundle.path(name)) for name in sorted(large)}
    files = {path.name: stamp_of(path) for path in sorted(folder.iterdir())}
    names = [copy_name(graph) for graph in copied_graphs(bundle.manifest)]
    graphs = {name: digest_of(folder / name) for name in names}
    return Record(
        key=key,
        bundle=str(bundle.folder),
        bundle_files={name: stamp for name, stamp in stamps.items() if stamp is not None},
        files={name: stamp for name, stamp in files.items() if stamp is not None},
        graphs=graphs,
        data={name: digest_of(folder / name) for name in files if name not in graphs},
        seconds=round(seconds, 2),
    )
