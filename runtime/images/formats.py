"""What a file is that is not one of the formats which are read, by its first bytes: so that the refusal names it.

Enters: the beginning of a file. Leaves: a name for people, or None.
"""

from __future__ import annotations

import re

LOOKED_AT = 512
"""Bytes from the beginning that tell a format."""

_MAGIC = (
    ("a BMP", rb"BM.{12}[\x0c-\x7c]\0\0\0"),
    ("a TIFF", rb"II[*+]\0|MM\0[*+]"),
    ("an AVIF", rb".{4}ftyp(avif|avis|.{8}.{0,40}avif)"),
    ("a HEIC", rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)"),
    ("a video", rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI "),
    ("a JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    ("a JPEG 2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("an icon", rb"\0\0[\x01\x02]\0[^\0]\0"),
    ("a PSD", rb"8BPS"),
    ("a PNM", rb"P[1-7]\s"),
    ("a QOI", rb"qoif"),
    ("an OpenEXR", rb"\x76\x2f\x31\x01"),
    ("a DDS", rb"DDS "),
    ("a FITS", rb"SIMPLE  ="),
    (
        "an SVG",
        rb"(\xef\xbb\xbf)?\s*(<\?xml.{0,400}?)?(<!--.{0,400}?-->\s*)?(<!DOCTYPE svg.{0,300}?)?<svg[\s>]",
    ),
    ("a web page", rb"(?i:(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)[\s>])"),
    ("a PDF", rb"%PDF-"),
    ("a PostScript file", rb"%!PS"),
    ("a Git LFS pointer", rb"version https://git-lfs"),
)
_PATTERNS = tuple((name, re.compile(pattern, re.DOTALL)) for name, pattern in _MAGIC)


def other_format(head: bytes) -> str | None:
    """The format that a file begins like, with its article; None for those that are read, and unknown ones."""
    return next((name for name, pattern in _PATTERNS if pattern.match(head[:LOOKED_AT])), None)
