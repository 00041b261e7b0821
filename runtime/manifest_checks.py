"""What a manifest must say beyond its types.

Enters: a decoded `Manifest`. Leaves: nothing, or a `BundleError`.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pumice.errors import BundleError
from pumice.manifest import MANIFEST_NAME, Manifest


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


def check_pictures(manifest: Manifest, where: str) -> None:
    """Pictures have one size and one number of tokens, or all that is needed to find theirs."""
    image, tokens = manifest.image, manifest.image_tokens
    rows = (
        image.resize_longest_edge,
        image.multiple_of,
        tokens.patch_size,
        tokens.break_token,
        tokens.end_token,
    )
    fixed = image.size is not None and tokens.per_image is not None and rows == (None,) * len(rows)
    varied = image.size is None and tokens.per_image is None and None not in rows
    if not fixed and not varied:
        raise BundleError(
            f"{where} does not say how many tokens a picture has: expected image.size and image_tokens.per_image, "
            "or image.resize_longest_edge, image.multiple_of and image_tokens.patch_size, .break_token and .end_token"
        )
