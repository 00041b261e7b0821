"""How far a run has come, on standard error: a line that is rewritten on a terminal, else a line now and then.

pumice: 1,240 of 2,000 [============>       ]  62% | 37 failed | 31.2 records/s | 250 tokens/s | 24 s left
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TextIO

_REDRAW_SECONDS = 0.1
_LINE_SECONDS = 30.0
_RECENT_SECONDS = 30.0
"""Speeds are those of so long."""

_BAR = 20
"""Characters."""


class Progress:
    """Counts records, and shows them."""

    def __init__(self, out: TextIO, *, total: int, done: int, failed: int) -> None:
        """`done` and `failed` were there before."""
        self._out, self._total = out, total
        self._terminal = out.isatty()
        self._every = _REDRAW_SECONDS if self._terminal else _LINE_SECONDS
        self.done, self.failed, self.tokens = done, failed, 0
        self._started = self._shown = time.monotonic()
        self.kept = self._here = 0
        self._recent = deque([(self._started, 0, 0)])

    def add(self, *, failed: bool, tokens: int, kept: bool = False) -> None:
        """Count a record; one that is kept of before is none of this run's work."""
        self.done += 1
        self.failed += failed
        if kept:
            self.kept += 1
            return
        self._here += 1
        self.tokens += tokens
        now = time.monotonic()
        if now - self._shown >= self._every:
            self.show(now)

    def show(self, now: float) -> None:
        """Show how things stand at `time.monotonic() == now`."""
        self._shown = now
        self._recent.append((now, self._here, self.tokens))
        while len(self._recent) > 2 and self._recent[1][0] < now - _RECENT_SECONDS:
            self._recent.popleft()
        line = self.line(now)
        if self._terminal:
            self._write(f"\r\x1b[K{line[: _columns(self._out) - 1]}")
        else:
            self._write(line + "\n")

    def line(self, now: float) -> str:
        """All figures in a line."""
        then, done, tokens = self._recent[0]
        seconds = max(now - then, 1e-9)
        speed = (self._here - done) / seconds
        share = self.done / self._total
        filled = int(share * _BAR)
        bar = "=" * filled + ">" * (filled < _BAR) + " " * (_BAR - filled - 1)
        parts = [
            f"pumice: {self.done:,} of {self._total:,} [{bar}] {int(share * 100):3}%",
            f"{self.failed:,} failed",
            f"{speed:,.1f} records/s",
            f"{(self.tokens - tokens) / seconds:,.0f} tokens/s",
        ]
        if speed > 0:
            parts.append(f"{_duration((self._total - self.done) / speed)} left")
        return " | ".join(parts)

    def end(self) -> None:
        """Leave the line as it stands last."""
        if self._terminal:
            self.show(time.monotonic())
            self._write("\n")

    def summary(self) -> str:
        """What was done this time: numbers and speeds."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        kept = f"; {self.kept:,} kept" if self.kept else ""
        return (
            f"{self._here:,} records in {_duration(seconds)}: "
            f"{self._here / seconds:,.1f} records/s, {self.tokens / seconds:,.0f} tokens/s{kept}"
        )

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _columns(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _duration(seconds: float) -> str:
    """Seconds for people: 24 s, 3 min 20 s, 5 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
