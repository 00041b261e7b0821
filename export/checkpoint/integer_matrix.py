"""Matrices in 4-bit integers, as files have them: [out, in] values (q − z) · s, scales s and zero points z by group.

Enters: where integers, scales and zero points lie. Leaves: the file's own integers, row by row (`IntegerRows`), or
float32 rows. Eight integers are a 32-bit word, the first in its lowest bits:

    compressed-tensors    words [out, in/8], scales [out, groups], zero points [out/8, groups]
    AWQ (gemm)            words [in, out/8], scales [groups, out], zero points [groups, out/8]; columns in `AWQ_ORDER`
    GPTQ                  words [in/8, out], scales [groups, out], zero points − 1 [groups, out/8]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

import torch
from torch import Tensor

from pumice.errors import CheckpointError
from pumice.export.checkpoint.tensor_file import TensorInfo, read_rows, read_whole

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns each place of a word has."""
MIDDLE = 8
"""The zero point of symmetric integers."""
_IN_ORDER = tuple(range(8))


@dataclass(frozen=True, kw_only=True)
class IntegerRows:
    """uint8 `q` [rows, in], `scales` [rows, groups], uint8 `zero_points` [rows, groups]: None if all are `MIDDLE`."""

    q: Tensor
    scales: Tensor
    zero_points: Tensor | None

    def values(self) -> Tensor:
        """What they stand for, float32 [rows, in]."""
        rows, groups = self.scales.shape
        q = self.q.view(rows, groups, self.q.shape[1] // groups).float()
        points = MIDDLE if self.zero_points is None else self.zero_points.float()[:, :, None]
        return q.sub_(points).mul_(self.scales.float()[:, :, None]).flatten(1)


class IntegerMatrix(Protocol):
    """A `StoredMatrix` whose integers can be had."""

    @property
    def kind(self) -> str:
        """`int4`."""

    @property
    def info(self) -> TensorInfo:
        """Where the integers are, with the whole's shape."""

    @property
    def group(self) -> int:
        """Columns that share a scale."""

    @property
    def symmetric(self) -> bool:
        """Whether all zero points are `MIDDLE`."""

    def integers(self, start: int, stop: int) -> IntegerRows:
        """Rows `start` up to `stop`."""

    def rows(self, start: int, stop: int) -> Tensor:
        """The same as float32."""


@dataclass(frozen=True, kw_only=True)
class ByRows:
    """compressed-tensors' order; the last words of rows and of zero points may be half full."""

    info: TensorInfo
    words: TensorInfo
    scales: TensorInfo
    zero_points: TensorInfo | None
    kind: str = "int4"

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.info.shape[1] // self.scales.shape[1]

    @property
    def symmetric(self) -> bool:
        """Whether there are no zero points."""
        return self.zero_points is None

    def integers(self, start: int, stop: int) -> IntegerRows:
        """The file's own."""
        q = unpacked(read_rows(self.words, start, stop), 1)[:, : self.info.shape[1]]
        points = None
        if self.zero_points is not None:
            above = start // 8
            words = read_rows(self.zero_points, above, -(-stop // 8))
            points = unpacked(words, 0)[start - 8 * above : stop - 8 * above]
        return IntegerRows(q=q.contiguous(), scales=read_rows(self.scales, start, stop), zero_points=points)

    def rows(self, start: int, stop: int) -> Tensor:
        """In float32."""
        return self.integers(start, stop).values()


class Recent:
    """The tensors read last, whole: files that go by columns are read a few rows of the matrix at a time."""

    def __init__(self, count: int = 6) -> None:  # words, scales and zero points of two matrices
        self._count, self._lock = count, Lock()
        self._kept: dict[TensorInfo, Tensor] = {}

    def read(self, info: TensorInfo) -> Tensor:
        """The tensor, which others hold as well."""
        with self._lock:
            found = self._kept.pop(info, None)
            tensor = read_whole(info) if found is None else found
            self._kept[info] = tensor
            while len(self._kept) > self._count:
                del self._kept[next(iter(self._kept))]
            return tensor


@dataclass(frozen=True, kw_only=True)
class ByColumns:
    """AWQ's and GPTQ's order: `along` is the axis of words that integers are packed along.

    `order` is of a word's columns, `offset` what is added to stored zero points.
    """

    info: TensorInfo
    words: TensorInfo
    scales: TensorInfo
    zero_points: TensorInfo
    symmetric: bool
    along: int
    order: tuple[int, ...] = _IN_ORDER
    offset: int = 0
    recent: Recent = field(default_factory=Recent, compare=False)
    kind: str = "int4"

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.info.shape[1] // self.scales.shape[0]

    def integers(self, start: int, stop: int) -> IntegerRows:
        """The file's own; raises CheckpointError for zero points that four bits do not hold."""
        read = self.recent.read
        q = (
            self._columns(self.words, start, stop)
            if self.along
            else unpacked(read(self.words)[:, start:stop], 0)
        )
        points = self._columns(self.zero_points, start, stop).add_(self.offset)
        if bool((points > 15).any()):
            raise CheckpointError(
                f"{self.info.file}: a zero point is 16, which four bits do not hold: "
                "use the checkpoint with float weights"
            )
        if self.symmetric and bool((points != MIDDLE).any()):
            raise CheckpointError(
                f"{self.info.file}: config.json says that integers are symmetric, and zero points are not {MIDDLE}"
            )
        return IntegerRows(
            q=q.T.contiguous(),
            scales=read(self.scales)[:, start:stop].T.contiguous(),
            zero_points=None if self.symmetric else points.T.contiguous(),
        )

    def _columns(self, words: TensorInfo, start: int, stop: int) -> Tensor:
        """Columns of words that are packed along them."""
        before = start // 8
        cut = self.recent.read(words)[:, before : -(-stop // 8)]
        return unpacked(cut, 1, self.order)[:, start - 8 * before : stop - 8 * before]

    def rows(self, start: int, stop: int) -> Tensor:
        """In float32."""
        return self.integers(start, stop).values()


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """`matrix`, whose columns are not in the order of their groups: `index` [in] has each one's group.

    MatMulNBits' blocks are of neighbouring columns, so that only values can be had.
    """

    matrix: ByColumns
    index: TensorInfo
    kind: str = "int4"

    @property
    def info(self) -> TensorInfo:
        """Where the integers are, with the whole's shape."""
        return self.matrix.info

    def rows(self, start: int, stop: int) -> Tensor:
        """In float32."""
        found, groups = self.matrix.integers(start, stop), read_whole(self.index).long()
        points = MIDDLE if found.zero_points is None else found.zero_points.float()[:, groups]
        return found.q.float().sub_(points).mul_(found.scales.float()[:, groups])


def unpacked(words: Tensor, axis: int, order: tuple[int, ...] = _IN_ORDER) -> Tensor:
    """uint8 of int32 words [n, m]: eight along an axis of each."""
    places = [order.index(column) for column in _IN_ORDER]
    parts = [(words >> 4 * place & 15).to(torch.uint8) for place in places]
    return torch.stack(parts, dim=axis + 1).flatten(axis, axis + 1)
