import io
import os
import pty
import re
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from pumice.export import progress as subject
from pumice.export.progress import showing


def test_lines_tell_each_stage_once_with_its_duration():
    stream = io.StringIO()
    with showing(stream=stream) as progress:
        progress.stage("decoder: weights", total_bytes=3_000_000)
        progress.advance(1_000_000)
        progress.advance(2_000_000)
        progress.note("a note")
        progress.stage("hashing", steps=2)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "a note"
    assert re.fullmatch(r"decoder: weights  \d+\.\d s, 3\.0 MB", lines[1])
    assert re.fullmatch(r"hashing  \d+\.\d s", lines[2])
    assert len(lines) == 3
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_long_stage_gives_signs_of_life(monkeypatch):
    monkeypatch.setattr(subject, "LINE_SECONDS", 0.0)
    stream = io.StringIO()
    with showing(stream=stream) as progress:
        progress.stage("weights", total_bytes=4_000_000)
        progress.advance(1_000_000)
    assert re.match(r"weights  1\.0 / 4\.0 MB, about \d+ s left\n", stream.getvalue())


def test_an_interrupted_stage_is_not_reported_as_finished():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), showing(stream=stream) as progress:
        progress.stage("weights", steps=3)
        raise KeyboardInterrupt
    assert stream.getvalue() == ""


def test_quiet_writes_nothing(capfd):
    with showing(quiet=True) as progress:
        progress.stage("weights", steps=3)
        progress.advance()
        progress.note("unheard")
    assert capfd.readouterr() == ("", "")


def test_threads_may_advance_together():
    stream = io.StringIO()
    with showing(stream=stream) as progress:
        progress.stage("hashing", total_bytes=8_000_000)
        threads = [
            threading.Thread(target=lambda: [progress.advance(1000) for _ in range(1000)]) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "8.0 MB" in stream.getvalue()


def whole(leader):
    """All that was written to a terminal whose other end is closed; one read gives what came in one piece."""
    pieces = []
    with suppress(OSError):  # how Linux tells the end
        while piece := os.read(leader, 1 << 16):
            pieces.append(piece)
    os.close(leader)
    return b"".join(pieces).decode()


def test_a_terminal_gets_bars():
    script = (
        "from pumice.export.progress import showing\n"
        "with showing() as p:\n"
        "    p.stage('weights [of all]', total_bytes=2_000_000); p.advance(2_000_000)\n"
        "    p.note('[a] note'); p.stage('passes', steps=3); p.advance()\n"
    )
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    subprocess.run([sys.executable, "-c", script], stderr=follower, check=True, env=environment)
    os.close(follower)
    shown = whole(leader)
    assert "weights [of all]" in shown
    assert "2.0 / 2.0 MB" in shown
    assert "[a] note" in shown


def test_rich_is_imported_only_for_a_terminal():
    script = (
        "import sys\nfrom pumice.export.progress import showing\n"
        "with showing() as p:\n    p.stage('x', steps=1)\n"
        "sys.exit(int('rich' in sys.modules))\n"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], stderr=subprocess.DEVNULL, check=False).returncode == 0
    )
