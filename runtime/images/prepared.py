"""Images and videos that were prepared or encoded before, and are given again.

Enters: a `Pixels` of `prepare`, or an `ImageFeatures` of `encode_image`. Leaves: the same, which nobody can write to
from now on; or an error where it is not what its digest says, for what later prompts reuse is known by that alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from pumice.errors import UsageError
from pumice.images.files import ImageInput
from pumice.images.frames import clip_pixels
from pumice.images.layout import Layout, among, arrays, cut, feature_count, is_shape, is_size, sizes_text
from pumice.images.preprocess import Opened, Pixels, Size, opened
from pumice.images.videos import OpenedVideo
from pumice.manifest import Manifest

DIGEST_BYTES = 32
"""Of SHA-256."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFeatures:
    """An image that is encoded already: `images=[…]` takes it in place of the image.

    `features` is float32 [tokens, D]; `size` is the (height, width) that the encoder saw, or the image's own where it
    was cut into tiles; `digest` (32 bytes) tells the
    image and the model apart from all others: other features under the same digest are taken for these. Of use to
    the model that made it, and to no other. May be pickled.

    Where images beside others are prepared otherwise than one that is `alone` in its prompt (LLaVA-OneVision),
    `beside` is how this one is then. Of a video `frames` is how many frames it has, and `size` that of each as the
    encoder saw it.
    """

    features: NDArray[np.float32]
    size: Size
    digest: bytes
    model: bytes
    alone: bool = True
    beside: PreparedImage | None = None
    frames: int | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As it was before pickling, which forgets that an array is not to be written to."""
        self.__dict__.update(state)
        self.features.flags.writeable = False

    @property
    def tokens(self) -> int:
        """Image tokens in a prompt."""
        return len(self.features)


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedImage:
    """An image that is prepared and not encoded.

    `values` is float32 [3, *size]; or, where images are cut into tiles, the whole and the tiles, [1 + tiles, 3, height,
    width], and `size` is the image's own, (height, width). `tokens` are the image tokens that it has in a prompt, one
    for each row of its features. `alone` and `beside` are as in `ImageFeatures`: an image that is not alone has
    `values` [1, 3, height, width]. A video has `values` [frames, 3, height, width], of which `size` is (height, width).
    """

    values: Pixels
    size: Size
    digest: bytes
    tokens: int
    alone: bool = True
    beside: PreparedImage | None = None
    frames: int | None = None

    @property
    def arrays(self) -> tuple[Pixels, ...]:
        """What enters the encoder, each float32 [3, height, width]."""
        return arrays(self.values)


PromptImage: TypeAlias = "PreparedImage | ImageFeatures"


def model_key(manifest: Manifest) -> bytes:
    """SHA-256 of what an image's features depend on: how it is prepared, and the vision encoder's files."""
    graph = manifest.graphs.vision_encoder
    hashes = [manifest.files[name].sha256 for name in (graph.file, *graph.external_data)]
    preparation = json.dumps(msgspec.to_builtins(manifest.image), sort_keys=True)
    if manifest.videos is not None:
        preparation += json.dumps(msgspec.to_builtins(manifest.videos), sort_keys=True)
    return hashlib.sha256("\n".join([preparation, *hashes]).encode()).digest()


def image_digest(values: Pixels, size: Size, model: bytes, frames: int | None = None) -> bytes:
    """SHA-256 of a prepared image: of the model's key, its shape, its values, and of its size where that is another.

    Of a video likewise, and of the number of its `frames`, which no image has.
    """
    shape = values.shape if values.shape[1:] == size else (*values.shape, *size)
    if frames is not None:
        shape = (*shape, frames)
    digest = hashlib.sha256(model + np.array(shape, np.int64).tobytes())
    digest.update(np.ascontiguousarray(values).data)
    return digest.digest()


def prepare_image(
    image: ImageInput, manifest: Manifest, model: bytes, *, alone: bool = True
) -> PreparedImage:
    """An image as the vision encoder of the model with this key takes it; raises as `cut`.

    One that is alone may be given beside others later, so that it is prepared for that as well, where it makes a
    difference.
    """
    if among(manifest.layout, alone=False) is manifest.layout:
        return _prepared(image, manifest, model, alone=True)
    if not alone:
        return _prepared(image, manifest, model, alone=False)
    found = opened(image)
    beside = _prepared(found, manifest, model, alone=False)
    return replace(_prepared(found, manifest, model, alone=True), beside=beside)


def _prepared(image: ImageInput | Opened, manifest: Manifest, model: bytes, *, alone: bool) -> PreparedImage:
    layout = among(manifest.layout, alone=alone)
    values, size = cut(layout, image, manifest.image)
    values.flags.writeable = False
    return PreparedImage(
        values=values,
        size=size,
        digest=image_digest(values, size, model),
        tokens=feature_count(layout, size),
        alone=alone,
    )


def prepare_video(video: OpenedVideo, manifest: Manifest, model: bytes) -> PreparedImage:
    """A video as the vision encoder of the model with this key takes it. Raises as `clip_pixels`, `Manifest.clip`."""
    clip, spec = manifest.clip(video.count), manifest.videos
    assert spec is not None  # or there is no clip
    values = clip_pixels(video.frames(), clip, spec)
    values.flags.writeable = False
    return PreparedImage(
        values=values,
        size=clip.size,
        digest=image_digest(values, clip.size, model, video.count),
        tokens=clip.tokens,
        frames=video.count,
    )


def layout_as_given(image: PromptImage, manifest: Manifest) -> Layout:
    """The layout of an image as it was prepared, or of a video. Raises as `Manifest.clip`."""
    return among(manifest.layout, alone=image.alone) if image.frames is None else manifest.clip(image.frames)


def given_among(image: PromptImage, manifest: Manifest, *, alone: bool) -> PromptImage:
    """A prepared image as it is in a prompt where it is alone, or beside others.

    Raises:
        UsageError: it was prepared in a prompt with others, and is alone in this one.
    """
    if image.frames is not None or among(manifest.layout, alone=False) is manifest.layout:
        return image
    if image.alone == alone:
        return image
    if alone or image.beside is None:
        raise UsageError(
            f"an image that was prepared {'beside others' if alone else 'alone'} was given "
            f"{'alone' if alone else 'beside others'}, which this model sees otherwise: give the image itself"
        )
    return image.beside


def revalidated(image: PromptImage, manifest: Manifest, model: bytes) -> PromptImage:
    """An image for the model with this key; of an array that may be written to, a copy.

    Raises:
        UsageError: of another model, altered, or not finite.
    """
    if isinstance(image, PreparedImage):
        return _pixels(image, manifest, model)
    return _features(image, manifest, model)


def _pixels(image: PreparedImage, manifest: Manifest, model: bytes) -> PreparedImage:
    values, layout = image.values, layout_as_given(image, manifest)
    if _is_array(values) and is_size(layout, image.size) and is_shape(layout, values.shape, image.size):
        frozen = _frozen(values)
        image = image if frozen is values else replace(image, values=frozen)
        tokens = feature_count(layout, image.size)
        digest = image_digest(image.values, image.size, model, image.frames)
        if image.tokens == tokens and image.digest == digest:
            return image
    raise UsageError(
        "a prepared image was changed, or prepared for another model: take it as this model's prepare gave it, "
        "or give the image itself"
    )


def _features(image: ImageFeatures, manifest: Manifest, model: bytes) -> ImageFeatures:
    """The digest is not of the features but of their image, so that all that can be checked is its form."""
    if image.model != model:
        raise UsageError("image features of another model were given: encode the image with this one")
    if not isinstance(image.digest, bytes) or len(image.digest) != DIGEST_BYTES:
        raise _not_as_made(
            f"image features have the digest {image.digest!r:.80}, expected {DIGEST_BYTES} bytes"
        )
    layout = layout_as_given(image, manifest)
    if not is_size(layout, image.size):
        expected_sizes = sizes_text(layout)
        raise _not_as_made(f"image features have the size {image.size!r:.80}, expected {expected_sizes}")
    features = image.features
    expected = (feature_count(layout, image.size), manifest.decoder.hidden_size)
    if not _is_array(features) or features.shape != expected:
        raise _not_as_made(f"image features are {_told(features)}, expected float32 {list(expected)}")
    frozen = _frozen(features)
    if not np.isfinite(frozen).all():
        raise _not_as_made("image features are not finite")
    return image if frozen is features else replace(image, features=frozen)


def _not_as_made(what: str) -> UsageError:
    return UsageError(f"{what}: take them as encode_image gave them")


def _is_array(values: object) -> bool:
    return isinstance(values, np.ndarray) and values.dtype == np.float32


def _told(values: Any) -> str:
    return f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__


def _frozen(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values, or a copy of them, which nobody can write to."""
    if values.flags.writeable:
        values = values.copy()
        values.flags.writeable = False
    return values
