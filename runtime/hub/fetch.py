"""A bundle on the hub becomes a folder in the hub's cache.

Enters: a name. Leaves: the folder of one commit, with the files that its manifest lists and no others.

    manifest.json   its size first; then its bytes, checked as every manifest is
    other files     of the same commit; sizes as the manifest has them, or nothing is fetched
"""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pumice.bundle.folder import bundle_folder
from pumice.errors import HubError
from pumice.hub.client import ask, hub_client, remote_files
from pumice.hub.name import HubName
from pumice.manifest import MANIFEST_NAME, Manifest, decode_manifest
from pumice.manifest.file import MOST_BYTES
from pumice.manifest.regular_file import read_regular

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(
    name: HubName, *, whole: bool, check: Callable[[Path], object], tell: Callable[[str], None] | None
) -> Path:
    """Fetch what is not in the cache yet, and return the folder. Arguments and errors are those of `locate`."""
    folder = _manifest_folder(name)
    manifest = decode_manifest(_bytes(name, folder), f"{MANIFEST_NAME} of {name}")
    check(folder)
    if not whole or not _missing(folder, manifest):
        return folder
    pinned = HubName(repo=name.repo, revision=folder.name)
    coming = _check_sizes(pinned, manifest, folder)
    if tell is not None:
        tell(coming)
    ask(
        pinned,
        hub_client().snapshot_download,
        pinned.repo,
        allow_patterns=[glob.escape(file) for file in manifest.files],
        doing="fetch",
        bars=tell is not None,
        **_options(pinned),
    )
    missing = _missing(folder, manifest)
    if missing:
        raise HubError(
            f"cannot fetch {name}: {missing[0]} is not in {folder} as its manifest has it: try again"
        )
    return folder


def _manifest_folder(name: HubName) -> Path:
    """The cache's folder of the commit, with the manifest in it; how large that is, is asked before it is fetched."""
    client, options = hub_client(), _options(name)
    try:
        told = ask(
            name, client.hf_hub_download, name.repo, MANIFEST_NAME, dry_run=True, doing="fetch", **options
        )
    except HubError as error:
        if isinstance(error.__cause__, client.errors.RemoteEntryNotFoundError):
            raise HubError(
                f"{name} on the hub is not a bundle (no {MANIFEST_NAME}): `pumice export` makes one of a checkpoint"
            ) from None
        raise
    if told.file_size is None or told.file_size > MOST_BYTES:
        raise HubError(f"cannot fetch {name}: its {MANIFEST_NAME} is larger than {MOST_BYTES:,} bytes")
    file = ask(name, client.hf_hub_download, name.repo, MANIFEST_NAME, doing="fetch", **options)
    folder = bundle_folder(Path(file).parent)
    if not _COMMIT.fullmatch(folder.name):
        raise HubError(f"cannot fetch {name}: the hub calls its commit {folder.name!r}")
    return folder


def _bytes(name: HubName, folder: Path) -> bytes:
    try:
        return read_regular(folder / MANIFEST_NAME, MOST_BYTES)
    except OSError as error:
        raise HubError(f"cannot fetch {name}: {folder / MANIFEST_NAME}: {error.strerror}") from None


def _missing(folder: Path, manifest: Manifest) -> list[str]:
    """Files that are not there in their size; their SHA-256 is checked when the bundle is opened."""
    found = []
    for file, entry in manifest.files.items():
        try:
            size = (folder / file).stat().st_size
        except OSError:
            size = None
        if size != entry.size:
            found.append(file)
    return found


def _check_sizes(name: HubName, manifest: Manifest, folder: Path) -> str:
    """Before gigabytes come: all files are there, as large as the manifest says, and the disk has room for them.

    Returns what is about to be fetched, in words.
    """
    there = remote_files(name, folder.name, doing="fetch")
    for file, entry in manifest.files.items():
        size = there[file].size if file in there else None
        if size != entry.size:
            told = "lacks it" if size is None else f"has {size:,}"
            raise HubError(
                f"{name} was not pushed whole: its manifest lists {file} with {entry.size:,} bytes, "
                f"the repository {told}"
            )
    blobs = folder.parent.parent / "blobs"
    coming = [
        entry.size for file, entry in manifest.files.items() if not (blobs / _etag(there[file])).exists()
    ]
    free = shutil.disk_usage(folder).free
    if sum(coming) > free:
        raise HubError(f"cannot fetch {name}: it needs {sum(coming):,} bytes in {folder}, {free:,} are free")
    total = sum(entry.size for entry in manifest.files.values())
    return (
        f"fetching {name.repo} at {folder.name[:7]}: {sum(coming) / 1e6:,.1f} MB in {len(coming)} files, "
        f"of {total / 1e6:,.1f} MB in {len(manifest.files)}"
    )


def _etag(file: Any) -> str:
    """The name that the cache gives a file's bytes."""
    return str(file.blob_id if file.lfs is None else file.lfs.sha256)


def _options(name: HubName) -> dict[str, Any]:
    import pumice

    return {"revision": name.revision, "library_name": "pumice", "library_version": pumice.__version__}
