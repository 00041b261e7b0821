"""Rows of a checkpoint's tensor, as an adapter leaves them: bit by bit what PEFT's `merge_and_unload` makes in float32.

    plain, rsLoRA    W + (B·A)·s
    DoRA             (m / ‖W + (B·A)·s‖) per row, times W + (B·A)·s
    embedding        E + (B·A)ᵀ·s
    bias             b + B's bias·s
    whole            the adapter's own tensor
    tokens           the adapter's rows in place of some

Enters: rows `start` up to `stop` of the tensor before. Leaves: the same rows, float32. Each needs the same rows of the
adapter's tensors, and all of A, so that memory is bounded by A.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pumice.export.checkpoint.tensor_file import TensorInfo, check_values, read_rows, read_whole

LEAST_ROWS = 32
"""Products of fewer rows are computed by other kernels, whose last bits differ: so more are made, and cut."""
KEPT = 4
"""Whole tensors that stay in memory: threads read neighbouring slabs of the same matrix."""

Change = Callable[[Tensor, int, int], Tensor]
"""Rows start … stop of a tensor → the same rows, changed."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor of an adapter, and its name in its file."""

    name: str
    info: TensorInfo

    @property
    def shape(self) -> tuple[int, ...]:
        """As its file has it."""
        return self.info.shape

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows in float32. Raises CheckpointError where they are not finite, or the file has gone."""
        return self._checked(read_rows(self.info, start, stop))

    def whole(self) -> Tensor:
        """All of it; raises as `rows`."""
        return self._checked(read_whole(self.info))

    def _checked(self, tensor: Tensor) -> Tensor:
        check_values(tensor, self.name, self.info)
        return tensor.float()


class Kept:
    """The whole tensors that were read last."""

    def __init__(self) -> None:
        self._tensors: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def whole(self, stored: Stored) -> Tensor:
        """One of them, read where it has to be."""
        key = f"{stored.info.file}:{stored.name}"
        with self._lock:
            if key not in self._tensors:
                while len(self._tensors) >= KEPT:
                    self._tensors.popitem(last=False)
                self._tensors[key] = stored.whole()
            self._tensors.move_to_end(key)
            return self._tensors[key]


def add_product(a: Stored, b: Stored, scale: float, magnitude: Stored | None, kept: Kept) -> Change:
    """A matrix; with `magnitude` it is DoRA's."""

    def change(rows: Tensor, start: int, stop: int) -> Tensor:
        first, last = _widened(start, stop, b.shape[0])
        product = (b.rows(first, last) @ kept.whole(a))[start - first : stop - first]
        changed = rows.float() + product * scale
        if magnitude is None:
            return changed
        factor: Tensor = magnitude.rows(start, stop) / torch.linalg.norm(changed, dim=1)
        return factor.view(-1, 1) * changed

    return change


def add_embedding(a: Stored, b: Stored, scale: float, kept: Kept) -> Change:
    """An embedding table, whose A has a column for each token."""

    def change(rows: Tensor, start: int, stop: int) -> Tensor:
        first, last = _widened(start, stop, a.shape[1])
        product = kept.whole(b) @ kept.whole(a)[:, first:last]
        return rows.float() + (product.T[start - first : stop - first] * scale).contiguous()

    return change


def add_bias(bias: Stored, scale: float) -> Change:
    """A bias."""

    def change(rows: Tensor, start: int, stop: int) -> Tensor:
        return rows.float() + bias.rows(start, stop) * scale

    return change


def replace_whole(stored: Stored) -> Change:
    """Any tensor."""

    def change(_rows: Tensor, start: int, stop: int) -> Tensor:
        return stored.rows(start, stop)

    return change


def replace_tokens(stored: Stored, tokens: tuple[int, ...], kept: Kept) -> Change:
    """A table's rows of some tokens."""

    def change(rows: Tensor, start: int, stop: int) -> Tensor:
        changed = rows.float().clone()
        for place, token in enumerate(tokens):
            if start <= token < stop:
                changed[token - start] = kept.whole(stored)[place]
        return changed

    return change


def in_order(first: Change, second: Change) -> Change:
    """One after the other."""

    def change(rows: Tensor, start: int, stop: int) -> Tensor:
        return second(first(rows, start, stop), start, stop)

    return change


def _widened(start: int, stop: int, total: int) -> tuple[int, int]:
    """At least `LEAST_ROWS` rows around the given ones, where there are so many."""
    last = min(total, max(stop, start + LEAST_ROWS))
    return max(0, min(start, last - LEAST_ROWS)), last
