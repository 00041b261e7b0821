"""Scales by search: among some, the one whose block is nearest to the weights it stands for.

Near is what Σ w·(s·(q − z) − x)² says, with an importance w = x² + mean of x² in the block: large weights matter more.
For given integers the best scale follows by least squares,

    s = Σ w·x·(q − z) / Σ w·(q − z)²        and what remains is        Σ w·x² − (Σ w·x·(q − z))² / Σ w·(q − z)²

so each candidate is rounded once, and the one with the largest subtrahend wins. (llama.cpp calls its formats that do
alike k-quants.) About eight times as slow as taking the range.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

TIGHTER = (-0.05, 0.0, 0.05, 0.1)
"""By which fractions a candidate's range is narrower than the block's: what lies outside is clipped."""


def search_symmetric(groups: Tensor, bits: int) -> Tensor:
    """Scales [rows, blocks] of float32 blocks [rows, blocks, block size]; the largest value at either end."""
    half = 1 << bits - 1
    largest, smallest = groups.amax(2), groups.amin(2)
    extreme = torch.where(largest > -smallest, largest, smallest)
    ends = [(-half, tighter) for tighter in TIGHTER] + [(half - 1, tighter) for tighter in TIGHTER]
    candidates = ((extreme * ((1 - tighter) / end), None) for end, tighter in ends)
    return _best(groups, candidates, -half, half - 1)[0]


def search_asymmetric(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scales and zero points, both float32 [rows, blocks]."""
    top = (1 << bits) - 1
    largest, smallest = groups.amax(2).clamp_(min=0), groups.amin(2).clamp_(max=0)
    span = (largest - smallest) / top

    def candidates() -> Iterable[tuple[Tensor, Tensor | None]]:
        for tighter in TIGHTER:
            scale = span * (1 - tighter)
            zero = torch.where(scale == 0, 0.0, -smallest * (1 - tighter) / scale)
            yield scale, zero.round_().clamp_(0, top)

    scales, zeros = _best(groups, candidates(), 0, top)
    assert zeros is not None
    return scales, zeros


def _best(
    groups: Tensor, candidates: Iterable[tuple[Tensor, Tensor | None]], low: int, high: int
) -> tuple[Tensor, Tensor | None]:
    """Of candidates (scale, zero point), both [rows, blocks], the best in each block, with its refined scale.

    A zero point that is always 0 is None. The large intermediates have one place each: fresh memory would be cleared by
    the system again and again.
    """
    squares = groups.square()
    importance = squares.add_(squares.mean(2, keepdim=True))
    weighted = importance * groups
    q, product = torch.empty_like(groups), torch.empty_like(groups)
    gains = scales = zeros = None
    for scale, zero in candidates:
        torch.div(groups, torch.where(scale == 0, 1.0, scale)[:, :, None], out=q).round_()
        if zero is None:
            q.clamp_(low, high)
        else:
            q.add_(zero[:, :, None]).clamp_(low, high).sub_(zero[:, :, None])
        along = torch.mul(weighted, q, out=product).sum(2)
        square = q.square_().mul_(importance).sum(2)
        refined = torch.where(square == 0, scale, along / square)
        gain = refined * along
        if gains is None or scales is None:
            gains, scales, zeros = gain, refined, zero
            continue
        better = gain > gains
        gains, scales = torch.where(better, gain, gains), torch.where(better, refined, scales)
        if zero is not None and zeros is not None:
            zeros = torch.where(better, zero, zeros)
    assert scales is not None
    return scales, zeros
