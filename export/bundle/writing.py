"""Writing a bundle so that its destination holds the old one or the new one, whole, at every moment.

Enters: a destination. Leaves: a bundle there, or nothing changed. Files are written to a folder beside the destination
(`.NAME.pumice-….new.tmp`), synced to disk, and moved into place at once (`pumice.export.bundle.rename`); only then is
an old bundle removed. An exception, Ctrl-C or SIGTERM removes the folder; after SIGKILL a janitor process does
(`pumice.export.bundle.janitor`); after a power cut the next export to the same destination does, which tells by the
folder's lock whether its export is alive.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pumice.errors import ExportError
from pumice.export.bundle import janitor
from pumice.export.bundle.destination import check_destination, refuse_strangers, resolved
from pumice.export.bundle.rename import move_back, move_into_place
from pumice.manifest import MANIFEST_NAME, FileEntry, Manifest, encode_manifest, load_manifest
from pumice.manifest.card import CARD_NAME, has_own_card, render

_LONGEST_NAME = 255
"""Bytes, on nearly all file systems."""
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing_bundle(
    destination: str | Path, *, overwrite: bool, needed_bytes: int | None = None
) -> Iterator[Path]:
    """A temporary folder for the length of a block; what the block wrote there becomes `destination`.

    Args:
        destination: where the bundle goes. Missing parents are made, and removed again if the block fails.
        overwrite: replace an empty folder that is there, or a bundle with nothing in it but what pumice wrote.
        needed_bytes: refuse to begin where the disk has less than this free.

    Raises:
        ExportError: the destination exists, cannot be written, or the disk is too full (before or during the block).
    """
    destination = resolved(destination)
    folder = destination.parent / f"{_prefix(destination)}{secrets.token_hex(4)}{janitor.NEW}"
    with _told(destination, folder, needed_bytes):
        check_destination(destination, overwrite)
        _check_name(destination)
        made = [parent for parent in destination.parents if not parent.exists()]
        with _terminable(), _cleared(folder, destination, made):
            destination.parent.mkdir(parents=True, exist_ok=True)
            _sweep(destination)
            _check_space(destination.parent, needed_bytes)
            with _locked(folder):
                yield folder
                _sync(folder)
                check_destination(destination, overwrite)  # it may have come into being meanwhile
                move_into_place(folder, destination)
                _check_replaced(folder, destination)
                _sync_path(destination.parent)


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Sizes in bytes and SHA-256 of all files in `folder` but the manifest and the card, by relative name, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    with ThreadPoolExecutor() as threads:
        entries = dict(zip(names, threads.map(_file_entry, paths), strict=True))
    return {name: entry for name, entry in entries.items() if name not in (MANIFEST_NAME, CARD_NAME)}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`: it appears whole, or not at all."""
    _replace(folder / MANIFEST_NAME, encode_manifest(manifest))


def write_card(folder: Path, manifest: Manifest) -> None:
    """Write `README.md`, what the manifest says for people."""
    _replace(folder / CARD_NAME, render(manifest))


def replace_in_bundle(bundle: Path, contents: Mapping[str, bytes], manifest: Manifest) -> None:
    """Add or replace files of a bundle that readers can do without, and its manifest.

    A bundle that is killed half-way stays valid: the manifest stops listing the files before they change. Its card
    comes to say what the manifest says, unless somebody has edited it.

    Raises:
        BundleError: `bundle` is none.
        ExportError: it cannot be written.
    """
    listed = load_manifest(bundle)
    kept = {name: entry for name, entry in listed.files.items() if name not in contents}
    try:
        if len(kept) < len(listed.files):
            write_manifest(bundle, replace(listed, files=kept, parity=None))
        for name, data in contents.items():
            _replace(bundle / name, data)
        write_manifest(bundle, manifest)
        if has_own_card(bundle):
            write_card(bundle, manifest)
    except OSError as error:
        raise ExportError(f"cannot write in {bundle}: {error.strerror}") from error


def _check_name(destination: Path) -> None:
    """The temporary folder's name, which is longer, must fit too."""
    longest = _LONGEST_NAME - len(f"{_prefix(Path())}{'0' * 8}{janitor.NEW}")
    if len(os.fsencode(destination.name)) > longest:
        raise ExportError(
            f"cannot write {str(destination)[:80]}…: file name too long, expected at most {longest} bytes"
        )


