"""What an export is doing: progress bars on a terminal, plain lines elsewhere, nothing with `-q`.

Enters: stages (a title and how many bytes or steps it has) and amounts done. Leaves: text on stderr.

    with showing(quiet=False) as progress:
        progress.stage("decoder: weights", total_bytes=812_000_000)
        progress.advance(4096)
        progress.note("head shared with the embedding table")
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

LINE_SECONDS = 30.0
"""Without a terminal, a stage that takes longer than this says every so often how far it is."""


class Progress(Protocol):
    """Told what is being done; `advance` may be called from several threads."""

    def stage(self, title: str, *, total_bytes: int | None = None, steps: int | None = None) -> None:
        """Begin a stage, which ends the one before; with neither total its length is unknown."""

    def advance(self, amount: int = 1) -> None:
        """Add bytes or steps to the stage that is running."""

    def note(self, text: str) -> None:
        """One line that stays on the screen."""


class Silent:
    """A `Progress` that shows nothing."""

    def stage(self, title: str, *, total_bytes: int | None = None, steps: int | None = None) -> None:
        """Nothing."""

    def advance(self, amount: int = 1) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


@dataclass(kw_only=True)
class _Stage:
    """The stage that is running; `total` and `done` are in bytes if `in_bytes`, else in steps."""

    title: str
    total: int | None
    in_bytes: bool
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def amount(self) -> str:
        """`12.3 / 40.0 MB`, `3 / 24`, or nothing where there is nothing to count."""
        if self.in_bytes:
            return f"{self.done / 1e6:,.1f} / {(self.total or 0) / 1e6:,.1f} MB"
        return f"{self.done} / {self.total}" if self.total else ""


def _stage(title: str, total_bytes: int | None, steps: int | None) -> _Stage:
    total = total_bytes if total_bytes is not None else steps
    return _Stage(title=title, total=total, in_bytes=total_bytes is not None)


class Lines:
    """A `Progress` of plain lines: one per finished stage with its duration, signs of life in long ones."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._running: _Stage | None = None
        self._said = 0.0

    def stage(self, title: str, *, total_bytes: int | None = None, steps: int | None = None) -> None:
        """Begin a stage and print the line of the one before."""
        self.finish()
        self._running = _stage(title, total_bytes, steps)
        self._said = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        """Count, and print how far the stage is if it has been quiet for long."""
        with self._lock:
            stage = self._running
            if stage is None:
                return
            stage.done += amount
            if stage.total and stage.done and time.monotonic() - self._said >= LINE_SECONDS:
                self._said = time.monotonic()
                left = stage.seconds * max(stage.total - stage.done, 0) / stage.done
                self.note(f"{stage.title}  {stage.amount()}, about {left:.0f} s left")

    def note(self, text: str) -> None:
        """Print one line."""
        print(text, file=self._stream, flush=True)

    def finish(self) -> None:
        """Print the line of the stage that was running."""
        stage, self._running = self._running, None
        if stage is not None:
            size = f", {stage.done / 1e6:,.1f} MB" if stage.in_bytes else ""
            self.note(f"{stage.title}  {stage.seconds:.1f} s{size}")


class Bars:
    """A `Progress` of rich's bars: title, bar, amount, time spent and time left."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(file=stream),
        )
        self._lock = threading.Lock()
        self._running: _Stage | None = None
        self._task: Any = None
        self._bars.start()

    def stage(self, title: str, *, total_bytes: int | None = None, steps: int | None = None) -> None:
        """Begin a stage; the bar of the one before fills up and stays."""
        self.finish()
        self._running = _stage(title, total_bytes, steps)
        self._task = self._bars.add_task(title, total=self._running.total, amount=self._running.amount())

    def advance(self, amount: int = 1) -> None:
        """Move the bar."""
        with self._lock:
            stage = self._running
            if stage is not None:
                stage.done += amount
                self._bars.update(self._task, completed=stage.done, amount=stage.amount())

    def note(self, text: str) -> None:
        """Print one line above the bars."""
        self._bars.console.print(text, markup=False, highlight=False)

    def finish(self) -> None:
        """Fill the bar of the stage that was running."""
        stage, self._running = self._running, None
        if stage is not None:
            self._bars.update(self._task, total=stage.done or 1, completed=stage.done or 1)

    def close(self) -> None:
        """Leave the terminal as it was, with the bars as they stand."""
        self._bars.stop()


@contextmanager
def showing(*, quiet: bool = False, stream: TextIO | None = None) -> Iterator[Progress]:
    """A `Progress` for the length of an export: bars if `stream` (stderr) is a terminal, lines if not.

    A stage that an exception ends is not reported as finished.
    """
    stream = sys.stderr if stream is None else stream
    if quiet:
        yield Silent()
    elif stream.isatty():
        bars = Bars(stream)
        try:
            yield bars
            bars.finish()
        finally:
            bars.close()
    else:
        lines = Lines(stream)
        yield lines
        lines.finish()
