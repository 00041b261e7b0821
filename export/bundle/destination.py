"""Where a bundle may go: what is there already is only ever replaced if pumice wrote all of it.

Enters: a destination as somebody typed it. Leaves: its full path, or an error that says what is in the way. A bundle's
manifest lists its files; anything else in its folder is somebody's, and neither it nor the bundle is touched.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from pumice.errors import ExportError, UsageError
from pumice.manifest import MANIFEST_NAME
from pumice.manifest.card import CARD_NAME, has_own_card
from pumice.manifest.file import MOST_BYTES, listed_files
from pumice.manifest.regular_file import read_regular

REPORTS = ("parity.json", "PARITY.md")
"""Files that are written into a bundle later, and that its manifest does not list while that is being done."""
_SHOWN = 5
"""Of somebody's files, in a message."""


def resolved(destination: str | Path) -> Path:
    """The full path, links followed.

    Raises:
        UsageError: an empty text.
        ExportError: links in a circle, no such user's home, a folder to start from that is gone.
    """
    if not str(destination).strip():
        raise UsageError("the destination is an empty text, expected the name of a folder to write")
    try:
        return Path(destination).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ExportError(f"cannot write to {destination}: {error}") from None


def check_destination(destination: Path, overwrite: bool) -> None:
    """What may be replaced: nothing without `overwrite`; with it a bundle that is pumice's alone, or an empty folder.

    Raises:
        ExportError: something else is there, or it cannot be looked into.
    """
    try:
        _check(destination, overwrite)
    except OSError as error:
        raise ExportError(f"cannot write {destination}: {error.strerror}") from None


def _check(destination: Path, overwrite: bool) -> None:
    if not os.path.lexists(destination):
        return
    if not destination.is_dir():
        raise ExportError(
            f"{destination} is a file: --overwrite replaces bundles and empty folders only; "
            "choose another destination"
        )
    if _holds_this_place(destination):
        raise ExportError(
            f"{destination} is the folder that this runs in, or holds it: give the bundle a folder of its own"
        )
    empty = not any(destination.iterdir())
    if not empty and _listed(destination) is None:
        raise ExportError(
            f"{destination} exists, is not empty and not a bundle (no {MANIFEST_NAME} of pumice's): "
            "--overwrite replaces bundles and empty folders only; choose another destination"
        )
    if not overwrite:
        raise ExportError(f"{destination} exists: choose another destination, or replace it with --overwrite")
    refuse_strangers(destination, destination)


def refuse_strangers(folder: Path, destination: Path) -> None:
    """Raise ExportError where somebody put something into the bundle in `folder`, which is told as `destination`."""
    found = strangers(folder)
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ExportError(
            f"{destination} holds what no export wrote: {', '.join(found[:_SHOWN])}{more}; "
            "--overwrite would remove it: move it away, or choose another destination"
        )


def keep_apart(destination: Path, checkpoint: Path) -> None:
    """Raise ExportError where a bundle would be written into its checkpoint, or in place of a folder above it."""
    source = checkpoint.resolve()
    if destination == source or source in destination.parents:
        raise ExportError(f"{destination} lies within the checkpoint {source}: choose one outside of it")
    if destination in source.parents:
        raise ExportError(f"{destination} holds the checkpoint {source}: choose another destination")


def strangers(folder: Path) -> list[str]:
    """What lies in a bundle's folder and is not the bundle's, sorted: files, folders (with a slash behind), links.

    A card that somebody has edited is theirs. All of a folder that is no bundle. Raises OSError where it cannot be
    looked into.
    """
    card = (CARD_NAME,) if has_own_card(folder) else ()
    names = {MANIFEST_NAME, *REPORTS, *card, *(_listed(folder) or ())}
    temporaries = {f".{name}.pumice.tmp" for name in (MANIFEST_NAME, *REPORTS, CARD_NAME)}
    holders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    return sorted(_not_of(folder, "", names | temporaries, holders))


def _not_of(folder: Path, prefix: str, names: Collection[str], holders: Collection[str]) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if name in holders:
                    yield from _not_of(folder / entry.name, f"{name}/", names, holders)
                else:
                    yield f"{name}/"
            elif name not in names or not entry.is_file(follow_symlinks=False):
                yield name


def _holds_this_place(folder: Path) -> bool:
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        return False
    return folder == here or folder in here.parents


def _listed(folder: Path) -> Collection[str] | None:
    """The files that a bundle's manifest lists, be it of a newer schema or damaged since; None: it is no bundle."""
    try:
        return listed_files(read_regular(folder / MANIFEST_NAME, MOST_BYTES))
    except OSError:
        return None
