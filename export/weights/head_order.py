"""Channels of heads in the order that the rotary embedding of the graph wants: partners half a head apart.

A checkpoint may have partners side by side, and channels behind them that no position turns:

    halves        r₁ r₁ r₁ r₂ r₂ r₂ p p p p                                     r₁ r₁ r₁ p p | r₂ r₂ r₂ p p
    neighbours    r₁ r₂ r₁ r₂ r₁ r₂ p p p p        queries and keys, sorted  →

What is passed through is pairs of frequency 0. Scores are sums over channels, so that their order is nothing to them;
values keep theirs.

Enters: a config with `neighbours`, or with fewer frequencies than a head has pairs, and a reader of rows. Leaves: the
config without, and a reader whose queries and keys, and weights of their norms, are sorted.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from pumice.models.config import LlavaConfig, TextConfig
from pumice.models.weights import Read

_TURNED = re.compile(r"^language_model\.layers\.\d+\.self_attn\.[qk]_(?:proj\.(?:weight|bias)|norm\.weight)$")


def order_heads(config: LlavaConfig, read: Read) -> tuple[LlavaConfig, Read]:
    """The config and a reader of sorted heads; both as they came where they are in order."""
    text = config.text
    pairs, width = len(text.inv_freq), text.rotary_dim
    if not text.neighbours and 2 * pairs == width:
        return config, read
    order = _order(text)

    def read_sorted(name: str, start: int, stop: int) -> Tensor:
        if _TURNED.match(name) is None:
            return read(name, start, stop)
        first, last = start // width, -(-stop // width)  # heads that the rows lie in
        rows = read(name, first * width, last * width)
        heads = rows.reshape(last - first, width, *rows.shape[1:])[:, order].flatten(0, 1)
        return heads[start - first * width : stop - first * width]

    frequencies = (*text.inv_freq, *(0.0,) * (width // 2 - pairs))
    return replace(config, text=replace(text, neighbours=False, inv_freq=frequencies)), read_sorted


def _order(text: TextConfig) -> Tensor:
    """The channel of a stored head that each place of a sorted one takes."""
    pairs, width = len(text.inv_freq), text.rotary_dim
    turned, passed = torch.arange(2 * pairs), torch.arange(2 * pairs, width)
    first, second = (turned[::2], turned[1::2]) if text.neighbours else turned.chunk(2)
    halves = passed.chunk(2) if len(passed) else (passed, passed)
    return torch.cat((first, halves[0], second, halves[1]))
