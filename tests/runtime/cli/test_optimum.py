"""`optimum-cli export pumice`, from a built wheel, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from pumice.export.pipeline import export_bundle
from pumice.manifest import load_manifest
from tests.factory import make_checkpoint

ROOT = Path(__file__).parents[3]
SOURCES = ("runtime", "export", "models")
pytestmark = pytest.mark.slow


LAUNCHER = """
import sys
sys.path[:0] = {paths}
sys.argv[0] = "optimum-cli"
from optimum.commands.optimum_cli import main
main()
"""


@pytest.fixture(scope="module", params=["editable", "wheel"])
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`optimum-cli` of this environment; and one that sees our wheels' files and not the sources."""
    if request.param == "editable":
        if not _has("pumice-optimum"):
            pytest.skip("pumice-optimum is not installed here: make setup does it")
        script = shutil.which("optimum-cli", path=str(Path(sys.executable).parent))
        assert script is not None, "optimum is part of pumice[export]"
        return [script]
    place = tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    plugin = Path(shutil.copytree(ROOT / "optimum_plugin", place / "plugin"))
    for source in (place, plugin):
        subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
        zipfile.ZipFile(next((source / "dist").glob("*.whl"))).extractall(place / "site")
    paths = [str(place / "site"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (place / "launcher.py").write_text(LAUNCHER.format(paths=paths))
    return [sys.executable, "-S", str(place / "launcher.py")]  # -S: no .pth files, so no editable install


def _has(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def optimum_cli(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [*command, "export", "pumice", *arguments], capture_output=True, text=True, env=environment, cwd="/"
    )


def test_exports_the_bundle_that_pumice_exports(command: list[str], tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    options = ["--precision", "int4", "--block-size", "16"]
    ran = optimum_cli(command, str(checkpoint), str(tmp_path / "theirs"), *options)
    assert ran.returncode == 0, ran.stderr
    assert "int4" in ran.stdout
    ours = export_bundle(checkpoint, tmp_path / "ours", precision="int4", block_size=16)
    assert load_manifest(tmp_path / "theirs").files == ours.files
    again = optimum_cli(command, str(checkpoint), str(tmp_path / "theirs"), "-q")
    assert (again.returncode, again.stdout) == (1, "")
    assert "exists" in one_line(again.stderr)


def test_options_are_those_of_pumice(command: list[str]) -> None:
    shown = optimum_cli(command, "--help").stdout
    ours = subprocess.run(
        [sys.executable, "-m", "pumice", "export", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout
    options = ours[ours.index("positional arguments:") :]
    assert "--precision" in options
    assert shown[shown.index("positional arguments:") :] == options


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "arguments are required: checkpoint, bundle"),
        (("a", "b", "--other"), 2, "unrecognized arguments: --other"),
        (("a", "b", "--precision", "fp3"), 2, "invalid choice: 'fp3'"),
        (("a", "b", "--block-size", "32"), 2, "block size is for"),
        (("a", "b"), 1, "no checkpoint at a"),
    ],
)
def test_failures_are_one_line(
    command: list[str], tmp_path: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    ran = optimum_cli(command, *arguments)
    assert ran.returncode == code
    assert told in one_line(ran.stderr)
    assert ran.stdout == ""


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    assert text.startswith("pumice: error: ")
    return text
