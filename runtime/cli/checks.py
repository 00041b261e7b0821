"""What can be known to be wrong before a bundle is loaded, which may take minutes.

Enters: a bundle's path, options and images as given. Leaves: nothing, or the same images opened; a typed error else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pumice.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from pumice.images.videos import Video


def check_options(
    bundle: str | Path,
    options: Mapping[str, Any],
    *,
    context_length: int | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> None:
    """Hold options against the bundle's manifest, and device and threads against this machine.

    Raises:
        BundleError: there is no bundle, or its manifest cannot be read.
        UsageError, DeviceError: as `pumice.load` and `Model.generate`.
    """
    from pumice.bundle.folder import bundle_folder
    from pumice.generation.options import resolve
    from pumice.manifest import load_manifest

    manifest = load_manifest(bundle_folder(bundle))
    whole = manifest.decoder.context_length
    if context_length is not None and not 1 <= context_length <= whole:
        raise UsageError(f"context_length is {context_length}, expected 1 to {whole:,} (the model's context)")
    chosen = resolve(options, manifest)
    if chosen.json_schema is not None or chosen.regex is not None:
        from pumice.generation.grammar import check_grammar

        check_grammar(json_schema=chosen.json_schema, regex=chosen.regex)
    check_machine(device, threads)


def check_machine(device: str, threads: int | None) -> None:
    """Whether the device can be used, and that there are as many threads as there may be.

    Raises:
        UsageError, DeviceError: as `pumice.load`.
    """
    from pumice.sessions.device import choose_device, choose_threads

    choose_threads(threads)
    choose_device(device)


def opened_images(images: Sequence[str | Path]) -> list[Image.Image]:
    """Images as they will be prepared.

    Raises:
        ImageError: one of them is missing or cannot be read.
    """
    from pumice.images.files import open_image

    return [open_image(image) for image in images]


def opened_videos(bundle: str | Path, videos: Sequence[str], frames: int | None) -> list[Video]:
    """Videos of which so many frames will be taken; their files were opened, and no frame was decoded.

    Raises:
        UsageError: the bundle takes no videos, or the number of frames cannot be.
        VideoError: one of them is missing, cannot be read, or has fewer frames.
    """
    if not videos:
        return []
    from pumice.bundle.folder import bundle_folder
    from pumice.images.videos import Video, open_video
    from pumice.manifest import load_manifest

    load_manifest(bundle_folder(bundle)).clip(1)
    given = [Video(video, num_frames=frames) for video in videos]
    for video in given:
        open_video(video)
    return given
