"""The files under deploy/: what they say of flags and settings is true."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pumice.cli.parsing import parse
from pumice.serve.settings import ENVIRONMENT, Settings

DEPLOY = Path(__file__).parents[3] / "deploy"
NAMES = {f"{ENVIRONMENT}{each.name.upper()}" for each in dataclasses.fields(Settings)}


def test_the_units_command_is_understood() -> None:
    unit = (DEPLOY / "pumice.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    args = parse(command.split()[1:])
    assert (args.command, args.bundle, args.host) == ("serve", "/srv/pumice/bundle", "0.0.0.0")
    assert set(re.findall(r"PUMICE_SERVE_\w+", unit)) <= NAMES
    drain, stop = (int(re.findall(rf"{name}=(\d+)", unit)[0]) for name in ("DRAIN", "TimeoutStopSec"))
    assert stop > drain


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("there is no systemd here")
    unit = (DEPLOY / "pumice.service").read_text().replace("/opt/pumice/bin/pumice", "/bin/true")
    (tmp_path / "pumice.service").write_text(unit)
    ran = subprocess.run([verify, "verify", tmp_path / "pumice.service"], capture_output=True, text=True)
    assert "pumice.service" not in ran.stderr, ran.stderr


def test_the_containers_settings_are_settings() -> None:
    lines = (DEPLOY / "Containerfile").read_text()
    assert set(re.findall(r"PUMICE_SERVE_\w+", lines)) <= NAMES
    for source in re.findall(r"^COPY (.*) \S+$", lines, re.MULTILINE):
        assert all((DEPLOY.parent / name).exists() for name in source.split())
