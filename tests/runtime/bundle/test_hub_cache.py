"""The links of a Hugging Face cache may leave a bundle's folder; no others may."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

import pumice
from pumice.bundle.folder import open_bundle
from pumice.bundle.hub_cache import is_cached_file
from pumice.errors import BundleError
from tests.hub_stand_in import files_of

XET = "ab" + "0" * 62


def link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(os.path.relpath(target, place.parent))


def cached(bundle: Path, cache: Path, *, shared: bool, under: str = "") -> Path:
    """A snapshot as the client lays it out; with a store that repositories share, as it does since version 2."""
    repository = cache / "models--org--name"
    snapshot = repository / "snapshots" / ("0123456789" * 4)
    for name, data in files_of(bundle).items():
        blob = repository / "blobs" / sha256(data).hexdigest()
        if shared:
            store = cache / "blobs" / blob.name[:2] / blob.name
            store.parent.mkdir(parents=True, exist_ok=True)
            store.write_bytes(data)
            link(blob, store)
        else:
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(data)
        link(snapshot / under / name, blob)
    return snapshot / under


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("under", ["", "int4"])
def test_both_layouts_load(shared: bool, under: str, pebble_bundle: Path, tmp_path: Path) -> None:
    snapshot = cached(pebble_bundle, tmp_path, shared=shared, under=under)
    assert pumice.load(snapshot, device="cpu").generate("Hi", max_new_tokens=1).token_ids


def outside(file: Path, cache: Path) -> None:
    (cache / "outside").write_bytes(b"{}")
    link(file, cache / "outside")


def blob_elsewhere(file: Path, cache: Path) -> None:
    (cache / "outside").write_bytes(b"{}")
    link(file.resolve(), cache / "outside")


def of_another_repository(file: Path, cache: Path) -> None:
    other = cache / "models--org--other" / "blobs" / ("a" * 64)
    other.parent.mkdir(parents=True)
    other.write_bytes(b"{}")
    link(file, other)


def straight_to_the_store(file: Path, cache: Path) -> None:
    store = cache / "blobs" / "ab" / XET
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(b"{}")
    link(file, store)


def store_in_another_drawer(file: Path, cache: Path) -> None:
    store = cache / "blobs" / "cd" / XET
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(b"{}")
    link(file.resolve(), store)


def store_that_links_on(file: Path, cache: Path) -> None:
    (cache / "outside").write_bytes(b"{}")
    link(cache / "blobs" / "ab" / XET, cache / "outside")
    link(file.resolve(), cache / "blobs" / "ab" / XET)


def store_elsewhere(file: Path, cache: Path) -> None:
    real = cache.parent / "real" / "ab"
    real.mkdir(parents=True)
    (real / XET).write_bytes(b"{}")
    (cache / "blobs").symlink_to(real.parent)
    link(file.resolve(), cache / "blobs" / "ab" / XET)


def odd_name(file: Path, cache: Path) -> None:
    odd = cache / "models--org--name" / "blobs" / "id_rsa"
    odd.write_bytes(b"{}")
    link(file, odd)


def within_blobs(file: Path, cache: Path) -> None:
    deep = cache / "models--org--name" / "blobs" / "deep" / ("a" * 64)
    deep.parent.mkdir()
    deep.write_bytes(b"{}")
    link(file, deep)


@pytest.mark.parametrize(
    "spoil",
    [
        outside,
        blob_elsewhere,
        of_another_repository,
        straight_to_the_store,
        store_in_another_drawer,
        store_that_links_on,
        store_elsewhere,
        odd_name,
        within_blobs,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_other_links_are_refused(
    spoil: Callable[[Path, Path], None], pebble_bundle: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    snapshot = cached(pebble_bundle, cache, shared=False)
    file = snapshot / "generation_config.json"
    assert is_cached_file(file, snapshot)
    spoil(file, cache)
    assert file.read_bytes() == b"{}"
    assert not is_cached_file(file, snapshot)
    with pytest.raises(BundleError, match="is a link that leaves the bundle"):
        open_bundle(snapshot)


def test_outside_of_a_cache_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / ("a" * 40)).write_bytes(b"")
    link(tmp_path / "bundle" / "x", tmp_path / "blobs" / ("a" * 40))
    assert not is_cached_file(tmp_path / "bundle" / "x", tmp_path / "bundle")