def _check_replaced(folder: Path, destination: Path) -> None:
    """Before the old bundle is removed: had somebody put a file into it in the last moment, it goes back."""
    for aside in (folder, Path(str(folder).removesuffix(janitor.NEW) + janitor.OLD)):
        if aside.exists():
            try:
                refuse_strangers(aside, destination)
            except ExportError:
                move_back(folder, destination)
                raise


def _check_space(parent: Path, needed_bytes: int | None) -> None:
    free = shutil.disk_usage(parent).free
    if needed_bytes is not None and free < needed_bytes:
        raise ExportError(
            f"not enough space in {parent}: the bundle needs {needed_bytes:,} bytes, {free:,} are free"
        )


@contextmanager
def _told(destination: Path, folder: Path, needed_bytes: int | None) -> Iterator[None]:
    """A full disk, and a destination that cannot be written, as `ExportError`. Runs when all has been put back."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) and cause.errno in _DISK_FULL):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, OSError):
            needed = "" if needed_bytes is None else f"the bundle needs {needed_bytes:,} bytes, "
            there = next(parent for parent in destination.parents if parent.exists())
            raise ExportError(
                f"{cause.strerror} while writing {destination}: {needed}{shutil.disk_usage(there).free:,} are free; "
                "make room, or choose another destination"
            ) from error
        name = str(getattr(error, "filename", None))
        ours = name.startswith(str(folder)) or name in map(str, (destination, *destination.parents))
        if isinstance(error, OSError) and ours:
            raise ExportError(f"cannot write {destination}: {error.strerror} ({name})") from error
        raise


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, in the main thread and unless they are handled already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL
    ]
    for number in caught:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


@contextmanager
def _cleared(folder: Path, destination: Path, made: list[Path]) -> Iterator[None]:
    """Nothing of `folder` is left after the block; `made` parents go too if it fails. A janitor stands by."""
    arguments = [str(folder), str(destination), *map(str, made)]
    program = subprocess.Popen(
        [sys.executable, "-I", "-S", janitor.__file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    assert program.stdin is not None
    try:
        try:
            yield
        except BaseException:
            janitor.clear(str(folder), str(destination), arguments[2:])
            raise
        janitor.clear(str(folder), str(destination))
        program.stdin.write(janitor.DONE)
    finally:
        with suppress(BrokenPipeError):
            program.stdin.close()
        program.wait()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make `folder` and hold its lock, which ends with this process at the latest."""
    folder.mkdir()
    lock = _lock(folder, fcntl.LOCK_EX)
    try:
        if not folder.exists():
            raise ExportError("another export to the same destination began at the same moment: try again")
        yield
    finally:
        _unlock(lock)


def _lock(folder: Path, operation: int) -> int | None:
    """A handle that holds the folder's lock; None if it is gone, somebody else's, or the disk has no locks."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, operation)
    except OSError:
        os.close(handle)
        return None
    return handle


def _unlock(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _prefix(destination: Path) -> str:
    return f".{destination.name}.pumice-"


def _sweep(destination: Path) -> None:
    """Clear what dead exports to the same destination have left: folders whose lock can be had."""
    with os.scandir(destination.parent) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    ours = re.compile(re.escape(_prefix(destination)) + "[0-9a-f]+")
    stems = {
        name.removesuffix(end) for name in names for end in (janitor.NEW, janitor.OLD) if name.endswith(end)
    }
    stems = {stem for stem in stems if ours.fullmatch(stem)}
    for stem in stems:
        folder = destination.parent / f"{stem}{janitor.NEW}"
        lock = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock is not None or not folder.exists():
            janitor.clear(str(folder), str(destination))
        _unlock(lock)


def _file_entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(size=path.stat().st_size, sha256=digest)


def _replace(path: Path, data: bytes) -> None:
    """Write a file by way of another beside it (of a fixed name, so that a killed attempt is overwritten)."""
    temporary = path.with_name(f".{path.name}.pumice.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_path(path.parent)


def _sync(folder: Path) -> None:
    """Have the disk hold every file and folder of `folder`."""
    for path in folder.rglob("*"):
        _sync_path(path)
    _sync_path(folder)


def _sync_path(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
