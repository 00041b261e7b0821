"""Images cut into tiles, and their features joined again: anyres, bit for bit as transformers does it.

Enters: what resizes an image, or the features of its tiles, and a `Tiles`. Leaves: uint8 arrays of one size, or the
features that stand for the image.

    image ─resize─▶ [t, t, 3]                                       the whole, stretched
          ─fit─▶ black borders ─cut─▶ rows × columns of [t, t, 3]   tiles, row by row

    features of the whole, [n², D] ─┐
    of the tiles, on one grid ─borders off─▶ [H, W, D], a newline behind each of H lines ─┴▶ [n² + H·(W + 1), D]

LLaVA-OneVision shrinks a large grid, without its borders, before the newlines come (`images/shrink.py`).

Sizes are (height, width). Formulas: transformers' `image_processing_utils.select_best_resolution` and
`get_patch_output_size`, and `modeling_llava_next.unpad_image` and `pack_image_features`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pumice.images.shrink import shrunk_lines
from pumice.manifest import Tiles

Size = tuple[int, int]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def grid_of(layout: Tiles, size: Size) -> Size:
    """(rows, columns) of the tiles that an image of `size` is cut into.

    It is the grid in which most of the image's pixels are kept; of those alike, the one with the least border, and of
    those the first.
    """
    height, width = size
    best, most, least = layout.grids[0], -1, 0
    for grid, (target_height, target_width) in zip(layout.grids, layout.pinpoints, strict=True):
        scale = min(target_width / width, target_height / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        border = target_height * target_width - kept
        if kept > most or (kept == most and border < least):
            best, most, least = grid, kept, border
    return best


def lines_of(layout: Tiles, size: Size) -> Size:
    """(lines, features in each) of an image's tiles, of which either may be 0 for a very thin image."""
    return layout.shrunk(*_covered(layout, size))


def _covered(layout: Tiles, size: Size) -> Size:
    """(lines, features in each) of an image's tiles without their borders, before they are shrunk."""
    top, left = _border(layout, size)
    rows, columns = grid_of(layout, size)
    return rows * layout.side - 2 * top, columns * layout.side - 2 * left


def is_lost(layout: Tiles, size: Size) -> bool:
    """Whether shrinking leaves nothing of an image's tiles: transformers fails there."""
    return 0 in lines_of(layout, size) and 0 not in _covered(layout, size)


def feature_count(layout: Tiles, size: Size) -> int:
    """Rows of features of an image of `size`."""
    lines, width = lines_of(layout, size)
    return layout.side**2 + lines * (width + 1)


def cut(layout: Tiles, size: Size, resize: Callable[[Size], Bytes]) -> Iterator[Bytes]:
    """The whole image and its tiles, uint8 [height, width, 3] each; `resize` gives the image of `size` in another."""
    tile_height, tile_width = layout.size
    yield resize(layout.size)
    rows, columns = grid_of(layout, size)
    fitted_HWC = _fitted(size, (rows * tile_height, columns * tile_width), resize)
    for row in range(rows):
        for column in range(columns):
            top, left = row * tile_height, column * tile_width
            yield fitted_HWC[top : top + tile_height, left : left + tile_width]


def join(layout: Tiles, size: Size, parts: Sequence[Floats]) -> Floats:
    """The features of an image of `size`, float32 [T, D], of those of its arrays: whole and tiles.

    Each is [n² + 1, D], the newline last; what the encoder may have put before that is of videos alone.
    """
    lines, width = lines_of(layout, size)
    whole, newline_D = parts[0][: layout.side**2], parts[0][-1]
    features = np.empty((len(whole) + lines * (width + 1), len(newline_D)), np.float32)
    features[: len(whole)] = whole
    lines_LWD = features[len(whole) :].reshape(lines, width + 1, len(newline_D))
    lines_LWD[:, width] = newline_D
    if (lines, width) == _covered(layout, size):
        _lay(layout, size, parts[1:], lines_LWD[:, :width])
    else:
        covered = _covered(layout, size)
        shrunk_lines(lambda line: _line(layout, size, parts[1:], line), covered, lines_LWD[:, :width])
    return features


def _line(layout: Tiles, size: Size, parts: Sequence[Floats], line: int) -> Floats:
    """A line of the tiles' features without their borders, [W, D]."""
    side, (_, columns), (top, left) = layout.side, grid_of(layout, size), _border(layout, size)
    grid_row, row = divmod(top + line, side)
    tiles = parts[grid_row * columns : (grid_row + 1) * columns]
    whole_WD = np.concatenate([part[row * side : (row + 1) * side] for part in tiles])
    return whole_WD[left : left + _covered(layout, size)[1]]


def _lay(layout: Tiles, size: Size, parts: Sequence[Floats], lines_LWD: Floats) -> None:
    """Write the tiles' features, without their borders, into [L, W, D]."""
    side, (rows, columns) = layout.side, grid_of(layout, size)
    (top, left), (lines, width, depth) = _border(layout, size), lines_LWD.shape
    for number, part in enumerate(parts[: rows * columns]):
        grid_row, grid_column = divmod(number, columns)
        above, before = grid_row * side - top, grid_column * side - left
        kept_rows = slice(max(0, -above), min(side, lines - above))
        kept_columns = slice(max(0, -before), min(side, width - before))
        if kept_rows.start < kept_rows.stop and kept_columns.start < kept_columns.stop:
            tile_HWD = part[: side**2].reshape(side, side, depth)[kept_rows, kept_columns]
            lines_LWD[
                above + kept_rows.start : above + kept_rows.stop,
                before + kept_columns.start : before + kept_columns.stop,
            ] = tile_HWD


def _border(layout: Tiles, size: Size) -> Size:
    """Lines above, and features left of, what an image covers of its grid; as many lie below and right of it."""
    height, width = size
    rows, columns = grid_of(layout, size)
    lines, line_width = rows * layout.side, columns * layout.side
    if width / height > line_width / lines:
        return (lines - int(round(height * (line_width / width), 7))) // 2, 0
    return 0, (line_width - int(round(width * (lines / height), 7))) // 2


def _fitted(size: Size, target: Size, resize: Callable[[Size], Bytes]) -> Bytes:
    """The image as large as fits `target`, in its middle, on black; an odd line of border goes below and right."""
    height, width = _scaled(size, target)
    top, left = (target[0] - height) // 2, (target[1] - width) // 2
    fitted_HWC = np.zeros((*target, 3), np.uint8)
    fitted_HWC[top : top + height, left : left + width] = resize((height, width))
    return fitted_HWC


def _scaled(size: Size, target: Size) -> Size:
    height, width = size
    across, down = target[1] / width, target[0] / height
    if across < down:
        return min(math.ceil(height * across), target[0]), target[1]
    return target[0], min(math.ceil(width * down), target[1])
