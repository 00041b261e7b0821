from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import process


def ran(code: str, tmp_path: Path, timeout_s: float = 300) -> process.Outcome:
    return process.run([sys.executable, "-c", code], log=tmp_path / "log", timeout_s=timeout_s)


def test_the_last_line_counts(tmp_path: Path) -> None:
    assert ran("print('words'); print('{\"a\": 1}')", tmp_path) == process.Outcome(line={"a": 1})


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("import sys; print('why', file=sys.stderr); sys.exit(3)", "failed with exit code 3: why"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "killed, as the system does where memory ends",
        ),
        ("print('no line')", "its last line is no JSON: no line"),
        ("pass", "its last line is no JSON: it printed nothing"),
        ("print('[1]')", "its last line is no JSON object: [1]"),
    ],
)
def test_failures_have_a_reason(tmp_path: Path, code: str, failure: str) -> None:
    outcome = ran(code, tmp_path)
    assert outcome.line is None
    assert outcome.failure is not None
    assert outcome.failure.startswith(failure)


def test_what_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "child"
    child = f"import time; time.sleep(3); open({str(mark)!r}, 'w')"
    code = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    assert ran(code, tmp_path, timeout_s=1).failure == "not done after 1 s"
    ran("import time; time.sleep(2.5); print({})", tmp_path)
    assert not mark.exists()
