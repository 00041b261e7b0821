"""What the inputs of the decoder's matrices carry, by running its layers over some tokens: one layer at a time.

Enters: a config, the reader that its weights will be written from, and what the layers are run over
(`pumice.export.calibration.embeds`). Leaves: for every matrix of the layers the second moments of its input x over all
tokens, float32: E[x²] of each channel, shape = (K,); or all of E[x·xᵀ], shape = (K, K), where rounding errors are to be
fed back (`pumice.export.weights.error_feedback`). And for every layer how large its keys and values are.

    inputs_embeds [B, T, D] ─layer 0─▶ stream ─layer 1─▶ …
                               │ moments of qkv, o_proj, gate and up, down
                               ▼
                       layer 0's matrices are quantised and written, and its moments forgotten

Layers are run when their first matrix is asked for, so that memory holds one layer's moments and the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pumice.export.calibration.cache_ranges import CacheRanges, ranges_of
from pumice.export.calibration.module import streamed
from pumice.models.config import LlavaConfig
from pumice.models.decoder import rotary_caches
from pumice.models.text_block import Block, query_growth
from pumice.models.text_weights import decoder_weights
from pumice.models.weights import Read

ACTIVATION_VALUES = 1 << 24
"""Values of the widest activation that are there at a time: 64 MiB, a few of which a layer keeps. More rows than these
make are run one group after the other, and the layer's weights read again for each."""


class Calibration:
    """The second moments, by the decoder's own parameter names; for one thread.

    Args:
        config, read: the model as it will be stored, norms folded and the stream turned where they are.
        embeds: makes `inputs_embeds`, float32 [B, T, D], when the first layer is run.
        full: all of E[x·xᵀ] rather than its diagonal.
    """

    def __init__(
        self, config: LlavaConfig, read: Read, embeds: Callable[[], Tensor], *, full: bool = False
    ) -> None:
        self._config, self._read, self._full = config, read, full
        self._embeds = embeds
        self._moments: dict[str, Tensor] = {}
        self._ranges: list[CacheRanges] = []
        self._stream: _Stream | None = None

    def reach(self, name: str) -> None:
        """Nothing: the plain model's tensors need no calibration to be read."""

    @torch.no_grad()
    def moments(self, name: str) -> Tensor:
        """Of the inputs of one of the decoder's matrices; layers are asked for in their order."""
        self._reach(int(name.split(".")[1]))
        return self._moments[name]

    @torch.no_grad()
    def cache_ranges(self, layer: int) -> CacheRanges:
        """Of a layer's keys and values; those of layers before are kept."""
        self._reach(layer)
        return self._ranges[layer]

    def _reach(self, layer: int) -> None:
        while len(self._ranges) <= layer:
            self._moments.clear()
            self._run(len(self._ranges))

    def _run(self, layer: int) -> None:
        text, prefix = self._config.text, f"layers.{layer}."
        if self._stream is None:
            self._stream = _Stream(self._config, self._embeds())
        table = {
            name.removeprefix(prefix): weight
            for name, weight in decoder_weights(self._config).items()
            if name.startswith(prefix)
        }
        seen = _Seen(full=self._full)
        kind = text.layer_kinds[layer]
        block = streamed(lambda: Block(text, kind), table, self._read, seen.add)
        self._ranges.append(self._stream.run(block))
        self._moments = {prefix + name: moments for name, moments in seen.moments().items()}


class _Seen:
    """Sums over what is multiplied with each matrix of a layer."""

    def __init__(self, *, full: bool) -> None:
        self._full = full
        self._sums: dict[str, Tensor] = {}
        self._tokens: dict[str, int] = {}
        self._same: dict[str, str] = {}
        self._latest: tuple[str, Tensor] | None = None

    def add(self, name: str, x: Tensor) -> None:
        """Before a product with the matrix `name`, of x [..., K]."""
        if self._latest is not None and self._latest[1] is x:  # gate and up have one input
            self._same[name] = self._latest[0]
            return
        self._latest = name, x
        rows = x.flatten(0, -2)
        added = rows.T @ rows if self._full else rows.square().sum(0)
        self._sums[name] = self._sums[name].add_(added) if name in self._sums else added
        self._tokens[name] = self._tokens.get(name, 0) + len(rows)

    def moments(self) -> dict[str, Tensor]:
        """The means."""
        means = {name: total.div_(self._tokens[name]) for name, total in self._sums.items()}
        return means | {name: means[first] for name, first in self._same.items()}


class _Stream:
    """The residual stream of all rows between two layers, [B, T, D], and what the layer before adds to it."""

    def __init__(self, config: LlavaConfig, embeds: Tensor) -> None:
        self._text = config.text
        self._cos, self._sin = rotary_caches(config.text)
        self._turned = (self._sin != 0).any(dim=0)
        self._residual, self._delta = embeds, torch.zeros_like(embeds)
        widest = max(config.text.intermediate_size, 3 * config.text.hidden_size)
        self._group = max(1, ACTIVATION_VALUES // (embeds.shape[1] * widest))

    def run(self, block: Block) -> CacheRanges:
        """Through one layer, some rows at a time; the ranges of its keys and values."""
        turned = self._turned if block.self_attn.kind.turned else None
        found: CacheRanges | None = None
        for start in range(0, len(self._residual), self._group):
            part = slice(start, start + self._group)
            residual, delta = self._residual[part], self._delta[part]
            empty = residual.new_zeros(len(residual), self._text.num_key_value_heads, 0, self._text.head_dim)
            residual, delta, present = block(
                residual, delta, (empty, empty), self._places(*residual.shape[:2]), None
            )
            self._residual[part], self._delta[part] = residual, delta
            keys, values = present
            ranges = ranges_of(keys, values, turned)
            found = ranges if found is None else found.joined(ranges)
        assert found is not None
        return found

    def _places(self, count: int, length: int) -> Any:
        """As `pumice.models.text_block.Places`, for whole sequences behind nothing."""
        seqlens_k = torch.full((count,), length - 1, dtype=torch.int32)
        return SimpleNamespace(
            cos_cache=self._cos[:length],
            sin_cache=self._sin[:length],
            seqlens_k=seqlens_k,
            total_sequence_length=torch.tensor(length, dtype=torch.int32),
            present_length=length,
            growth=query_growth(self._text, seqlens_k, length),
        )
