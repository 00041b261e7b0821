"""What was typed, over sessions.

Enters: questions and commands. Leaves: those of earlier sessions, oldest first. The file is
`$XDG_STATE_HOME/pumice/chat_history` (`~/.local/state/pumice/chat_history`), a JSON text a line, for its owner's eyes
alone. A history that cannot be read or written is none: it never disturbs a conversation.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

MOST_ENTRIES = 1_000
MOST_BYTES = 2**20
"""Of the file that is read; older entries are forgotten when a session begins with more."""
LONGEST_ENTRY = 20_000
SWITCH = "PUMICE_NO_HISTORY"
"""Set to anything but 0, nothing is kept and nothing is read."""


def history_path() -> Path | None:
    """The file; None where it is switched off, or where there is no home."""
    if os.environ.get(SWITCH, "0") not in ("", "0"):
        return None
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        folder = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return folder / "pumice" / "chat_history"


class History:
    """Entries of earlier sessions and of this one; without a path, of this one alone."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.entries: list[str] = []
        if path is not None:
            with contextlib.suppress(OSError):
                self._read(path)

    def add(self, text: str) -> None:
        """Keep what was typed, but not the same twice in a row."""
        if not text.strip() or len(text) > LONGEST_ENTRY or text in self.entries[-1:]:
            return
        self.entries.append(text)
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with contextlib.closing(
                    _Handle(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                ) as handle:
                    os.write(handle.number, _line(text))

    def _read(self, path: Path) -> None:
        with contextlib.closing(_Handle(path, os.O_RDONLY)) as handle:
            size = os.fstat(handle.number).st_size
            os.lseek(handle.number, max(0, size - MOST_BYTES), os.SEEK_SET)
            lines = os.read(handle.number, MOST_BYTES).splitlines()
        if size > MOST_BYTES:
            lines = lines[1:]  # cut in the middle
        read = [text for line in lines if (text := _text(line)) is not None]
        self.entries = read[-MOST_ENTRIES:]
        if len(lines) > 2 * MOST_ENTRIES or size > MOST_BYTES:
            self._shorten(path)

    def _shorten(self, path: Path) -> None:
        """Write what is kept in place of what was there."""
        other = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        handle = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb") as file:  # noqa: PTH123
            file.writelines(_line(text) for text in self.entries)
        other.replace(path)


class _Handle:
    """An open regular file, its owner's alone from now on."""

    def __init__(self, path: Path, flags: int) -> None:
        self.number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            if not stat.S_ISREG(os.fstat(self.number).st_mode):
                raise OSError("not a file")
            if hasattr(os, "fchmod"):
                os.fchmod(self.number, 0o600)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        os.close(self.number)


def _line(text: str) -> bytes:
    return json.dumps(text).encode() + b"\n"


def _text(line: bytes) -> str | None:
    try:
        text = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return text if isinstance(text, str) else None
