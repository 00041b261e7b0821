"""A bundle, loaded: the object that people and tools talk to.

Enters: a bundle's path, then prompts and pictures. Leaves: text, streams of text, logits, prepared inputs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from pumice.answerer import Answerer
from pumice.bundle import Bundle, open_bundle
from pumice.chat import Chat
from pumice.chat_template import ChatTemplate
from pumice.decoder import Decoder
from pumice.errors import BundleError, UsageError
from pumice.images import ImageInput, image_list
from pumice.manifest import Manifest
from pumice.prompt import Prepared, Prompt, PromptBuilder
from pumice.result import Generation
from pumice.sessions import open_sessions
from pumice.stream import TextStream
from pumice.tokens import PromptTokenizer

Messages: TypeAlias = "Sequence[Mapping[str, Any]]"
Images: TypeAlias = "Sequence[ImageInput] | ImageInput | None"


def load(
    bundle: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int | None = None,
    low_memory: bool = False,
) -> Model:
    """Open a bundle, check every file of it, and make it ready to generate.

    Args:
        bundle: the folder that `pumice export` wrote.
        device: `auto` (CUDA where it is usable, else the CPU), `cpu`, or `cuda`.
        threads: threads to compute with; by default as many as the process may use CPUs.
        low_memory: leave weights in their files, which the system may drop from memory and read again, rather than
            repack them: slower. Quantised weights are then multiplied in another way, and logits differ a little.

    Raises:
        BundleError: missing, changed, or not a bundle that this pumice can run.
        DeviceError: `cuda` was asked for and cannot be used.
        UsageError: an unknown device, or a thread count outside its interval.
    """
    started = time.perf_counter()
    opened = open_bundle(bundle)
    manifest = opened.manifest
    variables = {
        name: text
        for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        if (text := getattr(manifest.tokens, name)) is not None
    }
    template = None
    if manifest.chat.template_file is not None:
        template = ChatTemplate(_text(opened, manifest.chat.template_file), variables)
        template.start()
    image = manifest.image_tokens
    pictures = [text for text in (image.token, image.break_token, image.end_token) if text is not None]
    tokenizer = PromptTokenizer(
        opened.read(manifest.chat.tokenizer_file),
        reserved=[*pictures, *variables.values()],
        template=template.source if template else "",
    )
    sessions = open_sessions(opened, device=device, threads=threads, low_memory=low_memory)
    answerer = Answerer(
        manifest=manifest,
        decoder=Decoder(sessions, manifest),
        tokenizer=tokenizer,
        builder=PromptBuilder(manifest, tokenizer, template),
        load_s=time.perf_counter() - started,
    )
    return Model(opened, answerer)


def _text(bundle: Bundle, name: str) -> str:
    try:
        return bundle.read(name).decode()
    except UnicodeDecodeError:
        raise BundleError(f"{bundle.path(name)} is not UTF-8 text: export the bundle again") from None


class Model:
    """A loaded bundle. Made by `pumice.load`; may be used from several threads."""

    def __init__(self, bundle: Bundle, answerer: Answerer) -> None:
        self._bundle, self._answerer = bundle, answerer

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
        return self._answerer.decoder.sessions.device

    @property
    def threads(self) -> int:
        """Threads that each graph computes with."""
        return self._answerer.decoder.sessions.threads

    @property
    def context_length(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.manifest.decoder.context_length

    @overload
    def generate(
        self,
        prompt: str | Messages,
        images: Images = None,
        *,
        max_new_tokens: int | None = None,
        raw: bool = False,
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: list[str] | list[Messages],
        images: Sequence[Images] | None = None,
        *,
        max_new_tokens: int | None = None,
        raw: bool = False,
    ) -> list[Generation]: ...

    def generate(
        self, prompt: Any, images: Any = None, *, max_new_tokens: int | None = None, raw: bool = False
    ) -> Generation | list[Generation]:
        """Answer a prompt, greedily.

        Args:
            prompt: a question; messages `[{"role", "content"}]`; or a list of questions or of message lists.
            images: the pictures, in the order of their places in the prompt; for several prompts, a list for each.
            max_new_tokens: at most so many tokens, 1 … context length (default: the checkpoint's, else 256). An answer
                also ends where the context does.
            raw: take the prompt as it stands, special tokens and `<image>` places included.

        Returns:
            A `Generation`; for a list of prompts, a list of them in the same order.

        Raises:
            PromptError: the prompt cannot be rendered, or has another number of places than there are pictures.
            ContextLengthError: the prompt leaves no room for an answer.
            ImageError: a picture cannot be read.
            UsageError: `max_new_tokens` outside its interval.
            GenerationError: the model gave logits that are not finite.
        """
        if _is_list_of_prompts(prompt):
            pairs = zip(prompt, _images_of_each(images, len(prompt)), strict=True)
            return [self.generate(p, i, max_new_tokens=max_new_tokens, raw=raw) for p, i in pairs]
        stream = self.stream(prompt, images, max_new_tokens=max_new_tokens, raw=raw)
        for _ in stream:
            pass
        return stream.result

    def stream(
        self, prompt: Prompt, images: Images = None, *, max_new_tokens: int | None = None, raw: bool = False
    ) -> TextStream:
        """Answer a prompt piece by piece: an iterator of text, whose `result` is the `Generation` in the end.

        The prompt and its pictures are checked here; computing begins with the first piece. Arguments and errors are
        those of `generate`.
        """
        started, answerer = time.perf_counter(), self._answerer
        limit = answerer.checked_limit(max_new_tokens)
        prepared = self.prepare(prompt, images, raw=raw)
        ids = prepared.input_ids[0].tolist()
        new = answerer.room(len(ids), limit)
        return answerer.stream(
            ids,
            lambda: answerer.decoder.encode_pictures(prepared.pictures),
            answerer.decoder.new_cache(len(ids) + new),
            max_new_tokens=new,
            started=started,
        )

    def chat(self) -> Chat:
        """A conversation, which remembers its turns and reads no turn twice."""
        return Chat(self._answerer)

    def prepare(self, prompt: Prompt, images: Images = None, *, raw: bool = False) -> Prepared:
        """What the graphs take: `input_ids` int64 [1, T] and `pixel_values` float32 [N, 3, H, W], without generating.

        Where pictures vary in size, `pixel_values` are padded with zeros below and to the right, and `image_sizes`
        int64 [N, 2] has each picture's (height, width); `pictures` has them without padding.

        Raises as `generate`; a prompt may fill the whole context.
        """
        return self._answerer.builder.prepare(prompt, image_list(images), raw=raw)

    def logits(self, prompt: Prompt, images: Images = None, *, raw: bool = False) -> NDArray[np.float32]:
        """Logits after each token of the prompt, float32 [T, V]. Raises as `prepare`, and `GenerationError`."""
        prepared = self.prepare(prompt, images, raw=raw)
        decoder = self._answerer.decoder
        return decoder.all_logits(prepared.input_ids[0].tolist(), decoder.encode_pictures(prepared.pictures))


def _is_list_of_prompts(prompt: object) -> bool:
    """A list of questions, or of message lists; messages themselves are a list of dicts."""
    return isinstance(prompt, (list, tuple)) and bool(prompt) and isinstance(prompt[0], (str, list, tuple))


def _images_of_each(images: Any, prompts: int) -> list[Images]:
    """The pictures of each of several prompts."""
    if images is None:
        return [None] * prompts
    grouped = isinstance(images, (list, tuple)) and all(
        i is None or isinstance(i, (list, tuple)) for i in images
    )
    if not grouped or len(images) != prompts:
        raise UsageError(
            f"{prompts} prompts were given, so images must be {prompts} lists of pictures, one for each prompt"
        )
    return list(images)
