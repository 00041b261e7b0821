"""Exporter of the vision encoder: `pixel_values` [num_images, 3, H, W] → `image_features` [num_images·tokens, D]."""

from optimum.utils import DummyVisionInputGenerator, NormalizedVisionConfig
from torch.export import Dim

from pumice.export.tracing import Example, Traced, trace
from pumice.models.config import LlavaConfig
from pumice.models.vision import VisionEncoder


def trace_vision_encoder(config: LlavaConfig) -> Traced:
    """Trace tower, feature selection and projector for any number of pictures."""

    def example() -> Example:
        dummies = DummyVisionInputGenerator(
            "feature-extraction", NormalizedVisionConfig(config.vision), batch_size=2
        )
        return Example(
            args=(dummies.generate("pixel_values"),),
            dynamic_shapes=({0: Dim("num_images")},),
            input_names=["pixel_values"],
            output_names=["image_features"],
            output_dims={"image_features": ("num_image_tokens", config.text.hidden_size)},
        )

    return trace(lambda: VisionEncoder(config), example)
