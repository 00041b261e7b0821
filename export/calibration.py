"""What the inputs of the decoder's matrices carry, by running its layers over some tokens: one layer at a time.

Enters: a config, the reader that its weights will be written from, and what the layers are run over
(`pumice.export.calibration_embeds`). Leaves: for every matrix of the layers the second moments of its input x over all
tokens, float32: E[x²] of each channel, shape = (K,); or all of E[x·xᵀ], shape = (K, K), where rounding errors are to be
fed back (`pumice.export.error_feedback`).

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

from pumice.export.parameters import Read
from pumice.export.streamed_module import streamed
from pumice.models.config import LlavaConfig
from pumice.models.decoder import Block, rotary_caches
from pumice.models.text_weights import decoder_weights


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
        self._config, self._read, self.full = config, read, full
        self._embeds = embeds
        self._moments: dict[str, Tensor] = {}
        self._next = 0
        self._stream: tuple[Tensor, Tensor | None] | None = None
        self._places: Any = None

    def reach(self, name: str) -> None:
        """Nothing: the plain model's tensors need no calibration to be read."""

    @torch.no_grad()
    def moments(self, name: str) -> Tensor:
        """Of the inputs of one of the decoder's matrices; layers are asked for in their order."""
        layer = int(name.split(".")[1])
        while self._next <= layer:
            self._moments.clear()
            self._run(self._next)
            self._next += 1
        return self._moments[name]

    def _run(self, layer: int) -> None:
        text, prefix = self._config.text, f"layers.{layer}."
        if self._stream is None:
            embeds = self._embeds()
            self._stream, self._places = (embeds, None), self._places_of(*embeds.shape[:2])
        table = {
            name.removeprefix(prefix): weight
            for name, weight in decoder_weights(self._config).items()
            if name.startswith(prefix)
        }
        latest: tuple[Tensor, Tensor] | None = None

        def observe(name: str, x: Tensor) -> None:
            nonlocal latest
            if latest is None or latest[0] is not x:  # gate and up have one input
                latest = x, self._moment(x)
            self._moments[prefix + name] = latest[1]

        window = text.sliding_windows[layer]
        block = streamed(lambda: Block(text, window), table, self._read, observe)
        residual, delta = self._stream
        empty = residual.new_zeros(len(residual), text.num_key_value_heads, 0, text.head_dim)
        residual, delta, _ = block(residual, delta, (empty, empty), self._places, None)
        self._stream = residual, delta

    def _moment(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        return rows.T @ rows / len(rows) if self.full else rows.square().mean(0)

    def _places_of(self, count: int, length: int) -> Any:
        """As `pumice.models.decoder.Places`, for whole sequences behind nothing."""
        cos, sin = rotary_caches(self._config.text)
        return SimpleNamespace(
            cos_cache=cos[:length],
            sin_cache=sin[:length],
            seqlens_k=torch.full((count,), length - 1, dtype=torch.int32),
            total_sequence_length=torch.tensor(length, dtype=torch.int32),
            present_length=length,
        )
