"""transformers, the one oracle: its model of a checkpoint, and ours in plain torch beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.weights.plain import make_plain
from pumice.models.config import LlavaConfig
from pumice.models.decoder import Cache, Decoder, rotary_caches
from pumice.models.embedding import EmbeddingMerge
from pumice.models.text_weights import decoder_weights, embedding_weights
from pumice.models.vision import VisionEncoder
from pumice.models.vision_weights import vision_encoder_weights
from pumice.models.weights import Read, load_weights

Change = Callable[[LlavaConfig, Read], tuple[LlavaConfig, Read]]
ZERO, ONE = torch.tensor(0), torch.tensor(1)


@dataclass(frozen=True, kw_only=True)
class Ours:
    """Our modules with a checkpoint's weights."""

    config: LlavaConfig
    vision_encoder: VisionEncoder
    embedding: EmbeddingMerge
    decoder: Decoder

    def empty_cache(self, batch: int = 1) -> Cache:
        text = self.config.text
        shape = (batch, text.num_key_value_heads, 0, text.head_dim)
        return [(torch.zeros(shape), torch.zeros(shape)) for _ in range(text.num_hidden_layers)]

    def logits(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None) -> torch.Tensor:
        width = self.config.text.hidden_size
        features = torch.zeros(0, width) if pixel_values is None else self.vision_encoder(pixel_values)
        embeds = self.embedding(input_ids, features)
        mask = torch.ones_like(input_ids)
        logits, _ = self.decoder(embeds, mask, self.empty_cache(len(input_ids)), ZERO)
        return logits


def theirs(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A `LlavaForConditionalGeneration`, or ViP-LLaVA's, with every weight from the checkpoint."""
    model, report = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def ours(folder: Path, change: Change | None = None) -> Ours:
    """Our modules; `change` is a wrapper of config and reader, such as `pumice.export.weights.rotation.rotate`."""
    checkpoint = open_checkpoint(folder)
    config, read = make_plain(read_config(checkpoint.config), checkpoint.read_canonical)
    if change is not None:
        config, read = change(config, read)
    modules = VisionEncoder(config), EmbeddingMerge(config), Decoder(config)
    tables = vision_encoder_weights(config), embedding_weights(config), decoder_weights(config)
    for module, table in zip(modules, tables, strict=True):
        rows = {name: shape[0] for weight in table.values() for name, shape in weight.sources}
        load_weights(module, table, lambda name, rows=rows: read(name, 0, rows[name]))  # type: ignore[misc]
    modules[2].cos_cache, modules[2].sin_cache = rotary_caches(config.text)
    return Ours(config=config, vision_encoder=modules[0], embedding=modules[1], decoder=modules[2])


def prompt(config: LlavaConfig, images: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random `input_ids` [1, T] with `images` images' tokens inside, and random `pixel_values` of one size."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(3, config.text.vocab_size, (4 * (images + 1),), generator=generator)
    words[words == config.image_token_id] = 3
    if config.video is not None:
        words[words == config.video.token_id] = 3
    height, width = size = image_size(config)
    tokens = config.tokens_per_image or (height * width) // config.token_side**2
    image = torch.full((tokens,), config.image_token_id)
    parts = [words[:4]]
    for i in range(images):
        parts += [image, words[4 * (i + 1) : 4 * (i + 2)]]
    return torch.cat(parts)[None], torch.randn(images, 3, *size, generator=generator)


def image_size(config: LlavaConfig) -> tuple[int, int]:
    """Height and width in pixels that the tower takes; 3 × 4 tokens where any would do."""
    token, side = config.token_side, config.vision.image_size
    return (3 * token, 4 * token) if config.vision.tower == "pixtral" else (side, side)


def given_images(config: LlavaConfig, pixels: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """What transformers' models want to be given of images in `pixels`: their sizes too, where these vary."""
    if pixels is None:
        return {}
    sizes = torch.tensor([pixels.shape[2:]] * len(pixels))
    return {"pixel_values": pixels} | ({"image_sizes": sizes} if config.tokens_per_image is None else {})
