"""A checkpoint's tensors in float32, by the names that transformers' modules have for them, a block of rows at a time.

Enters: a `Checkpoint`. Leaves: tensors, each read from disk when it is asked for.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from itertools import groupby
from math import prod

import torch
from torch import Tensor

from pumice.errors import CheckpointError
from pumice.export.checkpoint.folder import Checkpoint
from pumice.models.tensor_names import canonical_name

BLOCK_VALUES = 1 << 20
"""Values of a block: 4 MiB in float32, so that the allocator reuses what the one before leaves."""

TABLE, HEAD = "language_model.embed_tokens.weight", "lm_head.weight"


class FloatTensors:
    """Reads `checkpoint`; where `tied`, embedding table and head stand in for each other, as in transformers."""

    def __init__(self, checkpoint: Checkpoint, *, tied: bool) -> None:
        self._checkpoint = checkpoint
        self._names = dict(checkpoint.names)
        for missing, present in ((HEAD, TABLE), (TABLE, HEAD)) if tied else ():
            if missing not in self._names and present in self._names:
                self._names[missing] = self._names[present]

    def read(self, name: str, shape: torch.Size) -> Tensor:
        """The tensor that a module calls `name`, as float32 of its own.

        A vision tower's tensor may be missing: it lies behind the last layer that LLaVA reads, so that any value does.

        Raises:
            CheckpointError: another tensor is missing, or it has another shape than the module's.
        """
        canonical = canonical_name(name)
        if canonical not in self._names and canonical.startswith("vision_tower."):
            return torch.zeros(shape)
        stored = self._checked(canonical, shape)
        if not shape:
            return self._checkpoint.read(stored).to(torch.float32)
        whole = _pages(shape)
        for start, stop in self.blocks(shape):
            whole[start:stop] = self._checkpoint.read_rows(stored, start, stop)
        return whole

    def read_rows(self, name: str, shape: torch.Size, rows: Tensor) -> Tensor:
        """The given rows of a matrix, int64 [n] ascending and different, as float32 [n, width]. Raises as `read`."""
        stored = self._checked(canonical_name(name), shape)
        runs = groupby(enumerate(rows.tolist()), key=lambda pair: pair[1] - pair[0])
        numbers = [[row for _, row in run] for _, run in runs]
        parts = [self._checkpoint.read_rows(stored, run[0], run[-1] + 1) for run in numbers]
        return torch.cat(parts).to(torch.float32)

    @staticmethod
    def blocks(shape: torch.Size) -> Iterator[tuple[int, int]]:
        """First and last-but-one rows of blocks of about `BLOCK_VALUES` values."""
        rows = max(1, BLOCK_VALUES // max(1, prod(shape[1:])))
        for start in range(0, shape[0], rows):
            yield start, min(shape[0], start + rows)

    def _checked(self, canonical: str, shape: torch.Size) -> str:
        """The checkpoint's own name of a tensor."""
        stored = self._names.get(canonical)
        if stored is None:
            raise CheckpointError(
                f"{self._checkpoint.path} has no tensor {canonical}, which transformers reads"
            )
        found = self._checkpoint.tensors[stored].shape
        if found != tuple(shape):
            raise CheckpointError(
                f"{self._checkpoint.path}: tensor {stored} has shape {list(found)}, transformers expects {list(shape)}"
            )
        return stored


def _pages(shape: torch.Size) -> Tensor:
    """An uninitialised float32 tensor in pages of its own, which go back to the system at once when it is forgotten.

    The allocator would keep the holes that matrices of all sizes leave: 800 MB after a billion parameters.
    """
    nbytes = 4 * max(1, prod(shape))
    return torch.frombuffer(mmap.mmap(-1, nbytes), dtype=torch.float32)[: prod(shape)].view(shape)
