"""Names of a checkpoint's tensors: one layout for all, and whether they fit a config.

Both the released layout (`language_model.model.layers.0…`) and the newer one (`model.language_model.layers.0…`) are
read through `canonical_name`; what is left over on either side raises with the list.
"""

from __future__ import annotations

import re

from pumice.errors import CheckpointError
from pumice.models.config import LlavaConfig
from pumice.models.text_weights import decoder_weights, embedding_weights, stored_shapes
from pumice.models.vision_weights import vision_encoder_weights

_RENAMES = (
    (r"^model\.(?=language_model\.|vision_tower\.|multi_modal_projector\.|image_newline$)", ""),
    (r"^language_model\.model\.", "language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
)
_NEVER_READ = re.compile(r"(position_ids|rotary_emb\.inv_freq)$|^vision_tower\.(post_layernorm|head)\.")
_TOWER_LAYER = re.compile(r"^vision_tower\.(?:encoder|transformer)\.layers\.(\d+)\.")


def canonical_name(name: str) -> str:
    """A tensor's name in the one layout that this table uses, whatever the checkpoint's."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def check_names(config: LlavaConfig, tensors: dict[str, tuple[int, ...]]) -> None:
    """Compare the table with a checkpoint's canonical names and shapes.

    Raises:
        CheckpointError: tensors missing, left over, or of another shape; the message lists them.
    """
    read = {
        name: shape
        for table in (vision_encoder_weights, embedding_weights, decoder_weights)
        for weight in table(config).values()
        for name, shape in weight.sources
    }
    wanted = stored_shapes(config.text, read)
    missing = sorted(set(wanted) - set(tensors))
    surplus = sorted(name for name in set(tensors) - set(wanted) if not _is_never_read(name, config))
    if missing or surplus:
        said = [f"missing {_some(missing)}"] if missing else []
        said += [f"not understood: {_some(surplus)}"] if surplus else []
        raise CheckpointError(f"the checkpoint's tensors do not fit its config: {'; '.join(said)}")
    for name, shape in wanted.items():
        if tensors[name] != shape:
            raise CheckpointError(
                f"tensor {name} has shape {list(tensors[name])}, but config.json makes it {list(shape)}"
            )


def _is_never_read(name: str, config: LlavaConfig) -> bool:
    """Buffers, the tower behind the feature layer, and a tied head's copy."""
    layer = _TOWER_LAYER.match(name)
    if layer:
        return config.vision_layers <= int(layer[1]) < config.vision.num_hidden_layers
    return bool(_NEVER_READ.search(name)) or (config.tie_word_embeddings and name == "lm_head.weight")


def _some(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
