"""How a parameter of ours is made from a checkpoint's tensors: the rows of the table of names, and what reads them.

The table itself is in `pumice.models.vision_weights` and `pumice.models.text_weights`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["as_is", "transposed", "reshaped"]


@dataclass(frozen=True, kw_only=True)
class Weight:
    """How one parameter is made from tensors of the checkpoint.

    `sources` are canonical names with their shapes, joined along the first axis; `layout` then says whether the result
    is taken as it is, transposed (matrices are [out, in] in checkpoints, [in, out] here), or reshaped to `shape`.
    """

    sources: tuple[tuple[str, tuple[int, ...]], ...]
    shape: tuple[int, ...]
    layout: Layout = "as_is"


def assemble(weight: Weight, read: Callable[[str], Tensor]) -> Tensor:
    """One parameter as float32, contiguous; `read` gives a tensor by its canonical name."""
    parts = [read(name).to(torch.float32) for name, _ in weight.sources]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    del parts
    return (joined.T if weight.layout == "transposed" else joined.reshape(weight.shape)).contiguous()


def load_weights(module: torch.nn.Module, table: dict[str, Weight], read: Callable[[str], Tensor]) -> None:
    """Fill an eager module, for running and testing it in torch."""
    for name, value in module.named_parameters():
        value.data = assemble(table[name], read)


def plain(name: str, *shape: int) -> Weight:
    """A tensor as it stands."""
    return Weight(sources=((name, shape),), shape=shape)


def reshaped(name: str, stored: tuple[int, ...], shape: tuple[int, ...]) -> Weight:
    """A tensor in another shape."""
    return Weight(sources=((name, stored),), shape=shape, layout="reshaped")


def matrix(names: Iterable[str], rows: Iterable[int], columns: int) -> Weight:
    """Matrices [rows, columns] of checkpoints stacked, and transposed to [columns, all rows]."""
    sources = tuple((name, (count, columns)) for name, count in zip(names, rows, strict=True))
    return Weight(
        sources=sources, shape=(columns, sum(shape[0] for _, shape in sources)), layout="transposed"
    )


def stacked(names: Iterable[str], sizes: Iterable[int]) -> Weight:
    """Vectors one after the other."""
    sources = tuple((name, (size,)) for name, size in zip(names, sizes, strict=True))
    return Weight(sources=sources, shape=(sum(shape[0] for _, shape in sources),))


def linear(ours: str, theirs: str, size_in: int, size_out: int, bias: bool) -> dict[str, Weight]:
    """A linear layer's parameters."""
    table = {f"{ours}.weight": matrix([f"{theirs}.weight"], [size_out], size_in)}
    return table | ({f"{ours}.bias": plain(f"{theirs}.bias", size_out)} if bias else {})


def norm(ours: str, theirs: str, size: int) -> dict[str, Weight]:
    """A LayerNorm's parameters."""
    return {f"{ours}.{part}": plain(f"{theirs}.{part}", size) for part in ("weight", "bias")}


Read = Callable[[str, int, int], Tensor]
"""Rows start … stop of a checkpoint's tensor, by its canonical name. Is called by several threads at once."""

PIECE_VALUES = 1 << 19
"""Values that are read at a time: 2 MiB in float32."""


def cut(weight: Weight) -> Iterator[tuple[str, int, int, int]]:
    """Source, first row, last row but one, and values of each piece of a weight's tensors, one after the other."""
    for source, shape in weight.sources:
        width = math.prod(shape[1:])
        step = max(1, PIECE_VALUES // max(1, width))
        for start in range(0, shape[0], step):
            stop = min(start + step, shape[0])
            yield source, start, stop, (stop - start) * width
