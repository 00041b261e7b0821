"""A matrix in 8-bit numbers with scales beside it: by tensor, by row, by group of columns, or by blocks of both.

Enters: where numbers and scales lie. Leaves: float32 rows, number × scale, a few at a time. Formulas: transformers'
`Fp8Dequantize`, compressed-tensors' `dequantize`; both round the product to the model's dtype, which is not done here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from pumice.errors import CheckpointError
from pumice.export.checkpoint.tensor_file import DTYPES, TensorInfo, read_rows

KINDS = {"F8_E4M3": "float8_e4m3fn", "I8": "int8"}
"""safetensors' names of such numbers' dtypes, and torch's."""
A_127TH = 7.874015718698502e-3
"""As bitsandbytes' `int8_vectorwise_dequant` writes it."""


@dataclass(frozen=True, kw_only=True)
class ScaledMatrix:
    """`scales` [n, m], each of `block` rows × columns of `numbers`; the last blocks may be cut off.

    Products are times `factor`.
    """

    numbers: TensorInfo
    scales: TensorInfo
    block: tuple[int, int]
    factor: float = 1.0

    @property
    def kind(self) -> str:
        """Of a stored number, as the manifest says it."""
        return KINDS[self.numbers.dtype]

    @property
    def info(self) -> TensorInfo:
        """Where most of it is, with the whole's shape."""
        return self.numbers

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` up to `stop`, float32."""
        high, wide = self.block
        above = start // high
        scales = read_rows(self.scales, above, -(-stop // high)).float()
        scales = scales.repeat_interleave(high, 0)[start - above * high : stop - above * high]
        if scales.shape[1] > 1:
            scales = scales.repeat_interleave(wide, 1)[:, : self.numbers.shape[1]]
        return read_rows(self.numbers, start, stop).float().mul_(scales).mul_(self.factor)


def scaled_matrix(
    name: str, numbers: TensorInfo, scales: TensorInfo, block: tuple[int, int] | None
) -> ScaledMatrix:
    """What the tensor `name` and its scales are; `block` is what the config says, if it does.

    Raises:
        CheckpointError: scales that do not fit the matrix.
    """
    if len(numbers.shape) != 2:
        raise CheckpointError(f"{numbers.file}: tensor {name!r} is {numbers.dtype} and no matrix: {_WANTED}")
    if scales.dtype not in DTYPES:
        raise CheckpointError(f"{scales.file}: the scales of {name!r} are {scales.dtype}: {_WANTED}")
    grid = scales.shape if len(scales.shape) == 2 else (*scales.shape, 1, 1)[:2]
    rows, columns = numbers.shape
    if len(scales.shape) > 2 or not all(grid) or not rows or not columns:
        raise _unfit(name, numbers, scales)
    if block is not None and grid == (-(-rows // block[0]), -(-columns // block[1])):
        size = block
    elif rows % grid[0] or columns % grid[1]:
        raise _unfit(name, numbers, scales)
    else:
        size = (rows // grid[0], columns // grid[1])
    return ScaledMatrix(numbers=numbers, scales=replace(scales, shape=grid), block=size)


_WANTED = "expected float16, bfloat16 or float32 scales of a matrix's tensor, rows or blocks"


def _unfit(name: str, numbers: TensorInfo, scales: TensorInfo) -> CheckpointError:
    return CheckpointError(
        f"{scales.file}: the scales of {name!r} {list(numbers.shape)} have shape {list(scales.shape)}: {_WANTED}"
    )
