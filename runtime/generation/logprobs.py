"""How likely the chosen token was, and which were likelier.

Enters: logits as the model gave them, before any option. Leaves: natural logarithms of probabilities.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pumice.result import TokenLogprob, TokenLogprobs

Floats = NDArray[np.float32]


def top_logprobs(logits_V: Floats, token_id: int, top: int, text: Callable[[int], str]) -> TokenLogprobs:
    """The log-probability of `token_id`, and of the `top` likeliest tokens, of equals those with lower ids first.

    `logits_V` has shape (vocabulary,); `text` gives a token's text. Computed in float64.
    """
    highest = float(logits_V.max())
    total = highest + float(np.log(np.exp(logits_V.astype(np.float64) - highest).sum()))

    def entry(i: int) -> TokenLogprob:
        return TokenLogprob(token_id=i, token=text(i), logprob=float(logits_V[i]) - total)

    chosen = entry(token_id)
    return TokenLogprobs(
        token_id=token_id,
        token=chosen.token,
        logprob=chosen.logprob,
        top=tuple(entry(i) for i in _likeliest(logits_V, top)),
    )


def _likeliest(logits_V: Floats, top: int) -> list[int]:
    """Ids of the `top` highest logits, highest first."""
    top = min(top, len(logits_V))
    if top == 0:
        return []
    lowest = np.partition(logits_V, -top)[-top]  # argpartition would take any of those that equal it
    ids = np.flatnonzero(logits_V >= lowest)
    ordered: list[int] = ids[np.argsort(-logits_V[ids], kind="stable")][:top].tolist()
    return ordered
