"""What docs/equality.md promises, by kind of bundle and way, and whether a measurement keeps it.

Enters: a manifest, and a `Difference`. Leaves: what is promised, and what is broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from bench.equality.difference import Difference
from bench.equality.ways import WAYS
from pumice.manifest import Manifest

Kind = Literal["float32", "float16", "8 bits", "4 bits"]
Promise = Literal["same bits", "same tokens", "near"]

ROUNDING = 1e-5
"""Of the largest logit: what float32 sums may differ by where greedy answers are promised to be the same."""
NEAR = 0.05
"""Mean KL in nats, where answers may differ."""

_ROWS = "answered together: lists, the engine"
_SEVERAL = ("a chat's next turn, not the conversation anew", "8 drafts verified at once")
"""Where one token is computed alone in one way, and with others in the other."""


def kind(manifest: Manifest) -> Kind:
    """What a bundle's decoder computes with; 8 bits in blocks above 64 hold what 4 bits do."""
    precision = manifest.precision
    if precision.bits is None:
        return "float32" if manifest.decoder.kv_dtype == "float32" else "float16"
    return "8 bits" if precision.bits >= 8 and (precision.block_size or 0) <= 64 else "4 bits"


def promised(kind: Kind, way: str) -> Promise:
    """What holds on every x86 processor with AVX2 or AVX-512, with no more threads than the model has heads."""
    if way in _SEVERAL:
        return "same tokens" if kind == "float32" else "near"
    return "near" if way == _ROWS and kind == "4 bits" else "same bits"


def holds(promise: Promise, found: Difference) -> bool:
    """Whether a measurement keeps a promise."""
    if promise == "same bits":
        return found.same_bits
    if promise == "same tokens":
        return found.same_tokens and found.relative <= ROUNDING
    return found.kl <= NEAR


def broken(manifest: Manifest, found: Mapping[str, Difference]) -> list[str]:
    """Promises that measurements of a bundle break, in words; `found` by way."""
    of = kind(manifest)
    return [
        f"{way}: promised {promised(of, way)} for {of}, found {difference}"
        for way, difference in found.items()
        if not holds(promised(of, way), difference)
    ]


def table() -> str:
    """The promises, as a table of Markdown."""
    kinds: tuple[Kind, ...] = ("float32", "8 bits", "4 bits", "float16")
    lines = [f"| | {' | '.join(kinds)} |", "|---|" + "---|" * len(kinds)]
    lines += [f"| {way} | {' | '.join(promised(of, way) for of in kinds)} |" for way in WAYS]
    return "\n".join(lines)
