"""The names of the graphs' inputs and outputs, as bundles have them: what the exporter writes and the runtime binds.

vision_encoder   pixel_values ─▶ image_features
embedding        input_ids, image_features ─▶ inputs_embeds
decoder          inputs_embeds, attention_mask, past_key_values.N.…, num_logits_to_keep
                 ─▶ logits, greedy_token, present.N.…
"""

from __future__ import annotations

PIXEL_VALUES = "pixel_values"
IMAGE_FEATURES = "image_features"
INPUT_IDS = "input_ids"
INPUTS_EMBEDS = "inputs_embeds"
ATTENTION_MASK = "attention_mask"
NUM_LOGITS_TO_KEEP = "num_logits_to_keep"
"""How many of the last positions logits are wanted of; 0: of all."""
LOGITS = "logits"
GREEDY_TOKEN = "greedy_token"
"""Each row's argmax, or -1 where its logits are not finite."""
PAST, PRESENT = "past_key_values", "present"
"""What keys and values begin with: `past_key_values.0.key`."""


def cache_names(prefix: str, layers: int) -> list[str]:
    """Keys and values of every layer, in the order of the graph's inputs and outputs."""
    return [f"{prefix}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
