"""Scales by search: among some, the one whose block is nearest to the weights it stands for.

Near is what Σ w·(s·(q − z) − x)² says. The importance w is what the input channel carries, E[activation²], where that
is known (`pumice.export.calibration.moments`): the sum then is the error of the product. Where it is not, w = x² + mean
of x² in the block: large weights matter more. For given integers the best scale follows by least squares,

    s = Σ w·x·(q − z) / Σ w·(q − z)²        and what remains is        Σ w·x² − (Σ w·x·(q − z))² / Σ w·(q − z)²

so each candidate is rounded once, and the one with the largest subtrahend wins. (llama.cpp calls its formats that do
alike k-quants.) About eight times as slow as taking the range.

With known importances candidates are also wider than the range, and each is refined and rounded a second time.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

TIGHTER = (-0.05, 0.0, 0.05, 0.1)
"""By which fractions a candidate's range is narrower than the block's: what lies outside is clipped."""
TIGHTER_BY_IMPORTANCE = (-0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
"""The same where importances are known: what lies outside may be what no activation meets."""


def search_symmetric(groups: Tensor, bits: int, importance: Tensor | None = None) -> Tensor:
    """Scales [rows, blocks] of float32 blocks [rows, blocks, block size]; the largest value at either end.

    `importance` [blocks, block size] of the input channels, where it is known.
    """
    half = 1 << bits - 1
    largest, smallest = groups.amax(2), groups.amin(2)
    extreme = torch.where(largest > -smallest, largest, smallest)
    tighter = TIGHTER if importance is None else TIGHTER_BY_IMPORTANCE
    ends = [(end, part) for end in (-half, half - 1) for part in tighter]
    candidates = ((extreme * ((1 - part) / end), None) for end, part in ends)
    return _best(groups, candidates, -half, half - 1, importance)[0]


def search_asymmetric(groups: Tensor, bits: int, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scales and zero points, both float32 [rows, blocks]; `importance` as in `search_symmetric`."""
    top = (1 << bits) - 1
    largest, smallest = groups.amax(2).clamp_(min=0), groups.amin(2).clamp_(max=0)
    span = (largest - smallest) / top

    def candidates() -> Iterable[tuple[Tensor, Tensor | None]]:
        for tighter in TIGHTER if importance is None else TIGHTER_BY_IMPORTANCE:
            scale = span * (1 - tighter)
            zero = torch.where(scale == 0, 0.0, -smallest * (1 - tighter) / scale)
            yield scale, zero.round_().clamp_(0, top)

    scales, zeros = _best(groups, candidates(), 0, top, importance)
    assert zeros is not None
    return scales, zeros


def _best(
    groups: Tensor,
    candidates: Iterable[tuple[Tensor, Tensor | None]],
    low: int,
    high: int,
    importance: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Of candidates (scale, zero point), both [rows, blocks], the best in each block, with its refined scale.

    A zero point that is always 0 is None. The large intermediates have one place each: fresh memory would be cleared by
    the system again and again.
    """
    rounds = 1 if importance is None else 2
    if importance is None:
        squares = groups.square()
        importance = squares.add_(squares.mean(2, keepdim=True))
    weighted = importance * groups
    q, product = torch.empty_like(groups), torch.empty_like(groups)
    gains = scales = zeros = None
    for scale, zero in candidates:
        for _ in range(rounds):
            torch.div(groups, torch.where(scale == 0, 1.0, scale)[:, :, None], out=q).round_()
            if zero is None:
                q.clamp_(low, high)
            else:
                q.add_(zero[:, :, None]).clamp_(low, high).sub_(zero[:, :, None])
            along = torch.mul(weighted, q, out=product).sum(2)
            square = q.square_().mul_(importance).sum(2)
            refined = torch.where(square == 0, scale, along / square)
            gain = refined * along
            scale = refined
            if gains is None or scales is None:
                gains, scales, zeros = gain, refined, zero
                continue
            better = gain > gains
            gains, scales = torch.where(better, gain, gains), torch.where(better, refined, scales)
            if zero is not None and zeros is not None:
                zeros = torch.where(better, zero, zeros)
    assert scales is not None
    return scales, zeros
