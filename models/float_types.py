"""A part of the model in a narrower float type, with a wider one where the narrow one does not do.

what                              float32     float16     bfloat16
weights and activations           float32     float16     bfloat16
KV cache, attention over it       float32     float16     float16     NumPy, which holds the cache, has no bfloat16
patch convolution                 float32     float32     float32     pixels are, and it runs once an image
graphs' inputs and outputs        float32     float32     float32     clients need not know
norms' statistics, softmax        float32     float32     float32     inside the fused operators
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

_FLOAT32 = ("patch_embedding", "patch_bias", "patch_conv")
"""Parameters of patch convolutions."""


def cache_type(dtype: torch.dtype) -> torch.dtype:
    """The float type of keys and values, and of the rotary caches that turn them."""
    return torch.float32 if dtype == torch.float32 else torch.float16


def lowered(module: Module, dtype: torch.dtype) -> Module:
    """The module, its parameters and buffers cast in place; its forward follows them."""
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            narrow = torch.float32 if name in _FLOAT32 else dtype
            setattr(part, name, nn.Parameter(value.detach().to(narrow), requires_grad=False))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, buffer.to(cache_type(dtype)))
    return module
