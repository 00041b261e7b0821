"""bitsandbytes' matrices of odd widths: rows that begin in the middle of a byte, and blocks that end in one of a row.

Oracle: the values of `tests.factory.quantised`, made as the format defines them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pumice.export.checkpoint.quantised import stored_matrices
from pumice.export.checkpoint.tensor_file import read_header
from tests.factory.quantised import table


@pytest.mark.parametrize(("block", "nested"), [(64, 0), (8, 0), (8, 3), (10, 2)])
@pytest.mark.parametrize("shape", [(9, 7), (5, 33), (4, 1), (3, 16)])
def test_rows_in_any_cut(shape: tuple[int, int], block: int, nested: int, tmp_path: Path) -> None:
    packing = table(block, nested=nested)
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(block))
    parts, expected = packing.pack(matrix)
    save_file({f"m.{name}": part.contiguous() for name, part in parts.items()}, tmp_path / "m.safetensors")
    tensors = read_header(tmp_path / "m.safetensors")
    whole, matrices = stored_matrices(tensors, {"quantization_config": packing.config})
    assert whole.keys() == matrices.keys() == {"m.weight"}
    assert whole["m.weight"].shape == shape
    for start in range(shape[0]):
        for stop in range(start, shape[0] + 1):
            assert torch.equal(matrices["m.weight"].rows(start, stop), expected[start:stop])
