"""Verdicts: what is sound, and that what is not is never called so."""

from __future__ import annotations

from itertools import pairwise
from math import inf, nan
from typing import Any

import pytest

from pumice.export.verify.verdict import BANDS, Verdict, band_of, fp32_bound, judge

SOUND = {"same_inputs": True, "finite": True, "same_tokens": True, "within_bound": True, "kl": 0.0}


def judged(*, float32: bool, **changes: Any) -> Verdict:
    return judge(float32=float32, **{**SOUND, **changes})


@pytest.mark.parametrize(
    ("kl", "word", "sound"),
    [
        (0.0, "near", True),
        (0.0148, "near", True),
        (0.02, "usable with care", True),
        (0.356, "usable with care", True),
        (0.5, "not usable", False),
        (0.743, "not usable", False),
        (inf, "not usable", False),
        (nan, "not usable", False),
    ],
)
def test_other_precisions_are_judged_by_kl(kl: float, word: str, sound: bool) -> None:
    found = judged(float32=False, kl=kl, same_tokens=False, within_bound=False)
    assert (found.word, found.sound) == (word, sound)
    assert found.meaning


def test_bands_go_on_to_infinity() -> None:
    assert all(a.below < b.below for a, b in pairwise(BANDS))
    assert BANDS[-1].below == inf
    assert band_of(0.05) is not band_of(0.3)


def test_float32_is_held_to_its_logits_and_tokens() -> None:
    assert judged(float32=True) == judged(float32=True, kl=9.0)
    assert (judged(float32=True).word, judged(float32=True).sound) == ("exact", True)
    for name in ("same_tokens", "within_bound", "same_inputs"):
        found = judged(float32=True, **{name: False})
        assert (found.word, found.sound) == ("differs", False)


@pytest.mark.parametrize("float32", [True, False])
def test_inputs_must_be_the_same_and_logits_finite(float32: bool) -> None:
    assert judged(float32=float32, same_inputs=False).word == "differs"
    assert not judged(float32=float32, same_inputs=False).sound
    assert judged(float32=float32, finite=False).word == "not usable"
    assert not judged(float32=float32, finite=False).sound


def test_the_bound_grows_with_the_logits() -> None:
    assert fp32_bound(40) > 2 * 2.4e-4  # what a sound model of 135M shows there, doubled
    assert fp32_bound(10) == pytest.approx(2e-4)
    assert fp32_bound(26.8) < 6.4e-4  # an epsilon of 1e-6 for 1e-5 in pebble
    assert fp32_bound(0.1) == fp32_bound(0.0) == 2e-5
