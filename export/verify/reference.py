"""What transformers computes for a prompt and our answer to it, in float32: the oracle of `pumice verify`.

Enters: a checkpoint, a `Probe`, and the answer that a bundle gave. Leaves: what the processor makes of the probe, and
the results between the graphs, of one pass over prompt and answer together:

    pixel_values ─tower, projector─▶ features [M, D] ─┐
    input_ids ──────────────────────embedding─────────┴▶ embeds [T, D] ─decoder─▶ hidden [T, D] ─head─▶ logits [T, V]

Greedy answers are equal just where at each position the best token after prompt and answer so far is the next one of
the answer. So nothing is generated here; and logits, which are large, are made a few positions at a time. Greedy means
the best logit: what `generation_config.json` may change about it (`repetition_penalty`, …) is left out on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pumice.errors import CheckpointError
from pumice.export.checkpoint.folder import Checkpoint
from pumice.export.config.llava import read_config
from pumice.export.processor.load import load_processor
from pumice.export.processor.videos import checked_videos
from pumice.export.verify.parity import Floats
from pumice.export.verify.probes import Probe
from pumice.export.verify.streamed_model import KEPT_BYTES, build_without_weights, stream_weights
from pumice.export.verify.tensors import HEAD, FloatTensors
from pumice.export.verify.torch_videos import TorchVideos

LOGIT_VALUES = 1 << 24
"""Logits in memory at a time: 64 MiB."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the processor makes of a probe.

    `input_ids` int64 [1, T]; `pixel_values` float32 [N, 3, H, W], with tiles [N, 1 + tiles, 3, H, W], or None;
    `image_sizes` int64 [N, 2], (height, width) of each image where they vary, else None. `tiles` is how many arrays
    each image has, the whole among them, where images are cut into tiles. `batch_num_images`, int64 [1], is how many
    images the prompt has, where one that is beside others is not cut. `videos` are float32 [frames, 3, H, W] each.
    """

    input_ids: NDArray[np.int64]
    pixel_values: Floats | None
    image_sizes: NDArray[np.int64] | None
    tiles: tuple[int, ...] | None = None
    batch_num_images: NDArray[np.int64] | None = None
    videos: tuple[Floats, ...] = ()

    @property
    def images(self) -> list[Floats]:
        """Each image without padding, float32 [3, height, width], with tiles [1 + tiles, 3, height, width]."""
        if self.pixel_values is None:
            return []
        if self.tiles is not None:
            return [image[:count] for image, count in zip(self.pixel_values, self.tiles, strict=True)]
        if self.image_sizes is None:
            return list(self.pixel_values)
        pairs = zip(self.pixel_values, self.image_sizes.tolist(), strict=True)
        return [image[:, :height, :width] for image, (height, width) in pairs]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """transformers' results: `features` [M, D], `embeds` [1, T, D], and `hidden` [T, D], before the head.

    Features are those of images and videos as they stand in the prompt.

    Features and embeds are times a Granite's `embedding_multiplier`, as they are in a bundle.
    """

    features: Floats
    embeds: Floats
    hidden: torch.Tensor


class Reference:
    """transformers' processor and model of a checkpoint.

    `pinpoints` are those that a bundle keeps of a LLaVA-NeXT's, in place of all: both do with them alone. `videos`: it
    is asked about videos too, for which its processor gets what stands for torchvision.

    Raises:
        CheckpointError: transformers cannot load the checkpoint.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        pinpoints: Sequence[tuple[int, int]] = (),
        videos: bool = False,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        config = read_config(checkpoint.config)
        self.processor = load_processor(checkpoint.path, config)
        if videos:
            self.processor.video_processor = TorchVideos(
                checked_videos(self.processor, checkpoint.path, config)
            )
        self.model = build_without_weights(checkpoint.path)
        tensors = FloatTensors(checkpoint, tied=bool(self.model.config.tie_word_embeddings))
        stream_weights(self.model, tensors, kept_bytes=kept_bytes)
        self._keep_pinpoints(pinpoints)
        text = self.model.config.get_text_config()
        self._embedding_multiplier = float(getattr(text, "embedding_multiplier", 1.0))
        self.head = Head(self.model.lm_head.weight.shape, tensors)
        self.eos_ids = _eos_ids(checkpoint.path, self.model)

    def _keep_pinpoints(self, kept: Sequence[tuple[int, int]]) -> None:
        """Both do with those alone, if they are the checkpoint's own, in its order; others would be a difference."""
        own = [tuple(pair) for pair in getattr(self.model.config, "image_grid_pinpoints", None) or ()]
        if kept and [pair for pair in own if pair in kept] == list(kept):
            pairs = [list(pair) for pair in kept]
            self.model.config.image_grid_pinpoints = pairs
            self.processor.image_processor.image_grid_pinpoints = pairs

    def inputs(self, probe: Probe, messages: Sequence[Mapping[str, Any]] | None = None) -> Inputs:
        """A probe as the processor makes it, by the chat template where there is one.

        A template that takes text alone is rendered from `messages`, whose texts have the images written in them.
        """
        try:
            made = self._processed(probe, messages or probe.messages)
        except Exception as error:  # transformers raises whatever it raises
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"transformers' processor fails on the prompt {probe.name!r}: {reason}"
            ) from None
        pixels, sizes = made.get("pixel_values"), made.get("image_sizes")
        counts, clips = made.get("batch_num_images"), made.get("pixel_values_videos")
        return Inputs(
            input_ids=np.asarray(made["input_ids"], np.int64),
            pixel_values=None if pixels is None else np.asarray(pixels, np.float32),
            image_sizes=None if sizes is None else np.asarray(sizes, np.int64),
            tiles=self._tiles(sizes, cut=counts is None or len(probe.images) == 1),
            batch_num_images=None if counts is None else np.asarray(counts, np.int64),
            videos=() if clips is None else tuple(np.asarray(clips, np.float32)),
        )

    def _tiles(self, sizes: Any, *, cut: bool) -> tuple[int, ...] | None:
        """How many arrays transformers' model takes of each image, where it cuts them into tiles; of all or of none."""
        config = self.model.config
        pinpoints = getattr(config, "image_grid_pinpoints", None)
        if pinpoints is None or sizes is None:
            return None
        if not cut:
            return (1,) * len(sizes)
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        side = config.vision_config.image_size
        pairs = np.asarray(sizes, np.int64).tolist()
        return tuple(image_size_to_num_patches(pair, pinpoints, side) for pair in pairs)

    def _processed(self, probe: Probe, messages: Sequence[Mapping[str, Any]]) -> Any:
        if self.processor.chat_template is None:
            text = probe.raw(self.processor.image_token, getattr(self.processor, "video_token", ""))
            return self.processor(**_of_one_prompt(probe), text=text, return_tensors="np")
        if any(isinstance(message["content"], str) for message in messages):
            text = self.processor.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False
            )
            bos = self.processor.tokenizer.bos_token
            begun = bool(bos) and text.startswith(bos)
            media = _of_one_prompt(probe)
            return self.processor(**media, text=text, add_special_tokens=not begun, return_tensors="np")
        return self.processor.apply_chat_template(
            list(probe.messages),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="np",
        )

    @torch.no_grad()
    def run(self, inputs: Inputs, answer: Sequence[int]) -> Expected:
        """One pass over the prompt and all of `answer` but its last token; T counts both.

        Images are in the prompt: an image token in the answer is a word, as when transformers generates it.
        """
        prompt, core = torch.from_numpy(inputs.input_ids), self.model.model
        ids = torch.cat([prompt, torch.tensor([answer[:-1]], dtype=torch.int64)], dim=1)
        embeds = core.get_input_embeddings()(ids)
        place = torch.zeros_like(ids, dtype=torch.bool)
        for token, rows in self._media(inputs):
            mask = torch.zeros_like(place)
            mask[:, : prompt.shape[1]] = prompt == token
            if int(mask.sum()) != len(rows):
                raise CheckpointError(
                    f"transformers' processor makes {int(mask.sum())} image tokens, its model {len(rows)}: "
                    "patch_size or vision_feature_select_strategy in the processor's files is wrong"
                )
            embeds, place = embeds.masked_scatter(mask[..., None], rows), place | mask
        features = embeds[place]
        hidden, factor = (
            self._hidden(embeds),
            self._embedding_multiplier,
        )  # a Granite multiplies within its model
        return Expected(features=(features * factor).numpy(), embeds=(embeds * factor).numpy(), hidden=hidden)

    @torch.no_grad()
    def read(self, ids_T: NDArray[np.int64]) -> torch.Tensor:
        """What comes before the head of a text without images, float32 [T, D]."""
        ids_1T = torch.from_numpy(ids_T)[None]
        return self._hidden(self.model.model.get_input_embeddings()(ids_1T))

    def _hidden(self, embeds_1TD: torch.Tensor) -> torch.Tensor:
        outputs = self.model.model.language_model(
            inputs_embeds=embeds_1TD,
            attention_mask=torch.ones(embeds_1TD.shape[:2], dtype=torch.int64),
            use_cache=False,
            return_dict=True,
        )
        hidden_TD: torch.Tensor = outputs.last_hidden_state[0]
        return hidden_TD

    def _media(self, inputs: Inputs) -> Iterator[tuple[int, torch.Tensor]]:
        """The ids that stand for images and for videos, where there are some, and the features of each kind."""
        if inputs.pixel_values is not None:
            yield self.model.config.image_token_id, self._features(inputs)
        if inputs.videos:
            rows = [self._video_features(video) for video in inputs.videos]
            yield self.model.config.video_token_id, torch.cat(rows)

    def _video_features(self, frames_NCHW: Floats) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(frames_NCHW))[None]
        rows: torch.Tensor = self.model.model.get_video_features(pixels, return_dict=True).pooler_output[0]
        return rows

    def _features(self, inputs: Inputs) -> torch.Tensor:
        given = {"image_sizes": inputs.image_sizes, "batch_num_images": inputs.batch_num_images}
        sizes = {name: torch.from_numpy(values) for name, values in given.items() if values is not None}
        pixels = torch.from_numpy(np.ascontiguousarray(inputs.pixel_values))
        try:
            outputs = self.model.model.get_image_features(pixels, return_dict=True, **sizes)
        except RuntimeError as error:  # of a Mistral 3's images that have one token
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"transformers' model fails on images of a prompt: {reason}") from None
        return torch.cat(list(outputs.pooler_output))


