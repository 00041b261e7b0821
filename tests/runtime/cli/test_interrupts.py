"""Ctrl-C, as a terminal sends it: to all processes of a command, at events, and wherever the command is then."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ENTRIES = {
    "module": ["-m", "pumice"],
    "script": ["-c", "import sys\nfrom pumice.cli import main\nsys.exit(main())"],
}
SLOW = {
    "waits": "wait()",
    "says something else": (
        "try:\n    wait()\nexcept KeyboardInterrupt as error:\n"
        "    raise ImportError('initialization failed') from error"
    ),
    "hides the cause": "try:\n    wait()\nexcept BaseException:\n    raise ImportError('no such thing') from None",
    "swallows": "try:\n    wait()\nexcept BaseException:\n    pass\ntime.sleep(600)",
    "has a finaliser": (
        "class Held:\n    def __del__(self):\n        wait()\nheld = Held()\ndel held\ntime.sleep(600)"
    ),
}
"""What a module makes of an interrupt while it is being imported."""
WAIT = "import os, time\ndef wait():\n    os.write(int(os.environ['EVENTS']), b'.')\n    time.sleep(600)\n"


def interrupted(
    command: list[str], *, path: Path | None = None, cwd: Path | None = None, times: int = 1
) -> tuple[int, bytes, bytes]:
    """Exit code, output and errors of a Python command that gets SIGINT when it writes to the descriptor `EVENTS`."""
    ours, theirs = os.pipe()
    paths = [str(path)] if path else []
    inherited = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *([inherited] if inherited else [])]),
        "EVENTS": str(theirs),
    }
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[theirs],
        start_new_session=True,
        env=environment,
        cwd=cwd,
    )
    os.close(theirs)
    try:
        for _ in range(times):
            assert os.read(ours, 1) == b".", process.communicate()
            os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=300)
    finally:
        process.kill()
        os.close(ours)
    return process.returncode, out, errors


def slow_module(folder: Path, name: str, body: str = SLOW["waits"]) -> Path:
    """A folder for PYTHONPATH with a module that reports its import, and goes on as `body` says."""
    (folder / f"{name}.py").write_text(WAIT + body)
    return folder


@pytest.mark.parametrize("entry", ENTRIES)
def test_before_anything_of_ours_is_imported(entry: str, tmp_path: Path) -> None:
    """The first module that the command line imports is still on its way."""
    path = slow_module(tmp_path, "argparse")
    assert interrupted([*ENTRIES[entry], "--version"], path=path) == (130, b"", b"")


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("body", SLOW)
def test_while_onnxruntime_is_imported(entry: str, body: str, pebble_bundle: Path, tmp_path: Path) -> None:
    path = slow_module(tmp_path, "onnxruntime", SLOW[body])
    assert interrupted([*ENTRIES[entry], "run", str(pebble_bundle), "Hi"], path=path) == (130, b"", b"")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("onnxruntime", ["run", "{b}", "Hi"]),
        ("onnxruntime", ["info", "{b}"]),
        ("onnxruntime", ["bench", "{b}"]),
        ("onnxruntime", ["optimize", "{b}"]),
        ("torch", ["export", "{b}", "nowhere"]),
        ("torch", ["verify", "{b}", "{b}"]),
        ("torch", ["compare", "{b}"]),
        ("shtab", ["completion", "bash"]),
        ("numpy", ["run", "--help"]),
    ],
)
def test_in_every_command(module: str, arguments: list[str], pebble_bundle: Path, tmp_path: Path) -> None:
    path = slow_module(tmp_path, module, SLOW["says something else"])
    words = [argument.format(b=pebble_bundle) for argument in arguments]
    assert interrupted(["-m", "pumice", *words], path=path, cwd=tmp_path) == (130, b"", b"")


def test_a_batch_says_how_to_go_on_and_no_more(pebble_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "Hi"}\n')
    path = slow_module(tmp_path, "onnxruntime", SLOW["swallows"])
    words = ["batch", str(pebble_bundle), "in.jsonl", "-o", "out.jsonl"]
    code, out, errors = interrupted(["-m", "pumice", *words], path=path, cwd=tmp_path)
    assert (code, out) == (130, b"")
    assert errors.startswith(b"pumice: interrupted: ")
    assert errors.count(b"\n") == 1


WORKING = """
import os, sys
from pumice.benchmark.workload import Parts
import pumice.sessions.optimize as optimize
measured, made = Parts.decode, optimize.make
def decode(self, context, new):
    while True:
        measured(self, context, new)
        os.write(int(os.environ["EVENTS"]), b".")
def make(bundle):
    while True:
        made(bundle)
        os.write(int(os.environ["EVENTS"]), b".")
Parts.decode, optimize.make = decode, make
from pumice.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("command", ["bench", "optimize"])
def test_while_it_computes(
    command: str, pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PUMICE_CACHE_DIR", str(tmp_path))
    code, out, errors = interrupted(["-c", WORKING, command, str(pebble_bundle), "-q"])
    assert (code, out, errors) == (130, b"", b"")


CLEANING = """
import os, sys, time
from pumice.cli import failures
def clean():
    try:
        os.write(int(os.environ["EVENTS"]), b".")
        time.sleep(600)
    finally:
        time.sleep(1)  # longer than it takes until an interrupt that was swallowed is repeated
        print("all is put back")
sys.exit(failures.guarded(clean))
"""


def test_what_handles_an_interrupt_is_left_in_peace() -> None:
    assert interrupted(["-c", CLEANING]) == (130, b"all is put back\n", b"")


def test_a_command_in_the_background_stays_deaf() -> None:
    """Shells start those with SIGINT ignored."""
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from pumice.cli import failures\n"
        "def heard():\n    signal.raise_signal(signal.SIGINT); return 7\n"
        "raise SystemExit(failures.guarded(heard))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 7


def test_the_handler_is_given_back() -> None:
    from pumice.cli import main

    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    assert main(["info", "missing"]) == 1
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == (before, hook)


TRACED = """
import os, sys, time
import torch
from pumice.models import text_block
def forward(self, x):
    os.write(int(os.environ["EVENTS"]), b".")
    time.sleep(600)
text_block.MLP.forward = forward
from pumice.cli import main
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.export_extra
def test_while_torch_traces(pebble_checkpoint: Path, tmp_path: Path) -> None:
    """On a terminal, which is left as it was."""
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    ours, theirs = os.pipe()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            TRACED,
            "export",
            str(pebble_checkpoint),
            str(tmp_path / "bundle"),
            "--no-graph-cache",
        ],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        pass_fds=[theirs],
        start_new_session=True,
        env={**os.environ, "EVENTS": str(theirs)},
    )
    os.close(theirs)
    try:
        assert os.read(ours, 1) == b"."
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=600) == 130
    finally:
        process.kill()
        os.close(ours)
    assert termios.tcgetattr(slave) == before
    os.set_blocking(master, False)
    shown = os.read(master, 1 << 20).decode()
    os.close(master)
    os.close(slave)
    assert not any(word in shown for word in ("Traceback", "rror", "stack trace"))
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") > -1  # the cursor is there again
    assert list(tmp_path.iterdir()) == []
