"""Small bundles with clients' files, of models that the clients treat differently; exported once, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.clients.json_files import read_object
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from pumice.manifest import Manifest, load_manifest
from pumice.models.config import LlavaConfig
from tests.factory import FAMILIES


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A bundle and what it was made of."""

    checkpoint: Path
    bundle: Path

    @property
    def manifest(self) -> Manifest:
        return load_manifest(self.bundle)

    @property
    def config(self) -> LlavaConfig:
        return read_config(open_checkpoint(self.checkpoint).config)

    def json(self, name: str) -> dict[str, Any]:
        assert (self.bundle / name).is_file()
        return read_object(self.bundle / name)


RECIPES = {"llava-interleave": "cpu-int4", "pixtral": "cuda-fp16", "vip-llava": "cuda-bf16"}
"""Families that are not stored in float32 here."""


class Bundles:
    """Each family's bundle, made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: dict[str, Exported] = {}

    def __getitem__(self, family: str) -> Exported:
        if family not in self._made:
            checkpoint = FAMILIES[family](self._root / f"{family}-checkpoint")
            bundle = self._root / family
            export_bundle(checkpoint, bundle, recipe=RECIPES.get(family))
            self._made[family] = Exported(checkpoint=checkpoint, bundle=bundle)
        return self._made[family]


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """By family."""
    return Bundles(tmp_path_factory.mktemp("clients"))
