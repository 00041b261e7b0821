"""Runs over a folder with a manifest, and an engine without a model."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pumice.bulk.run import Run, Summary, run_files
from tests.runtime.bulk.engine import FakeEngine

MANIFEST = Path(__file__).parents[3] / "docs" / "manifests" / "llava-1.5.json"

Lines = list[dict[str, Any]]


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read_lines(path: Path) -> Lines:
    """An output's lines without their times."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def contents(folder: Path) -> dict[str, Any]:
    """All that is in a folder: links' targets, files' identities and bytes."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = path.readlink()
        elif path.is_file():
            found[name] = (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        else:
            found[name] = path.lstat().st_mode
    return found


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    shutil.copy(MANIFEST, tmp_path / "bundle" / "manifest.json")
    return tmp_path / "bundle"


class Runner:
    """Runs with an engine that a test may exchange."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.engine: Callable[[], FakeEngine] = FakeEngine
        self.report = io.StringIO()

    def __call__(self, inputs: Path, output: Path, **settings: Any) -> Summary:
        settings = {"prompt": "?", "options": {}, "bundle": self.bundle, **settings}
        return run_files(Run(inputs=inputs, output=output, **settings), self.report)


@pytest.fixture
def run(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    runner = Runner(bundle)
    monkeypatch.setattr("pumice.bulk.run._engine", lambda run: runner.engine())
    return runner
