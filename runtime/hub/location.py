"""Where a bundle lies: a folder here, or a repository on the hub that is fetched into its cache.

Enters: what somebody called the bundle. Leaves: its folder. A folder that is there wins, and then nothing is asked of
the network, nor is its client imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pumice.bundle.folder import bundle_folder
from pumice.errors import UsageError
from pumice.hub.name import hub_name
from pumice.manifest.regular_file import named


def locate(
    bundle: str | os.PathLike[str],
    revision: str | None = None,
    *,
    whole: bool = True,
    check: Callable[[Path], object] = lambda _: None,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """The folder of a bundle, resolved; of one on the hub in the hub's cache, fetched if it is not there yet.

    Args:
        bundle: a folder, or as a text `org/name` or `org/name@revision`. A `Path` is never a name on the hub.
        revision: a branch, a tag or a commit of one on the hub.
        whole: fetch all files, or nothing but the manifest.
        check: called with the folder before anything but the manifest is fetched; what it raises ends it.
        tell: told what is about to be fetched, in a line; without it the client shows no progress either.

    Raises:
        BundleError: a path that cannot be one.
        HubError: what is not here cannot be fetched.
        UsageError: a revision of a folder here, or one that can be none; no client is installed.
    """
    name = hub_name(bundle, revision) if isinstance(bundle, str) else None
    if name is None or os.path.lexists(named(bundle)):
        if revision is not None:
            raise UsageError(
                f"got the revision {revision!r} and {os.fspath(bundle)!r}, which is "
                f"{'a folder here' if os.path.lexists(named(bundle)) else 'no name on the hub'}: "
                "expected org/name, or no revision"
            )
        folder = bundle_folder(bundle)
        check(folder)
        return folder
    from pumice.hub.fetch import fetch

    return fetch(name, whole=whole, check=check, tell=tell)
