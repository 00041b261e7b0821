"""What files of images are called: the one list of suffixes.

Enters: the formats that `files.py` reads. Leaves: `SUFFIXES`, in small letters; folders are searched by them.
"""

from __future__ import annotations

from pumice.images.files import FORMATS

_OF_FORMAT = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
"""By Pillow's names of formats; those that are not read wait here until they are."""

SUFFIXES = tuple(suffix for name in FORMATS for suffix in _OF_FORMAT.get(name, ()))
"""Of the formats that are read."""
