"""Each peer's own Python: a virtual environment made of `bench/peers/NAME.txt`.

Enters: a peer's requirements. Leaves: the path of a Python that has them, or `PeerUnavailableError` with the reason.

    # env NAME=VALUE             set while pip runs (to compile, for example)
    # no-deps REQUIREMENT        installed behind the others, without what it asks for
    anything else                a line of a requirements file

A peer without such a file runs in the project's own environment. What is installed is reused until the file changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT_S = 7200
_SETTING = re.compile(r"#\s*env\s+(\w+)=(.*)")
_PLAIN_TORCH = re.compile(r"torch==[\d.]+")
"""PyPI's comes with gigabytes of CUDA libraries, so the CPU's wheel is tried first: it satisfies the same line."""
_BARE = re.compile(r"#\s*no-deps\s+(\S.*)")


class PeerUnavailableError(Exception):
    """A peer cannot run here; the message is the reason, in a line."""


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """A peer's requirements: `lines` for pip, settings of its environment, and what is installed without its own."""

    lines: tuple[str, ...]
    settings: dict[str, str]
    bare: tuple[str, ...]


def parse(text: str) -> Requirements:
    """Requirements of a file's text."""
    lines: list[str] = []
    settings: dict[str, str] = {}
    bare: list[str] = []
    for line in text.splitlines():
        if setting := _SETTING.match(line):
            settings[setting[1]] = setting[2].strip()
        elif without := _BARE.match(line):
            bare.append(without[1].strip())
        elif line.strip() and not line.lstrip().startswith("#"):
            lines.append(line.strip())
    return Requirements(lines=tuple(lines), settings=settings, bare=tuple(bare))


def python_for(requirements: Path, root: Path, *, install: bool = True) -> Path:
    """The Python of the environment that a requirements file asks for, under `root`; made if it is not there.

    Raises:
        PeerUnavailableError: it cannot be made; or it is not there, and is not to be made (`install` False).
    """
    if not requirements.is_file():
        return Path(sys.executable)
    text = requirements.read_text()
    home = root / requirements.stem
    python, mark = home / "bin" / "python", home / ".installed"
    digest = hashlib.sha256(text.encode()).hexdigest()
    if mark.is_file() and mark.read_text() == digest and python.exists():
        return python
    if not install:
        raise PeerUnavailableError(
            f"its environment {home.name} is not installed: run `make bench` to make it"
        )
    _make(home, parse(text))
    mark.write_text(digest)
    return python


def _make(home: Path, wanted: Requirements) -> None:
    """A new environment with everything installed; pip's words go to a log beside it."""
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    log = home.with_suffix(".log")
    log.unlink(missing_ok=True)
    listed = home / "requirements.txt"
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    settings = os.environ | wanted.settings
    _run([sys.executable, "-m", "venv", str(home)], log, settings)
    for torch in (line for line in wanted.lines if _PLAIN_TORCH.fullmatch(line)):
        with contextlib.suppress(PeerUnavailableError):  # where there is none, the line itself brings one
            _run([*pip, f"{torch}+cpu"], log, settings)
    if wanted.lines:
        listed.write_text("\n".join(wanted.lines) + "\n")
        _run([*pip, "-r", str(listed)], log, settings)
    for requirement in wanted.bare:
        _run([*pip, "--no-deps", *requirement.split()], log, settings)


def _run(command: list[str], log: Path, settings: dict[str, str]) -> None:
    """Run a command.

    Raises:
        PeerUnavailableError: it failed, with the last line that tells why.
    """
    with log.open("a") as words:
        try:
            done = subprocess.run(
                command, stdout=words, stderr=subprocess.STDOUT, env=settings, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise PeerUnavailableError(f"installing took longer than {_TIMEOUT_S} s") from None
    if done.returncode:
        raise PeerUnavailableError(f"cannot be installed: {_reason(log.read_text(errors='replace'))}")


def _reason(words: str) -> str:
    """The last line of pip's that names an error, or the last one."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["pip said nothing"])[-1][:300]