def _of_one_prompt(probe: Probe) -> dict[str, Any]:
    """Images and videos as `apply_chat_template` hands them on: a list for each prompt."""
    videos = {"videos": [[list(video) for video in probe.videos]]} if probe.videos else {}
    return {"images": [list(probe.images)] if probe.images else None, **videos}


class Head:
    """The language model's head, read in blocks of rows: it outlives the `Reference` and holds nothing."""

    def __init__(self, shape: torch.Size, tensors: FloatTensors) -> None:
        self._shape, self._tensors = shape, tensors

    @torch.no_grad()
    def logits(self, hidden_TD: torch.Tensor) -> Iterator[Floats]:
        """Logits of all T positions in order, a few positions at a time, float32 [n, V]."""
        rows, _ = self._shape
        for hidden_ND in hidden_TD.split(max(1, LOGIT_VALUES // rows)):
            logits_NV = torch.empty(len(hidden_ND), rows)
            for start, stop in self._tensors.blocks(self._shape):
                block = self._tensors.read_rows(HEAD, self._shape, torch.arange(start, stop))
                torch.mm(hidden_ND, block.T, out=logits_NV[:, start:stop])
            yield logits_NV.numpy()


def _eos_ids(path: Path, model: Any) -> tuple[int, ...]:
    """Ids that end transformers' generation: generation_config.json, or what it makes of config.json without one."""
    from transformers import GenerationConfig

    config = model.generation_config
    if (path / "generation_config.json").is_file():
        config = GenerationConfig.from_pretrained(path, local_files_only=True)
    ids = config.eos_token_id
    return () if ids is None else tuple(ids) if isinstance(ids, list | tuple) else (int(ids),)
