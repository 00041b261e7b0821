"""pebble with the outliers of a large language model: `make_outliers` scales channels and changes no answer.

Real language models have a few channels of activations tens of times larger than the rest, random and tiny models have
none, and quantisation that looks well on these can fail on those. Here some channels of every norm's weight (and bias)
are multiplied, and the columns of the matrices that read the norm are divided: in exact arithmetic the same function.
The last norm of a model with a tied head stays as it is: the columns behind it are those of the embedding table.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

CHANNELS = 6
"""Of each norm."""
_HEAD = "{lm_head}"
_READERS = {
    r"((?:.*\.)?layers\.\d+\.)input_layernorm$": "self_attn.{q,k,v}_proj",
    r"((?:.*\.)?layers\.\d+\.)post_attention_layernorm$": "mlp.{gate,up}_proj",
    r"((?:.*\.)?)model\.norm$": _HEAD,
    r"(.*vision_tower\.(?:vision_model\.)?encoder\.layers\.\d+\.)layer_norm1$": "self_attn.{q,k,v}_proj",
    r"(.*vision_tower\.(?:vision_model\.)?encoder\.layers\.\d+\.)layer_norm2$": "mlp.{fc1}",
}
"""Norms, and the matrices that read them, beside."""


def make_outliers(checkpoint: Path, folder: Path, scale: float, *, seed: int = 0) -> Path:
    """Copy `checkpoint` to `folder` (new) with `CHANNELS` channels of each norm times `scale`, in float32."""
    shutil.copytree(checkpoint, folder)
    (weights,) = folder.glob("*.safetensors")
    tensors = {name: tensor.float() for name, tensor in load_file(weights).items()}
    scale_norms(tensors, scale, seed=seed)
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def scale_norms(tensors: dict[str, torch.Tensor], scale: float, *, seed: int = 0) -> None:
    """Multiply `CHANNELS` channels of each norm by `scale`, in place.

    `tensors` are a checkpoint's in the released layout, or a language model's alone (`model.layers.0…`); in float32,
    for float16 would round what is divided.

    Raises:
        KeyError: matrices behind a norm are missing, other than a tied head.
    """
    generator = torch.Generator().manual_seed(seed)
    for norm in [name.removesuffix(".weight") for name in tensors]:
        for pattern, names in _READERS.items():
            if match := re.match(pattern, norm):
                readers = [match[1] + name for name in _expanded(names)]
                channels = torch.randperm(len(tensors[f"{norm}.weight"]), generator=generator)[:CHANNELS]
                if names != _HEAD or f"{readers[0]}.weight" in tensors:
                    _scale(tensors, norm, readers, channels, scale)


def _scale(
    tensors: dict[str, torch.Tensor], norm: str, readers: list[str], channels: torch.Tensor, scale: float
) -> None:
    for name in (f"{norm}.weight", f"{norm}.bias"):
        if name in tensors:
            tensors[name][channels] *= scale
    for reader in readers:
        tensors[f"{reader}.weight"][:, channels] /= scale


def _expanded(pattern: str) -> list[str]:
    """`a.{b,c}_d` → `a.b_d`, `a.c_d`."""
    before, names, after = re.split(r"[{}]", pattern)
    return [before + name + after for name in names.split(",")]
