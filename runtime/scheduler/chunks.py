"""Where a prompt is cut into runs of the decoder, so that its numbers do not tell where.

Enters: how many tokens there are, how many are cached, and how long a chunk may be. Leaves: where a run begins and
ends.

ONNX Runtime computes a token alone by other kernels than several, and the last bits of its numbers differ: so does
attention, also for a last row that its blocks (multiples of 32 rows) leave over, and products with 4-bit weights in
blocks of 64 or more, which take rows in pairs. So runs begin at even places, and the last one has 3 tokens or more over
a multiple of 32, or none; 3 because a prefill graph takes all but the last. docs/equality.md has what was measured.
"""

from __future__ import annotations

_BLOCK = 32
_FEWEST = 3


def resumed(held: int, length: int) -> int:
    """Where prefill of `length` tokens goes on, of which `held` are there: not behind them, nor at its end."""
    start = min(held, max(0, length - _FEWEST)) // 2 * 2
    return start - 2 if start and _over(length - start) else start


def run_end(start: int, length: int, size: int) -> int:
    """Where the run ends that begins at `start` in a prompt of `length` tokens, and has `size` at most."""
    rest = length - start
    if rest > size:
        return start + size - (2 if 0 < rest - size < _FEWEST else 0)
    return length - _over(rest) - 2 if rest >= _FEWEST and _over(rest) else length


def _over(tokens: int) -> int:
    """How many tokens are left over where they are too few, 1 or 2; else 0."""
    over = tokens % _BLOCK
    return over if over < _FEWEST else 0
