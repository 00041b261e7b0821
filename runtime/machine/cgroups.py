"""The Linux control groups that this process is in, which bound what it may use.

Enters: a controller's name. Leaves: the folders to read its limits from, of version 2 and of version 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP, ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def control_groups(controller: str, membership: Path, root: Path) -> Iterator[tuple[int, Path]]:
    """(version, folder) of the process's group and of those above it: limits of all of them hold.

    `membership` is `MEMBERSHIP` and `root` is `ROOT`, but in tests. Nothing where there are no control groups.
    """
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except (OSError, UnicodeDecodeError):
        return
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers == "":
            yield from ((2, folder) for folder in _ancestors(root, path))
        elif controller in controllers.split(","):
            for mount in dict.fromkeys((controllers, controller)):
                yield from ((1, folder) for folder in _ancestors(root / mount, path))


def _ancestors(root: Path, path: str) -> list[Path]:
    """The group's folder and those above it, up to the root; a container often sees the root only."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [root.joinpath(*parts[:length]) for length in range(len(parts) + 1)]
