"""What a bundle says of itself: `manifest.json` becomes a checked, frozen `Manifest`.

Enters: a bundle's folder, or bytes. Leaves: a `Manifest`. Other rooms take its names from here.
"""

from pumice.manifest.defaults import GenerationDefaults
from pumice.manifest.file import decode_manifest, encode_manifest, load_manifest
from pumice.manifest.schema import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Chat,
    DecoderShape,
    FileEntry,
    Graphs,
    GraphSpec,
    ImageProcessing,
    ImageTokens,
    Manifest,
    Precision,
    Requires,
    Source,
    TensorSpec,
    Tokens,
    version_for,
)

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "Chat",
    "DecoderShape",
    "FileEntry",
    "GenerationDefaults",
    "GraphSpec",
    "Graphs",
    "ImageProcessing",
    "ImageTokens",
    "Manifest",
    "Precision",
    "Requires",
    "Source",
    "TensorSpec",
    "Tokens",
    "decode_manifest",
    "encode_manifest",
    "load_manifest",
    "version_for",
]
