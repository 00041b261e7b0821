"""An answering process opens no internet socket, and writes no file that it was not told to write."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from pumice.manifest.operators import version_numbers
from tests.runtime import silent_process

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "pebble" / "heldout" / "stop-sign.png"
PHONES = version_numbers(onnxruntime.__version__) >= (1, 30)
"""Whether onnxruntime has telemetry on Linux; that of 1.23 has none."""
SIGNS_OF_CI = (
    *("CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL"),
    *("CODEBUILD_BUILD_ID", "BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER"),
)
"""Where one of these is set, onnxruntime itself sends nothing; a user's machine has none of them."""
needs_filters = pytest.mark.skipif(
    not silent_process.SUPPORTED, reason="the socket filter is Linux's, on x86-64 and 64-bit ARM"
)

ENGINE = """
import sys, pumice
with pumice.Engine(pumice.load(sys.argv[1], device="cpu")) as engine:
    print(engine.submit("Hi", max_new_tokens=2).result().text)
"""
SOCKETS = "import socket, sys; socket.socket(getattr(socket, sys.argv[1]))"
SETTING = "import os, pumice; print(os.environ['ORT_DISABLE_TELEMETRY'])"


def run(
    folder: Path, *command: str, telemetry: str | None = None
) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """The process, and the files that it left in what it takes for the user's folders."""
    home = folder / "home"
    for name in ("home", "work", "temporary"):
        (folder / name).mkdir()
    given = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    folders = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "PUMICE_CACHE_DIR")
    for key in (*folders, *SIGNS_OF_CI):
        given.pop(key, None)
    given |= {"HOME": str(home), "TMPDIR": str(folder / "temporary"), "PYTHONDONTWRITEBYTECODE": "1"}
    if telemetry is not None:
        given["ORT_DISABLE_TELEMETRY"] = telemetry
    launcher = [sys.executable, silent_process.__file__] if silent_process.SUPPORTED else []
    ran = subprocess.run(
        [*launcher, sys.executable, *command],
        env=given,
        cwd=folder / "work",
        capture_output=True,
        text=True,
        timeout=1200,
    )
    return ran, {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def ways(bundle: Path, folder: Path) -> dict[str, tuple[list[str], set[str]]]:
    """Commands that answer, and the files that each was told to write."""
    out = folder / "answers.jsonl"
    return {
        "run": (["-m", "pumice", "run", str(bundle), "-i", str(IMAGE), "What is this?"], set()),
        "info": (["-m", "pumice", "info", str(bundle)], set()),
        "batch": (
            [
                "-m",
                "pumice",
                "batch",
                str(bundle),
                str(IMAGE.parent),
                "-o",
                str(out),
                "--prompt",
                "What is this?",
                "--max-new-tokens",
                "2",
            ],
            {"answers.jsonl", "answers.jsonl.run.json"},
        ),
        "engine": (["-c", ENGINE, str(bundle)], set()),
    }


@pytest.mark.parametrize("way", ["run", "info", "batch", "engine"])
def test_answering_is_silent(pebble_bundle: Path, tmp_path: Path, way: str) -> None:
    command, told = ways(pebble_bundle, tmp_path)[way]
    ran, files = run(tmp_path, *command)
    assert ran.returncode == 0, ran.stderr
    assert files == told


@pytest.mark.export_extra
@pytest.mark.slow
def test_verifying_is_silent(
    pebble_bundle: Path, pebble_checkpoint: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = shutil.copytree(pebble_bundle, tmp_path_factory.mktemp("verified") / "bundle")
    ran, files = run(tmp_path, "-m", "pumice", "verify", str(bundle), str(pebble_checkpoint))
    assert ran.returncode == 0, ran.stderr
    assert files == set()


@pytest.mark.skipif(not PHONES, reason="this onnxruntime has no telemetry")
def test_telemetry_that_the_user_switched_on_is_seen(pebble_bundle: Path, tmp_path: Path) -> None:
    """And left on; so these tests would see it, were it not switched off."""
    command, told = ways(pebble_bundle, tmp_path)["run"]
    _, files = run(tmp_path, *command, telemetry="0")
    assert any("Microsoft" in name for name in files - told)


@needs_filters
@pytest.mark.parametrize(("family", "dies"), [("AF_INET", True), ("AF_INET6", True), ("AF_UNIX", False)])
def test_an_internet_socket_would_be_noticed(tmp_path: Path, family: str, dies: bool) -> None:
    assert hasattr(socket, family)
    ran, _ = run(tmp_path, "-c", SOCKETS, family)
    assert ran.returncode == (-signal.SIGSYS if dies else 0)


@pytest.mark.parametrize(("given", "found"), [(None, "1"), ("0", "0"), ("", "")])
def test_what_the_user_set_stays(tmp_path: Path, given: str | None, found: str) -> None:
    ran, _ = run(tmp_path, "-c", SETTING, telemetry=given)
    assert ran.stdout == f"{found}\n"
