"""Figures of a comparison: their definitions, and that bad numbers do not look like good ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pumice.export import parity
from pumice.export.parity import Case, GraphError, LogitError, compare_answers, summarize


def test_figures() -> None:
    theirs = np.array([[0.0, 2.0], [3.0, 0.0]], np.float32)
    ours = np.array([[0.0, 2.5], [0.0, 1.0]], np.float32)
    error = LogitError.of(ours, [theirs])
    assert error.max == 3.0
    assert error.mean == pytest.approx(4.5 / 4)
    assert error.spread == pytest.approx(theirs.std())
    assert error.top1 == 0.5
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (theirs, ours))
    assert error.kl == pytest.approx((p * np.log(p / q)).sum(-1).mean())
    assert GraphError.of(theirs, theirs) == GraphError(max=0.0, mean=0.0, spread=float(theirs.std()))


def test_parts_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = (rng.normal(size=(11, 50)).astype(np.float32) for _ in range(2))
    whole = LogitError.of(ours, [theirs])
    monkeypatch.setattr(parity, "FLOAT64_VALUES", 100)
    parts = LogitError.of(ours, [theirs[:4], theirs[4:5], theirs[5:]])
    for name in ("max", "mean", "spread", "top1", "kl"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name)), name


def case(ours: np.ndarray, theirs: np.ndarray) -> Case:
    return Case(
        name="a",
        prompt_tokens=2,
        images=0,
        same_input_ids=True,
        same_pixel_values=True,
        vision_encoder=None,
        embedding=GraphError.of(theirs, theirs),
        decoder=LogitError.of(ours, [theirs]),
        expected_tokens=(1,),
        tokens=(1,),
        first_difference=None,
        input_differences=(),
    )


def test_what_passes() -> None:
    good = np.array([[0.0, 2.0]], np.float32)
    far = good + np.float32(0.5)
    assert summarize("fp32", [case(good, good)]).passed
    assert not summarize("fp32", [case(good, good), case(far, good)]).passed
    assert summarize("int4", [case(far, good)]).passed
    assert not summarize("int4", [replace(case(good, good), same_input_ids=False)]).passed
    assert not summarize("int4", [replace(case(good, good), same_pixel_values=False)]).passed
    assert not summarize("fp32", [replace(case(good, good), first_difference=0)]).passed


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_fail(bad: float) -> None:
    good = np.array([[0.0, 2.0], [1.0, 0.0]], np.float32)
    broken = good.copy()
    broken[0, 1] = bad
    for precision in ("fp32", "int4"):
        assert not summarize(precision, [case(good, good), case(broken, good), case(good, good)]).passed


def test_answers() -> None:
    assert compare_answers([5, 6, 7], [5, 6, 7], (), ()) == ((5, 6, 7), None)
    assert compare_answers([5, 6, 7], [5, 9, 7], (), ()) == ((5, 9), 1)
    assert compare_answers([5, 2], [5, 2], (2,), (2,)) == ((5, 2), None)
    assert compare_answers([5, 2, 7], [5, 2, 7], (3,), (2,)) == ((5, 2), 2)
    assert compare_answers([5, 2], [5, 2], (2,), (3,)) == ((5, 2), 2)
    assert compare_answers([5, 2], [5, 2], (2,), ()) == ((5, 2), 2)
