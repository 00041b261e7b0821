import io

import pytest

from pumice.bulk import progress
from pumice.bulk.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_figures(clock: list[float]) -> None:
    shown = Progress(io.StringIO(), total=2000, done=1000, failed=30)
    for i in range(240):
        clock[0] += 0.05
        shown.add(failed=i % 40 == 0, tokens=8)
    assert shown.line(clock[0]) == (
        "pumice: 1,240 of 2,000 [============>       ]  62% | 36 failed | 20.0 records/s | 160 tokens/s | 38 s left"
    )
    assert shown.summary() == "240 records in 12 s: 20.0 records/s, 160 tokens/s"


def test_speeds_are_recent_ones(clock: list[float]) -> None:
    shown = Progress(Terminal(), total=1000, done=0, failed=0)
    for _ in range(100):
        clock[0] += 1
        shown.add(failed=False, tokens=0)
    for _ in range(400):
        clock[0] += 0.1
        shown.add(failed=False, tokens=0)
    assert "10.0 records/s" in shown.line(clock[0])
    assert "50 s left" in shown.line(clock[0])


def test_a_terminal_has_one_line_that_fits(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_columns", lambda out: 40)
    out = Terminal()
    shown = Progress(out, total=50, done=0, failed=0)
    for _ in range(50):
        clock[0] += 0.04
        shown.add(failed=False, tokens=1)
    shown.end()
    *drawn, last = out.getvalue().split("\r\x1b[K")[1:]
    assert 10 <= len(drawn) <= 20  # not more often than people can read
    assert last == "pumice: 50 of 50 [====================]"[:39] + "\n"
    assert all(len(line) <= 39 for line in drawn)


def test_elsewhere_plain_lines_now_and_then(clock: list[float]) -> None:
    out = io.StringIO()
    shown = Progress(out, total=1000, done=0, failed=0)
    for _ in range(1000):
        clock[0] += 0.1
        shown.add(failed=False, tokens=1)
    shown.end()
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("pumice: ") and "\x1b" not in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (18600, "5 h 10 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert progress._duration(seconds) == words
