"""Environments of the clients, made by `make clients`, and bundles for them, exported once and kept in build/clients.

Without `PUMICE_CLIENTS`, a folder, nothing here is collected: the environments take some hundred megabytes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("PUMICE_CLIENTS", "nowhere"))

collect_ignore_glob = [] if "PUMICE_CLIENTS" in os.environ else ["test_*.py"]

PATIENCE = 1200
"""Seconds after which a client hangs."""
BUNDLES = {
    "pebble-fp32": ("pebble", "portable-fp32"),
    "pebble-int4": ("pebble", "cpu-int4"),
    "interleave-fp32": ("llava-interleave", "portable-fp32"),
    "interleave-int4": ("llava-interleave", "cpu-int4"),
    "llava15-fp32": ("llava-1.5", "portable-fp32"),
    "pebble-web-int4": ("pebble", "web-int4"),
    "interleave-web-int4": ("llava-interleave", "web-int4"),
    "pixtral-fp32": ("pixtral", "portable-fp32"),
    "ministral-3-int4": ("ministral-3", "cpu-int4"),
    "gemma2-web-int4": ("text gemma2", "web-int4"),
    "llava-next-int4": ("llava-next", "cpu-int4"),
    "onevision-fp32": ("llava-onevision", "portable-fp32"),
}
"""By name: the checkpoint and the recipe. It is pebble, or a family or a text model of the tests' own, with random
weights."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A bundle, and what pumice answers."""

    bundle: Path
    folder: Path
    cases: list[dict[str, Any]]


class Clients:
    """Runs programs in the environments."""

    def __init__(self, folder: Path) -> None:
        self.node_root, self.python = folder / "node", folder / "genai" / "bin" / "python"
        for name in ("examples", "clients"):  # node looks for packages above a program's own file
            shutil.rmtree(self.node_root / name, ignore_errors=True)
        shutil.copytree(ROOT / "examples", self.node_root / "examples")
        shutil.copytree(ROOT / "tests" / "clients", self.node_root / "clients")

    def node(self, program: str, *arguments: object) -> str:
        """What a program under the node environment prints."""
        return self._run("node", self.node_root / program, *arguments)

    def genai(self, program: Path, *arguments: object) -> str:
        """What a program prints in the environment of onnxruntime-genai."""
        return self._run(self.python, "-I", program, *arguments)

    @staticmethod
    def _run(*command: object) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="session")
def clients() -> Clients:
    return Clients(FOLDER.resolve())


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> AskedBundles:
    return AskedBundles(tmp_path_factory.mktemp("asked"))


class AskedBundles:
    """Each bundle with pumice's answers, made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: dict[str, Asked] = {}

    def __getitem__(self, name: str) -> Asked:
        from pumice.export.pipeline import export_bundle
        from tests.clients.reference import write_cases

        if name not in self._made:
            source, recipe = BUNDLES[name]
            checkpoint = _made_checkpoint(source, self._root / f"{name}-checkpoint")
            bundle, folder = self._root / name, self._root / f"{name}-cases"
            export_bundle(checkpoint, bundle, recipe=recipe)
            self._made[name] = Asked(bundle=bundle, folder=folder, cases=write_cases(bundle, folder))
        return self._made[name]


def _made_checkpoint(source: str, folder: Path) -> Path:
    from tests.factory import FAMILIES
    from tests.factory.texts import make_text_checkpoint

    if source == "pebble":
        return ROOT / "pebble" / "checkpoint"
    if source.startswith("text "):
        return make_text_checkpoint(folder, source.removeprefix("text "))
    return FAMILIES[source](folder)


def lines(text: str) -> list[dict[str, Any]]:
    """The lines of JSON in a client's output, which may warn in between."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
