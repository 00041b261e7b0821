"""A bundle, loaded: the object that people and tools talk to.

Enters: prompts and images. Leaves: text, streams of text, logits, prepared inputs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from pumice.bundle.folder import Bundle
from pumice.bundle.plan import fitting_slots
from pumice.chat import Chat
from pumice.errors import PumiceError, UsageError
from pumice.generation.options import GenerationArguments, GenerationOptions
from pumice.images.files import ImageInput
from pumice.images.prepared import ImageFeatures
from pumice.images.videos import Video, VideoInput, media_list, video_list
from pumice.machine.heap import trim
from pumice.manifest import Manifest
from pumice.pipeline import Pipeline
from pumice.prompt.builder import Prompt
from pumice.prompt.prepared import Prepared
from pumice.result import Generation
from pumice.scheduler.request import Request
from pumice.scheduler.scheduler import Scheduler
from pumice.sessions.runs import Cancellation
from pumice.stream import TextStream
from pumice.vision.features import PromptFeatures, encode_together

Messages: TypeAlias = "Sequence[Mapping[str, Any]]"
Image: TypeAlias = "ImageInput | ImageFeatures"
Images: TypeAlias = "Sequence[Image] | Image | None"
Videos: TypeAlias = "Sequence[VideoInput | ImageFeatures] | VideoInput | ImageFeatures | None"

BATCH = 8
"""Prompts of a list that are answered at once."""


class Model:
    """A loaded bundle. Made by `pumice.load`; may be used from several threads."""

    def __init__(self, bundle: Bundle, pipeline: Pipeline) -> None:
        self._bundle = bundle
        self._pipeline: Pipeline | None = pipeline

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        """Sessions, threads and caches are of one process."""
        raise UsageError(
            "a model cannot be pickled or copied: load the bundle in the process that is to use it, "
            f"by pumice.load({str(self.path)!r})"
        )

    def close(self) -> None:
        """Give the memory of weights and caches back, and end the process that renders; may be called again.

        Engines, chats and streams that were made of the model need all of that: it goes with the last of them that is
        closed, or let go.
        """
        closed, self._pipeline = self._pipeline, None
        if closed is not None:
            closed.encoder.settle()  # a thread may be opening it
        del closed
        trim()

    def wait(self) -> None:
        """Return when the whole model is there: of one that was just loaded the vision encoder may still be opened.

        Nobody has to: the first image waits for it.

        Raises:
            BundleError: ONNX Runtime refuses the vision encoder.
        """
        self.pipeline.encoder.wait()

    @property
    def pipeline(self) -> Pipeline:
        """What answers.

        Raises:
            UsageError: the model is closed.
        """
        if self._pipeline is None:
            raise UsageError(f"the model is closed: load it again, by pumice.load({str(self.path)!r})")
        return self._pipeline

    @property
    def path(self) -> Path:
        """The bundle's folder."""
        return self._bundle.folder

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._bundle.manifest

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return self.pipeline.decoder.sessions.device

    @property
    def threads(self) -> int:
        """Threads that each graph computes with."""
        return self.pipeline.decoder.sessions.threads

    @property
    def context_length(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.pipeline.context_length

    def options(self, **options: Unpack[GenerationArguments]) -> GenerationOptions:
        """All options as `generate` would have them, with the defaults of the checkpoint and of transformers.

        Raises:
            UsageError: an option that does not exist, or lies outside its interval.
        """
        return self.pipeline.options(options)

    @overload
    def generate(
        self,
        prompt: str | Messages,
        images: Images = None,
        *,
        videos: Videos = None,
        raw: bool = False,
        **options: Any,
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: list[str] | list[Messages],
        images: Sequence[Images] | None = None,
        *,
        videos: Sequence[Videos] | None = None,
        raw: bool = False,
        **options: Unpack[GenerationArguments],
    ) -> list[Generation]: ...

    def generate(
        self, prompt: Any, images: Any = None, *, videos: Any = None, raw: bool = False, **options: Any
    ) -> Generation | list[Generation]:
        """Answer a prompt, or several together.

        Args:
            prompt: a question; messages `[{"role", "content"}]`; or a list of questions or of message lists.
            images: the images, in the order of their places in the prompt; for several prompts, a list for each.
                An image is a path, encoded bytes, a `data:` URI, a PIL image, an array, or what `encode_image` gave
                (docs/images.md). Messages may hold images themselves.
            videos: the videos likewise, of a model that takes them: each a list of images, an array
                [frames, height, width, 3], a file, or a `pumice.Video` with a number of frames (docs/video.md).
            raw: take the prompt as it stands, special tokens and `<image>` places included.
            **options: transformers' names and meanings, with the checkpoint's defaults (docs/generation.md):
                `max_new_tokens`, `do_sample`, `temperature`, `num_beams`, `stop_strings`, `json_schema`, `seed`, ….

        Returns:
            A `Generation`; for a list of prompts, a list of them in the same order. With `num_return_sequences` above 1
            a list in either case, the answers to a prompt side by side and the best first.

        Raises:
            PromptError: the prompt cannot be rendered, or has another number of places than there are images.
            ContextLengthError: the prompt leaves no room for an answer.
            ImageError: an image cannot be read.
            UsageError: an option that does not exist, or lies outside its interval.
            GenerationError: the model gave logits that are not finite, or the options leave no token to choose.
        """
        if not _is_list_of_prompts(prompt):
            stream = self.stream(prompt, images, videos=videos, raw=raw, **options)
            for _ in stream:
                pass
            return stream.results if len(stream.results) > 1 else stream.result
        started, chosen = time.perf_counter(), self.pipeline.options(options)
        requests = []
        stills = _images_of_each(images, len(prompt), "images")
        for p, own, clips in zip(prompt, stills, _images_of_each(videos, len(prompt), "videos"), strict=True):
            try:
                media = media_list(own, clips)
                requests.append(self.pipeline.request(p, media, chosen, started=started, raw=raw))
            except PumiceError as error:
                raise type(error)(f"prompt {len(requests)}: {error}") from error
        return self._answers(requests)

    def stream(
        self,
        prompt: Prompt,
        images: Images = None,
        *,
        videos: Videos = None,
        raw: bool = False,
        **options: Unpack[GenerationArguments],
    ) -> TextStream:
        """Answer a prompt piece by piece: an iterator of text, whose `result` is the `Generation` in the end.

        The prompt and its images are checked here; computing begins with the first piece. Arguments and errors are
        those of `generate`.
        """
        started, chosen = time.perf_counter(), self.pipeline.options(options)
        media = media_list(images, videos)
        request = self.pipeline.request(prompt, media, chosen, started=started, raw=raw)
        return TextStream(self._scheduler([request]), request)

    def chat(self, *, system: str | None = None, **options: Unpack[GenerationArguments]) -> Chat:
        """A conversation, which remembers its turns and prefills no turn twice; `options` are those of every turn."""
        return Chat(self.pipeline, system=system, options=dict(options))

    def encode_image(self, image: ImageInput) -> ImageFeatures:
        """An image's features, which `images=[…]` takes in its place: to be computed ahead, or kept.

        Raises:
            ImageError: it cannot be read.
            GenerationError: its features are not finite, or a failure in ONNX Runtime.
        """
        (prepared,) = self.pipeline.builder.images([image])
        return self.pipeline.encoder.encode([prepared], Cancellation())[0]

    def encode_video(self, video: VideoInput) -> ImageFeatures:
        """A video's features, which `videos=[…]` takes in its place. Raises as `encode_image`."""
        given = video_list(video)
        if len(given) != 1 or not isinstance(given[0], Video):
            raise UsageError(f"{len(given)} videos were given, expected one")
        (prepared,) = self.pipeline.builder.images(given)
        return self.pipeline.encoder.encode([prepared], Cancellation())[0]

    def prepare(
        self,
        prompt: Prompt,
        images: Images = None,
        *,
        videos: Videos = None,
        raw: bool = False,
        continue_final_message: bool = False,
        add_generation_prompt: bool | None = None,
    ) -> Prepared:
        """What the graphs take: `input_ids` int64 [1, T] and `pixel_values` float32 [N, 3, H, W], without generating.

        Where images vary in size, `pixel_values` are padded with zeros below and to the right, and `image_sizes`
        int64 [N, 2] has each image's (height, width); `pixel_arrays` has them without padding. `video_arrays` has the
        videos' frames.

        `continue_final_message` and `add_generation_prompt` are the options of `generate`.
        Raises as `generate`; a prompt may fill the whole context.
        """
        return self.pipeline.builder.prepare(
            prompt,
            media_list(images, videos),
            raw=raw,
            continue_final_message=continue_final_message,
            add_generation_prompt=add_generation_prompt,
        )

    def logits(
        self, prompt: Prompt, images: Images = None, *, videos: Videos = None, raw: bool = False
    ) -> NDArray[np.float32]:
        """Logits after each token of the prompt, float32 [T, V]. Raises as `prepare`, and `GenerationError`."""
        prepared = self.prepare(prompt, images, videos=videos, raw=raw)
        features = PromptFeatures(prepared.images, self.pipeline.encoder)
        return self.pipeline.decoder.all_logits(
            prepared.input_ids[0].tolist(), features.rows(0, Cancellation())
        )

    def _scheduler(self, requests: Sequence[Request]) -> Scheduler:
        """A scheduler with room for each of the requests, and for `BATCH` sequences at once if memory allows."""
        rows, capacity = (
            [request.strategy.rows for request in requests],
            max(request.capacity for request in requests),
        )
        slots = max(rows)
        if len(requests) > 1:
            shape = self.manifest.decoder
            slots = max(slots, fitting_slots(shape, capacity, self.device, most=min(BATCH, sum(rows))))
        return self.pipeline.scheduler(self.pipeline.decoder.new_cache(capacity, slots))

    def _answers(self, requests: list[Request]) -> list[Generation]:
        """The answers of all requests; the first failure is raised, and ends the others."""
        scheduler = self._scheduler(requests)
        encode_together([request.features for request in requests], Cancellation())
        for request in requests:
            scheduler.add(request)
        while scheduler.step():
            failed = next((request for request in requests if request.error is not None), None)
            if failed is not None:
                break
        return [answer for request in requests for answer in request.results()]


def _is_list_of_prompts(prompt: object) -> bool:
    """A list of questions, or of message lists; messages themselves are a list of dicts."""
    return isinstance(prompt, (list, tuple)) and bool(prompt) and isinstance(prompt[0], (str, list, tuple))


def _images_of_each(images: Any, prompts: int, what: str) -> list[Any]:
    """The images, or videos, of each of several prompts."""
    if images is None:
        return [None] * prompts
    grouped = isinstance(images, (list, tuple)) and all(
        i is None or isinstance(i, (list, tuple)) for i in images
    )
    request = f"{prompts} {'prompt was' if prompts == 1 else 'prompts were'} given, expected {what} to be"
    lists = f"{prompts} {'list' if prompts == 1 else 'lists'} of {what}, one for each prompt"
    if not grouped:
        raise UsageError(f"{request} {lists}, got {_described(images)}")
    if len(images) != prompts:
        raise UsageError(f"{request} {lists}, got {len(images)}")
    return list(images)


def _described(images: Any) -> str:
    """What was given in place of lists of images."""
    if isinstance(images, (list, tuple)):
        kind = next(type(i).__name__ for i in images if not isinstance(i, (list, tuple)) and i is not None)
        return f"{len(images)} with {kind} among them"
    return type(images).__name__
