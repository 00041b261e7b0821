"""docs/manifests: a bundle's manifest for each family, as an example for readers. `python -m tests.manifest_examples`
writes them anew; tests/export/test_families.py compares them with what is exported."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from pumice.manifest import Manifest, encode_manifest

FOLDER = Path(__file__).parents[1] / "docs" / "manifests"
NAMES = (
    "llava-1.5",
    "bakllava",
    "llava-interleave",
    "llava-llama-3-llama3",
    "llava-next",
    "llava-onevision",
    "llava-next-video",
    "vip-llava",
    "pixtral",
    "mistral-small",
)


def example(family: str, manifest: Manifest) -> Manifest:
    """Without what differs from machine to machine: versions, and files' hashes."""
    unhashed = {name: replace(entry, sha256="0" * 64) for name, entry in manifest.files.items()}
    source = replace(manifest.source, checkpoint=f"random/{family}", config_sha256="0" * 64)
    return replace(manifest, created_with={"pumice": "0.1.0"}, files=unhashed, source=source)


def write() -> None:
    """Export every family's fixture in float32."""
    from pumice.export.pipeline import export_bundle
    from tests.factory import FAMILIES

    for family in NAMES:
        with tempfile.TemporaryDirectory() as temporary:
            checkpoint = FAMILIES[family](Path(temporary) / "checkpoint")
            manifest = export_bundle(checkpoint, Path(temporary) / "bundle", precision="fp32")
        (FOLDER / f"{family}.json").write_bytes(encode_manifest(example(family, manifest)))


if __name__ == "__main__":
    write()
