"""No command waits for a pipe, or reads a device to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pumice
from pumice.manifest import load_manifest
from pumice.manifest.regular_file import read_regular

WATCHDOG_S = 600
"""A command that waits for a pipe would wait for ever."""


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole, which takes no room on the disk


NO_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (os.mkfifo, "a pipe or a device"),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "a pipe or a device"),
    "folder": (Path.mkdir, "Is a directory"),
    "large": (large, "is larger than"),
    "link to nothing": (lambda path: path.symlink_to("nothing"), "No such file"),
    "link to itself": (lambda path: path.symlink_to(path.name), "Too many levels"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_of_its_kind_is_an_error(tmp_path: Path, kind: str) -> None:
    make, told = NO_FILES[kind]
    make(tmp_path / "named")
    with pytest.raises(OSError) as error:  # noqa: PT011 (told is looked for below)
        read_regular(tmp_path / "named", 1 << 20)
    assert told in str(error.value.strerror)


def test_files_and_links_to_files_are_read_up_to_their_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "file", 5) == read_regular(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_regular(tmp_path / "file", 4)
    with pytest.raises(OSError, match="no name"):
        read_regular(tmp_path / "a\0b", 4)


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "large", "folder"])
@pytest.mark.parametrize(
    "arguments", [("info",), ("info", "--plan", "--context", "64"), ("run", "Hi"), ("optimize",)]
)
def test_commands_refuse_such_a_manifest(tmp_path: Path, kind: str, arguments: tuple[str, ...]) -> None:
    NO_FILES[kind][0](tmp_path / "manifest.json")
    command, *others = arguments
    ran = subprocess.run(
        [sys.executable, "-m", "pumice", command, str(tmp_path), *others],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
    )
    assert ran.returncode == 1, ran.stderr
    assert "manifest.json" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_load_and_load_manifest_refuse_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    for reader in (load_manifest, pumice.load):
        with pytest.raises(pumice.BundleError, match="pipe or a device"):
            reader(tmp_path)
