"""Turning the residual stream by an orthonormal matrix that the weights take up: the same model, without outliers.

A few channels of a language model's residual stream are tens of times larger than the rest, and a quantised matrix
spends its steps on them (measured: docs/accuracy.md). A random rotation Q spreads every channel over all. RMSNorm
without a weight commutes with it, so each norm's weight g goes into the matrices that read the norm, and

    what reads the stream (query, key, value, gate, up, head)          W → W·diag(g)·Q    columns turned
    what writes it (output, down, the projector's second, biases, …)   W → Qᵀ·W           rows turned
    the embedding table                                                E → E·Q            columns turned

leave every logit as it was (QuaRot, arXiv:2404.00456). A tied table has to serve as embedding and head at once and
cannot take up the final norm's weight: there a matrix Qᵀ·diag(g)·Q between norm and head does.

LayerNorm subtracts a mean, which Q does not commute with; and a norm behind a branch has a weight that nothing before
it takes up, and that no rotation passes. Models with either are not turned. Norms of queries and keys do not see the
stream.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from dataclasses import replace

import torch
from torch import Tensor

from pumice.models.config import LlavaConfig
from pumice.models.text_weights import EMBEDDING_TABLE, HEAD_ROTATION, TEXT_NORM
from pumice.models.weights import Read

SEED = 0
CACHED = 1 << 18
"""Elements that are turned at a time: what stays in a core's cache is turned three times as quickly."""
SLAB_COLUMNS = 2048
"""Columns of a matrix whose rows are turned that are in memory as float32 twice at a time."""

_LAYER = r"^language_model\.layers\.(\d+)\."
_READS_ATTENTION_NORM = re.compile(_LAYER + r"self_attn\.[qkv]_proj\.weight$")
_READS_MLP_NORM = re.compile(_LAYER + r"mlp\.(gate|up)_proj\.weight$")
_WRITES = re.compile(
    _LAYER + r"(self_attn\.o_proj|mlp\.down_proj)\.(weight|bias)$"
    r"|^multi_modal_projector\.linear_2\.|^image_newline$"
)
FINAL_NORM, HEAD = "language_model.norm.weight", "lm_head.weight"


class Rotation:
    """An orthonormal matrix Q [width, width]: random signs, a small dense factor, and a Hadamard matrix.

    A width of 2^k·m (m odd) takes the Kronecker product of a random m × m rotation and the Hadamard matrix of 2^k. The
    Hadamard matrix is itself two factors of about √(2^k), so that turning a vector costs few operations.
    """

    def __init__(self, width: int, seed: int = SEED) -> None:
        self.width = width
        power = width & -width
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(width // power, width // power, generator=generator, dtype=torch.float64)
        self._signs = (torch.randint(0, 2, (width,), generator=generator) * 2 - 1).float()
        self._odd = torch.linalg.qr(normal).Q.float()
        inner = 1 << (power.bit_length() - 1) // 2
        self._outer, self._inner = _hadamard(power // inner), _hadamard(inner)

    def turn(self, x: Tensor) -> Tensor:
        """x·Q of float32 [..., width]."""
        rows = x.reshape(-1, self.width)
        turned = torch.empty_like(rows)
        for start in range(0, len(rows), step := max(1, CACHED // self.width)):
            block = rows[start : start + step] * self._signs
            parts = block.view(-1, len(self._odd), len(self._outer), len(self._inner))
            parts = self._outer @ (parts @ self._inner)
            if len(self._odd) > 1:
                parts = self._odd.T @ parts.flatten(2)
            turned[start : start + step] = parts.view(-1, self.width)
        return turned.view(x.shape)


def rotatable(config: LlavaConfig) -> bool:
    """Whether the stream can be turned; warns where it cannot."""
    if config.text.foldable:
        return True
    reason = "LayerNorms" if config.text.norm == "layer" else "norms behind branches"
    logging.getLogger("pumice").warning(
        "the recipe turns the residual stream, which this text model's %s do not allow: it stays as it is, and is "
        "quantised with its outliers",
        reason,
    )
    return False


def rotate(config: LlavaConfig, read: Read, rotation: Rotation | None = None) -> tuple[LlavaConfig, Read]:
    """The config of the turned model, and a reader that gives its tensors; `read` gives the checkpoint's."""
    turned = _Turned(config, read, rotation or Rotation(config.text.hidden_size))
    return replace(config, rotated=True), turned.read


class _Turned:
    """A checkpoint's tensors as the turned model has them."""

    def __init__(self, config: LlavaConfig, read: Read, rotation: Rotation) -> None:
        self._plain, self._rotation = read, rotation
        self._width = config.text.hidden_size
        self._last: tuple[str, Tensor] | None = None
        self._lock = threading.Lock()

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start … stop, float32 where they are turned."""
        if name == EMBEDDING_TABLE:
            return self._rotation.turn(self._plain(name, start, stop).float())
        if name == HEAD_ROTATION:
            return self._whole(name)[start:stop]
        if TEXT_NORM.match(name):
            return torch.ones(stop - start)
        if _WRITES.match(name):
            return self._whole(name)[start:stop]
        norm = self._norm_before(name)
        if norm is None:
            return self._plain(name, start, stop)
        return self._rotation.turn(self._plain(name, start, stop).float().mul_(self._vector(norm)))

    def _norm_before(self, name: str) -> str | None:
        """The norm whose output a matrix reads."""
        if layer := _READS_ATTENTION_NORM.match(name):
            return f"language_model.layers.{layer[1]}.input_layernorm.weight"
        if layer := _READS_MLP_NORM.match(name):
            return f"language_model.layers.{layer[1]}.post_attention_layernorm.weight"
        return FINAL_NORM if name == HEAD else None

    def _vector(self, name: str) -> Tensor:
        return self._plain(name, 0, self._width).float()

    def _whole(self, name: str) -> Tensor:
        """A tensor of which every row depends on all; the last one is kept, for it is read in parts."""
        with self._lock:
            if self._last is None or self._last[0] != name:
                self._last = None
                self._last = name, self._head_rotation() if name == HEAD_ROTATION else self._rows_turned(name)
            return self._last[1]

    def _rows_turned(self, name: str) -> Tensor:
        """Qᵀ·W of a matrix [width, columns], or Qᵀ·b of a bias [width]."""
        matrix = self._plain(name, 0, self._width)
        if matrix.dim() == 1:
            return self._rotation.turn(matrix.float())
        turned = torch.empty(matrix.shape)
        for slab in range(0, matrix.shape[1], SLAB_COLUMNS):
            columns = slice(slab, slab + SLAB_COLUMNS)
            turned[:, columns] = self._rotation.turn(matrix[:, columns].T.float().contiguous()).T
        return turned

    def _head_rotation(self) -> Tensor:
        """Qᵀ·diag(g)·Q with the final norm's weight g."""
        weighted = torch.diag(self._vector(FINAL_NORM))
        return self._rotation.turn(self._rotation.turn(weighted).T.contiguous())


def _hadamard(size: int) -> Tensor:
    """Sylvester's Hadamard matrix of a power of two, orthonormal."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix / math.sqrt(size)
