"""The vision tower's norms, taken up by the matrices after them: the same model, kinder to quantise.

A norm's weight g and bias b act channel by channel before a matrix W that reads them. Where g has a few large channels,
W's columns are small there, and a block of quantised columns loses them. Folded,

    W·(g·x + b) + c   =   (W·diag(g))·x + (W·b + c)

the norm has weight 1 and bias 0. The text model's norms are folded by `pumice.export.weights.rotation`.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from pumice.models.config import LlavaConfig
from pumice.models.weights import Read

_FOLDED = (
    (r"^(vision_tower\.encoder\.layers\.\d+)\.self_attn\.[qkv]_proj\.(weight|bias)$", "layer_norm1"),
    (r"^(vision_tower\.encoder\.layers\.\d+)\.mlp\.fc1\.(weight|bias)$", "layer_norm2"),
    (r"^(vision_tower\.transformer\.layers\.\d+)\.attention\.[qkv]_proj\.(weight)$", "attention_norm"),
    (r"^(vision_tower\.transformer\.layers\.\d+)\.feed_forward\.(?:gate|up)_proj\.(weight)$", "ffn_norm"),
    (r"^(multi_modal_projector)\.linear_1\.(weight|bias)$", "projector_layernorm"),
    (r"^(multi_modal_projector)\.patch_merger\.merging_layer\.(weight)$", "norm"),
)
"""What reads a norm, and the norm's name beside it."""
_NORM = re.compile(
    r"(\.layer_norm[12]|\.attention_norm|\.ffn_norm|^multi_modal_projector\.(?:projector_layernorm|norm))\.(weight|bias)$"
)


def fold_norms(config: LlavaConfig, read: Read) -> tuple[LlavaConfig, Read]:
    """The config, and a reader that gives the folded tensors; `read` gives the checkpoint's."""
    has_projector_norm = config.projector_layer_norm_eps is not None
    wide = config.feature_width
    inner = config.vision.hidden_size

    def read_folded(name: str, start: int, stop: int) -> Tensor:
        if norm := _NORM.search(name):
            return torch.ones(stop - start) if norm[2] == "weight" else torch.zeros(stop - start)
        for pattern, norm_name in _FOLDED:
            match = re.match(pattern, name)
            if match is None or (norm_name == "projector_layernorm" and not has_projector_norm):
                continue
            width = wide if norm_name == "projector_layernorm" else inner
            at = f"{match[1]}.{norm_name}"
            if match[2] == "weight":
                weight = read(f"{at}.weight", 0, width).float()
                if norm_name == "norm":  # of every channel come all patches that are merged
                    weight = weight.repeat_interleave((config.merge or 1) ** 2)
                return read(name, start, stop).float() * weight
            rows = read(name.removesuffix("bias") + "weight", start, stop)
            shift = rows.double() @ read(f"{at}.bias", 0, width).double()
            return (read(name, start, stop).double() + shift).float()
        return read(name, start, stop)

    return config, read_folded
