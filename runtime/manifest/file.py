"""`manifest.json` on the disk, read and checked.

Enters: a bundle's folder, or bytes. Leaves: a checked `Manifest`; or the bytes of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

import msgspec

from pumice.errors import BundleError, SchemaVersionError
from pumice.manifest.defaults import GenerationDefaults as GenerationDefaults
from pumice.manifest.images import layout_of
from pumice.manifest.regular_file import named, read_regular
from pumice.manifest.schema import MANIFEST_NAME, SCHEMA_VERSION, Manifest

MOST_BYTES = 64 << 20
"""Of a manifest, which has a few lines a file and a name a quantised matrix."""


def load_manifest(bundle: Path) -> Manifest:
    """Read and check `bundle/manifest.json`.

    Raises:
        BundleError: no manifest, not JSON, or fields missing or of the wrong type, or a file name leaving the bundle.
        SchemaVersionError: written for a newer schema than `SCHEMA_VERSION`.
    """
    bundle = named(bundle)
    path = bundle / MANIFEST_NAME
    if not bundle.is_dir():
        raise BundleError(
            f"no bundle at {bundle}: expected a folder with {MANIFEST_NAME}; make one with `pumice export`"
        )
    try:
        data = read_regular(path, MOST_BYTES)
    except FileNotFoundError:
        raise BundleError(
            f"{bundle} has no {MANIFEST_NAME}: not a pumice bundle, or its export did not finish"
        ) from None
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from None
    return decode_manifest(data, str(path))


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Check the bytes of a manifest; `where` names them in messages. Raises as `load_manifest`."""
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where} is not valid JSON: {error}") from None
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{where} has schema version {version}, this pumice reads up to {SCHEMA_VERSION}: upgrade pumice"
        )
    try:
        manifest = msgspec.convert(raw, Manifest, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BundleError(f"{where} does not describe a bundle: {error}") from None
    check_names(manifest, where)
    layout_of(manifest.image, manifest.image_tokens, where)  # or no layout can be had of it later
    if manifest.videos is not None:
        manifest.clip(1, where)
    return manifest


def listed_files(data: bytes) -> Collection[str] | None:
    """The files that a manifest lists, be it of a newer schema or damaged since; None: it is no bundle's."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or not {"schema_version", "graphs", "files"} <= manifest.keys():
        return None
    files = manifest["files"]
    entries = isinstance(files, dict) and all(
        isinstance(entry, dict) and {"size", "sha256"} <= entry.keys() for entry in files.values()
    )
    return files.keys() if entries else None


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as indented UTF-8 JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def check_names(manifest: Manifest, where: str) -> None:
    """Every file that the manifest names is listed, once, by a plain relative path inside the bundle."""
    for name in manifest.files:
        parts = PurePosixPath(name).parts
        plain = (
            re.fullmatch(r"[^\\:\x00-\x1f]+", name)
            and not name.startswith("/")
            and ".." not in parts
            and parts
        )
        if not plain or str(PurePosixPath(name)) != name or name == MANIFEST_NAME:
            raise BundleError(f"{where} lists {name!r}: expected plain paths inside the bundle")
    named = [n for g in manifest.graphs.all for n in (g.file, *g.external_data)] + [
        manifest.chat.tokenizer_file
    ]
    named += [manifest.chat.template_file] if manifest.chat.template_file else []
    for name in named:
        if name not in manifest.files:
            raise BundleError(f"{where} uses {name!r} without listing its size and SHA-256 under files")
