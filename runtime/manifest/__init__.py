"""What a bundle says of itself: `manifest.json` becomes a checked, frozen `Manifest`.

Enters: a bundle's folder, or bytes. Leaves: a `Manifest`. Other rooms take its names from here.
"""

from pumice.manifest.defaults import GenerationDefaults
from pumice.manifest.file import decode_manifest, encode_manifest, load_manifest
from pumice.manifest.images import (
    Fixed,
    ImageLayout,
    ImageProcessing,
    ImageTokens,
    Rows,
    Squares,
    TileGrids,
    Tiles,
    version_for,
)
from pumice.manifest.schema import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    AppliedAdapter,
    Chat,
    DecoderShape,
    FileEntry,
    Graphs,
    GraphSpec,
    License,
    Manifest,
    Precision,
    Requires,
    Source,
    TensorSpec,
    Tokens,
)
from pumice.manifest.videos import MOST_FRAMES, Clip, VideoProcessing

__all__ = [
    "MANIFEST_NAME",
    "MOST_FRAMES",
    "SCHEMA_VERSION",
    "AppliedAdapter",
    "Chat",
    "Clip",
    "DecoderShape",
    "FileEntry",
    "Fixed",
    "GenerationDefaults",
    "GraphSpec",
    "Graphs",
    "ImageLayout",
    "ImageProcessing",
    "ImageTokens",
    "License",
    "Manifest",
    "Precision",
    "Requires",
    "Rows",
    "Source",
    "Squares",
    "TensorSpec",
    "TileGrids",
    "Tiles",
    "Tokens",
    "VideoProcessing",
    "decode_manifest",
    "encode_manifest",
    "load_manifest",
    "version_for",
]
