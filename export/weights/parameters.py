"""A graph's parameters, made from a checkpoint's tensors a few rows at a time: cast, transposed, or quantised.

Enters: a `Weight` and a reader of rows. Leaves: a `Parameter`, whose pieces can be made in any order and by any thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from pumice.errors import CheckpointError
from pumice.export.recipes.recipe import Storage
from pumice.export.weights.error_feedback import Inputs, inputs_of
from pumice.export.weights.quantization import quantize_outputs, quantize_rows, quantized_names
from pumice.models.weights import PIECE_VALUES, Read, Weight, cut

_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The next rows of each of a parameter's initializers, in their order; making them takes about `nbytes`."""

    nbytes: int
    make: Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One initializer or several, and the pieces whose bytes, one after the other, are theirs.

    `prepare` is called by the thread that writes, before the first piece is made; `release` when all are written.
    """

    names: tuple[str, ...]
    pieces: tuple[Piece, ...]
    prepare: Callable[[], None] = field(default=lambda: None)
    release: Callable[[], None] = field(default=lambda: None)


class KnownInputs:
    """What is known of a matrix's input, from `prepare` to `release`."""

    def __init__(self, moments: Callable[[], Tensor]) -> None:
        self._moments = moments
        self.inputs: Inputs | None = None

    def prepare(self) -> None:
        """Find it."""
        self.inputs = inputs_of(self._moments())

    def release(self) -> None:
        """Forget it: with feedback it is as large as the matrix."""
        self.inputs = None


def float_parameter(name: str, weight: Weight, read: Read, dtype: torch.dtype) -> Parameter:
    """A parameter stored as `dtype`. Of a transposed matrix each row needs the whole tensor, which is one piece."""
    if weight.layout == "transposed":
        nbytes = math.prod(weight.shape) * dtype.itemsize + 8 * PIECE_VALUES
        pieces = [Piece(nbytes=nbytes, make=partial(_transposed, weight, read, dtype))]
    else:
        pieces = [
            Piece(nbytes=8 * count, make=partial(_rows, source, start, stop, read, dtype))
            for source, start, stop, count in cut(weight)
        ]
    return Parameter(names=(name,), pieces=tuple(pieces))


def quantized_parameter(
    name: str,
    weight: Weight,
    read: Read,
    storage: Storage,
    dtype: torch.dtype,
    known: KnownInputs | None = None,
) -> Parameter:
    """A matrix stored in blocks with scales of `dtype`; rows are outputs, whatever the parameter's layout."""
    pieces = tuple(
        Piece(nbytes=8 * count, make=partial(_blocks, source, start, stop, read, storage, dtype, known))
        for source, start, stop, count in cut(weight)
    )
    names = quantized_names(name, storage)
    if known is None:
        return Parameter(names=names, pieces=pieces)
    return Parameter(names=names, pieces=pieces, prepare=known.prepare, release=known.release)


def integer_parameter(name: str, weight: Weight, read: Read) -> Parameter:
    """A matrix as int8 [in, out] with one scale a column, in one piece: each row needs the whole tensor."""
    nbytes = math.prod(weight.shape) + 8 * PIECE_VALUES
    return Parameter(
        names=(f"{name}.int8", f"{name}.scale"),
        pieces=(Piece(nbytes=nbytes, make=partial(_columns, weight, read)),),
    )


def constant_parameter(name: str, tensor: Tensor) -> Parameter:
    """A parameter that is computed rather than read."""
    return Parameter(names=(name,), pieces=(Piece(nbytes=tensor.nbytes, make=lambda: (tensor,)),))


def _rows(source: str, start: int, stop: int, read: Read, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return (_cast(read(source, start, stop), source, dtype),)


def _transposed(weight: Weight, read: Read, dtype: torch.dtype) -> tuple[Tensor, ...]:
    whole = torch.empty(weight.shape, dtype=dtype)
    at = 0
    for source, start, stop, _ in cut(weight):
        rows = read(source, start, stop)
        check_range(rows, source, dtype)
        # Turned in a copy of its own: torch does that in tiles, and four times as quickly as into a part of `whole`.
        whole[:, at : at + stop - start] = rows.T.contiguous()
        at += stop - start
    return (whole,)


def _blocks(
    source: str,
    start: int,
    stop: int,
    read: Read,
    storage: Storage,
    dtype: torch.dtype,
    known: KnownInputs | None,
) -> tuple[Tensor, ...]:
    rows = read(source, start, stop)
    check_range(rows, source, dtype)
    blocks = quantize_rows(rows, storage, dtype, None if known is None else known.inputs)
    if not blocks.scales.isfinite().all():
        raise _not_finite(source)
    zero_points = () if blocks.zero_points is None else (blocks.zero_points,)
    return blocks.packed, blocks.scales, *zero_points


def _columns(weight: Weight, read: Read) -> tuple[Tensor, ...]:
    assert weight.layout == "transposed"
    whole, scales = torch.empty(weight.shape, dtype=torch.int8), []
    at = 0
    for source, start, stop, _ in cut(weight):
        q, scale = quantize_outputs(read(source, start, stop))
        if not scale.isfinite().all():
            raise _not_finite(source)
        whole[:, at : at + stop - start] = q.T.contiguous()
        scales.append(scale)
        at += stop - start
    return whole, torch.cat(scales)


def _not_finite(source: str) -> CheckpointError:
    return CheckpointError(f"tensor {source} has weights that are NaN or infinite: download it again")


def _cast(rows: Tensor, source: str, dtype: torch.dtype) -> Tensor:
    check_range(rows, source, dtype)
    return rows.to(dtype)


def check_range(rows: Tensor, source: str, dtype: torch.dtype) -> None:
    """Refuse what float16 would make infinite."""
    if dtype != torch.float16 or rows.dtype == torch.float16 or not rows.numel():
        return
    largest = max(float(rows.amax()), -float(rows.amin()))
    if _LARGEST < largest < math.inf:
        raise CheckpointError(
            f"tensor {source} has a weight of {largest:.4g}, float16 ends at {_LARGEST:.0f}: "
            "export with --precision fp32 or bf16"
        )
