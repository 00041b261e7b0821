"""Our torch modules with weights that are read a few rows at a time, when a product needs them.

Enters: a module class, the table of its parameters, and a reader of the checkpoint. Leaves: the module, ready to run in
float32 in the memory of its activations: of its matrices only `PIECE_VALUES` values are there at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from pumice.models.layers import Linear
from pumice.models.weights import Read, Weight, assemble, cut

Observe = Callable[[str, Tensor], None]
"""Told a matrix's parameter name and what is multiplied with it, float32 [..., K]."""

Module = TypeVar("Module", bound=nn.Module)


def streamed(
    build: Callable[[], Module], table: Mapping[str, Weight], read: Read, observe: Observe | None = None
) -> Module:
    """The module that `build` makes, with `table`'s weights: its `Linear`s stream theirs, all others are loaded.

    `observe` is called before every product.
    """
    with torch.device("meta"):
        module = build().eval()
    for name, linear in module.named_modules():
        if isinstance(linear, Linear):
            key = f"{name}.weight"
            linear.forward = _Product(key, linear, table[key], read, observe)  # type: ignore[method-assign]
    streaming = {f"{n}.weight" for n, m in module.named_modules() if isinstance(m, Linear)}
    for name, _ in list(module.named_parameters()):
        if name not in streaming:
            owner, _, leaf = name.rpartition(".")
            value = assemble(table[name], lambda source: _whole(source, table[name], read))  # noqa: B023
            setattr(module.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
    return module


def _whole(source: str, weight: Weight, read: Read) -> Tensor:
    shape = next(shape for name, shape in weight.sources if name == source)
    return read(source, 0, shape[0])


class _Product:
    """Stands in for `Linear.forward`."""

    def __init__(self, key: str, linear: Linear, weight: Weight, read: Read, observe: Observe | None) -> None:
        self._key, self._linear, self._weight, self._read, self._observe = key, linear, weight, read, observe

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., K] → [..., N]."""
        if self._observe is not None:
            self._observe(self._key, x)
        y, at = x.new_empty(*x.shape[:-1], self._weight.shape[1]), 0
        for source, start, stop, _ in cut(self._weight):
            y[..., at : at + stop - start] = x @ self._read(source, start, stop).float().T
            at += stop - start
        return y if self._linear.bias is None else y.add_(self._linear.bias)
