"""Wheels must hold what the sources hold: folders are named otherwise than packages, so lists are kept by hand."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import bounds

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "runtime": "pumice",
    "export": "pumice.export",
    "models": "pumice.models",
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


def test_wheel_puts_nothing_beside_pumice(wheel):
    """A folder `optimum/` would make programs believe that optimum is installed."""
    assert {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" not in name} == {"pumice"}


def test_optimum_finds_its_plug_in_in_a_wheel_of_its_own(tmp_path):
    place = Path(shutil.copytree(ROOT / "optimum_plugin", tmp_path / "plugin"))
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=place, check=True, capture_output=True)
    names = zipfile.ZipFile(next((place / "dist").glob("pumice_optimum-*.whl"))).namelist()
    assert [name for name in names if ".dist-info/" not in name] == [
        "optimum/commands/register/register_pumice.py"
    ]


def test_wheel_has_licence_and_command(wheel):
    names = wheel.namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    text = wheel.read(entry_points).decode()
    assert "[console_scripts]\npumice = pumice.cli:main\n" in text
    assert "[lmms_eval.models]\npumice = pumice.lmms:manifest\n" in text


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


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
BOUNDED = [
    Requirement(line)
    for line in bounds.requirements(*EXTRAS)
    if not line.startswith(("pumice[", "onnxruntime-gpu", "lmms-eval"))  # tests/lmms/requirements.txt
]


@pytest.mark.parametrize("requirement", BOUNDED, ids=str)
def test_what_is_developed_with_keeps_to_the_bounds(requirement):
    found = bounds.locked()[requirement.name.lower().replace("_", "-")]
    assert requirement.specifier.contains(found, prereleases=True)


def test_every_lower_bound_of_the_runtime_is_tested():
    """The verb's pins are the bounds, each at its lowest."""
    pinned = {Requirement(pin).name: Requirement(pin).specifier for pin in bounds.pins()}
    runtime = [Requirement(line) for line in bounds.requirements(*bounds.EXTRAS)]
    assert {r.name for r in runtime} | set(bounds.TOOLS) == set(pinned)
    for requirement in runtime:
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        assert pinned[requirement.name].contains(Version(bound.version))


def test_dependencies_page_names_the_bounds():
    page = " ".join((ROOT / "docs" / "decisions" / "dependencies.md").read_text().split())
    for pin in bounds.pins()[: -len(bounds.TOOLS)]:
        name, _, version = pin.partition("==")
        assert f"{name} {version}" in page


def commands(verb: str, place: Path) -> str:
    """What a verb would run where nothing is installed yet."""
    told = ["make", "-n", verb, f"VENV={place / 'venv'}", f"DEMO={place / 'bundle'}"]
    return subprocess.run(told, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_first_answer_waits_for_no_tools_of_development(tmp_path):
    ran = commands("run", tmp_path)
    assert '-e ".[export]"' in ran
    assert "[dev]" not in ran
    assert "pumice run" in ran
    assert '-e ".[dev]"' in commands("test", tmp_path)
