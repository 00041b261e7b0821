"""A server of pebble that the tests of this room share; those that change its state start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pumice.loading import load
from pumice.model import Model
from tests.runtime.serve.running import Running, running


@pytest.fixture(scope="package")
def server(pebble_bundle: Path) -> Iterator[Running]:
    """Gone before another folder's tests run, some of which count an engine's threads."""
    with running(pebble_bundle, alias=("gpt-vision",)) as server:
        yield server


@pytest.fixture(scope="session")
def model(pebble_bundle: Path) -> Model:
    """The same bundle in process: what the server's answers are compared with."""
    return load(pebble_bundle, device="cpu", threads=1)


@pytest.fixture(scope="session")
def stop_sign() -> bytes:
    return (Path(__file__).parents[3] / "pebble" / "heldout" / "stop-sign.png").read_bytes()


@pytest.fixture(scope="session")
def folder(pebble_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three bundles by their names, and another folder."""
    folder = tmp_path_factory.mktemp("several")
    for name in ("alpha", "beta", "gamma"):
        (folder / name).symlink_to(pebble_bundle, target_is_directory=True)
    (folder / "notes").mkdir()
    return folder
