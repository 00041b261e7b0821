"""Exporter of the vision encoder: `pixel_values` [num_images, 3, H, W] → `image_features` [num_image_tokens, D].

A Pixtral takes any height and width, of all images of a call alike; other towers take their own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from optimum.utils import DummyVisionInputGenerator, NormalizedVisionConfig
from torch import Tensor
from torch.export import Dim

from pumice.export.trace.layers import equal_runs, repeat_layers
from pumice.export.trace.tracing import Example, Traced, trace
from pumice.manifest.tensors import IMAGE_FEATURES, PIXEL_VALUES
from pumice.models.config import LlavaConfig
from pumice.models.float_types import lowered
from pumice.models.vision import VisionEncoder


def trace_vision_encoder(config: LlavaConfig, dtype: torch.dtype = torch.float32) -> Traced:
    """Tower, feature selection and projector for any number of images, computing in `dtype`."""
    taps = config.vision_feature_layers
    runs = equal_runs([sum(layer >= tap for tap in taps) for layer in range(config.vision_layers)])
    shallow = replace(
        config,
        vision=replace(config.vision, num_hidden_layers=len(runs)),
        vision_feature_layers=tuple(sum(run.stop <= tap for run in runs) for tap in taps),
    )
    return repeat_layers(trace_every_layer(shallow, dtype), runs, ("/tower/layers.", "tower.layers."))


def trace_every_layer(config: LlavaConfig, dtype: torch.dtype = torch.float32) -> Traced:
    """What `trace_vision_encoder` gives, slowly."""
    sizes = {2: Dim("height"), 3: Dim("width")} if config.vision.tower == "pixtral" else {}

    def example() -> Example:
        return Example(
            args=(dummy_pixels(config),),
            dynamic_shapes=({0: Dim("num_images")} | sizes,),
            input_names=[PIXEL_VALUES],
            output_names=[IMAGE_FEATURES],
            output_dims={IMAGE_FEATURES: ("num_image_tokens", config.text.hidden_size)},
        )

    return trace(lambda: lowered(VisionEncoder(config), dtype), example)


def dummy_pixels(config: LlavaConfig) -> Tensor:
    """Two images of a size that the tower takes; where sizes are free, of 2 × 3 tokens of `token_side` pixels."""
    vision = config.vision
    if vision.tower == "pixtral":
        return torch.zeros(2, vision.num_channels, 2 * config.token_side, 3 * config.token_side)
    dummies = DummyVisionInputGenerator("feature-extraction", NormalizedVisionConfig(vision), batch_size=2)
    pixels: Tensor = dummies.generate("pixel_values")
    return pixels
