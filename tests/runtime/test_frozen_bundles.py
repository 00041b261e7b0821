"""Bundles that earlier versions wrote load, and answer what those versions answered (`frozen/README.md`).

Oracle: the tokens that were recorded when they were written.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pumice
from pumice.bundle.plan import plan
from pumice.errors import SchemaVersionError
from pumice.manifest import Fixed, Rows, load_manifest

FROZEN = Path(__file__).parent / "frozen"
ANSWERS: dict[str, dict[str, list[int]]] = json.loads((FROZEN / "answers.json").read_text())
SCHEMAS = {"schema-1": 1, "schema-1-int4": 1, "schema-2": 2}


def image() -> np.ndarray:
    """24 × 40 pixels, as the answers were recorded for."""
    y, x = np.mgrid[:24, :40]
    return np.stack([x * 5 % 256, y * 7 % 256, (x + y) * 3 % 256], -1).astype(np.uint8)


def asked(kind: str) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Messages and images."""
    images = [image()] if kind == "image" else []
    content: list[dict[str, Any]] = [
        *({"type": "image"} for _ in images),
        {"type": "text", "text": "what is it?"},
    ]
    return [{"role": "user", "content": content}], images


@pytest.mark.parametrize("name", SCHEMAS)
def test_it_answers_as_it_did(name: str) -> None:
    model = pumice.load(FROZEN / name, device="cpu", threads=1)
    assert model.manifest.schema_version == SCHEMAS[name]
    for kind, expected in ANSWERS[name].items():
        assert list(model.generate(*asked(kind), max_new_tokens=len(expected)).token_ids) == expected


@pytest.mark.parametrize("name", SCHEMAS)
def test_it_can_be_planned(name: str) -> None:
    """A layout, and a plan."""
    manifest = load_manifest(FROZEN / name)
    assert isinstance(manifest.layout, Rows if SCHEMAS[name] == 2 else Fixed)
    assert plan(manifest).answering["KV cache"] > 0


def test_a_schema_of_tomorrow_is_refused(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(FROZEN / "schema-2", tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text()) | {"schema_version": 4}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SchemaVersionError, match="has schema version 4, this pumice reads up to 3: upgrade"):
        pumice.load(bundle, device="cpu")
