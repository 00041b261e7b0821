"""Wheels must hold what the sources hold: folders are named otherwise than packages, so lists are kept by hand."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "runtime": "pumice",
    "export": "pumice.export",
    "models": "pumice.models",
    "optimum_plugin": "optimum.commands.register",
}


def packages_of(folder: str, name: str) -> dict[str, str]:
    """Import names of a source folder and its sub-packages, with their paths."""
    found = {name: folder}
    for init in (ROOT / folder).rglob("__init__.py"):
        path = init.parent.relative_to(ROOT / folder)
        found[".".join((name, *path.parts))] = str(Path(folder) / path)
    return found


def every_package() -> dict[str, str]:
    return {k: v for folder, name in PACKAGES.items() for k, v in packages_of(folder, name).items()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built offline from a copy, so that nothing is written into the sources."""
    place = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    for folder in PACKAGES:
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=place, check=True, capture_output=True)
    return zipfile.ZipFile(next((place / "dist").glob("*.whl")))


def test_pyproject_lists_every_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(settings["packages"]) == set(every_package())
    assert settings["package-dir"] == {
        name: folder for folder, name in PACKAGES.items()
    }  # their rooms follow


def test_wheel_holds_the_sources(wheel):
    sources = {}
    for folder, name in PACKAGES.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                inside = Path(name.replace(".", "/")) / path.relative_to(ROOT / folder)
                sources[inside.as_posix()] = path.read_bytes()
    built = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
    assert set(built) == set(sources)
    assert built == sources
    assert "pumice/py.typed" in built


def test_wheel_has_licence_and_command(wheel):
    names = wheel.namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "pumice = pumice.cli:main" in wheel.read(entry_points).decode()


def test_runtime_dependencies_have_no_framework(wheel):
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    required = [
        line.split()[1]
        for line in wheel.read(metadata).decode().splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert {name.partition(">")[0] for name in required} == {
        "numpy",
        "tokenizers",
        "pillow",
        "minijinja",
        "msgspec",
    }
