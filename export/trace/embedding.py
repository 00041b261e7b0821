"""Exporter of the embedding merge: `input_ids` [B, T] and `image_features` [M, D] → `inputs_embeds` [B, T, D]."""

import torch
from optimum.utils import DummyTextInputGenerator, NormalizedTextConfig
from torch.export import Dim

from pumice.export.trace.tracing import Example, Traced, trace
from pumice.manifest.tensors import IMAGE_FEATURES, INPUT_IDS, INPUTS_EMBEDS
from pumice.models.config import LlavaConfig
from pumice.models.embedding import EmbeddingMerge
from pumice.models.float_types import lowered


def trace_embedding(config: LlavaConfig, dtype: torch.dtype = torch.float32) -> Traced:
    """The merge for any batch, length and number of image rows, zero among them; its table is of `dtype`."""

    def example() -> Example:
        dummies = DummyTextInputGenerator(
            "feature-extraction", NormalizedTextConfig(config.text), batch_size=2, sequence_length=5
        )
        ids, rows = {0: Dim("batch_size"), 1: Dim("sequence_length")}, {0: Dim("num_image_tokens", min=0)}
        return Example(
            args=(dummies.generate("input_ids"), torch.empty(3, config.text.hidden_size)),
            dynamic_shapes=(ids, rows),
            input_names=[INPUT_IDS, IMAGE_FEATURES],
            output_names=[INPUTS_EMBEDS],
        )

    return trace(lambda: lowered(EmbeddingMerge(config), dtype), example)
