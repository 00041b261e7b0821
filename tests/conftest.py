"""Fixtures that several folders of tests share. Bundles are exported once a session; tests must not change them.

`--bundles FOLDER` is for environments without the export extra: bundles are taken from there, and what needs the extra
is left out by name (tests/without_export.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.without_export"]

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # machines that do other things meanwhile are slow at times
settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copies that the user's own `pumice optimize` has made are not for tests: they change what is in memory.

    Structures of graphs are kept for the length of the session, by all its processes together: families' small graphs
    are then traced once. Tests of tracing call the tracers, or export without the cache.
    """
    folder = tmp_path_factory.mktemp("cache")
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "graphs"
    shared.mkdir(mode=0o700, exist_ok=True)
    (folder / "graphs").symlink_to(shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUMICE_CACHE_DIR", str(folder))
        yield


@pytest.fixture(scope="session")
def pebble_checkpoint() -> Path:
    """The bundled tiny LLaVA, in Hugging Face layout."""
    folder = Path(__file__).parent.parent / "pebble" / "checkpoint"
    assert (folder / "model.safetensors").is_file(), f"{folder} is missing: it is part of the repository"
    return folder


@pytest.fixture(scope="session")
def pebble_bundle(
    pebble_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Path:
    """pebble in float32."""
    return _bundle(pebble_checkpoint, tmp_path_factory, pytestconfig, "fp32")


@pytest.fixture(scope="session")
def pebble_bundle_int4(
    pebble_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Path:
    """pebble with 4-bit weights."""
    return _bundle(pebble_checkpoint, tmp_path_factory, pytestconfig, "int4")


@pytest.fixture(scope="session")
def pebble_bundle_cuda(pebble_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pebble in float16 as for CUDA."""
    from pumice.export.pipeline import export_bundle

    bundle = tmp_path_factory.mktemp("bundles") / "pebble-cuda-fp16"
    export_bundle(pebble_checkpoint, bundle, recipe="cuda-fp16")
    return bundle


@pytest.fixture(scope="session")
def pebble_bundle_int8_cache(pebble_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pebble in float32, but for keys and values in 8 bits."""
    from pumice.export.pipeline import export_bundle

    bundle = tmp_path_factory.mktemp("bundles") / "pebble-int8-cache"
    export_bundle(pebble_checkpoint, bundle, kv_cache="int8")
    return bundle


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Of a family of `tests.factory.FAMILIES`: the folder that has its `checkpoint`, and its `bundle` in float32."""
    from pumice.export.pipeline import export_bundle
    from tests.factory import FAMILIES

    @cache
    def folder_of(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        export_bundle(FAMILIES[family](folder / "checkpoint"), folder / "bundle", precision="fp32")
        return folder

    return folder_of


def _bundle(checkpoint: Path, folders: pytest.TempPathFactory, config: pytest.Config, precision: str) -> Path:
    """The given one, or exported here."""
    from tests.without_export import bundles_folder  # a plugin: pytest has to import it first

    given = bundles_folder(config)
    if given is None:
        return _export(checkpoint, folders, precision)
    bundle = given / f"pebble-{precision}"
    assert (bundle / "manifest.json").is_file(), f"{given} has no bundle {bundle.name}"
    return bundle


def _export(checkpoint: Path, folders: pytest.TempPathFactory, precision: str) -> Path:
    from pumice.export.pipeline import export_bundle  # imports torch: only for the tests that need it

    bundle = folders.mktemp("bundles") / f"pebble-{precision}"
    export_bundle(checkpoint, bundle, precision=precision)  # type: ignore[arg-type]
    return bundle
