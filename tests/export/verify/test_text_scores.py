"""Scores along a text: their definitions beside a plain computation, and that parts do not matter."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from pumice.export.verify import text_scores
from pumice.export.verify.text_scores import Scores, TextScore


def some(positions: int = 11, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    theirs = (5 * rng.normal(size=(positions, 50))).astype(np.float32)
    ours = theirs + rng.normal(size=theirs.shape).astype(np.float32)
    return theirs, ours, rng.integers(0, 50, positions)


def scored(*parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> TextScore:
    scores = Scores()
    for part in parts:
        scores.add(*part)
    return scores.score()


def test_figures_are_what_torch_makes_of_them() -> None:
    theirs, ours, ids = some()
    found = scored((theirs, ours, ids))
    p, q = (torch.from_numpy(x).double().log_softmax(-1) for x in (theirs, ours))
    kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    nll = torch.nn.functional.nll_loss
    expected = TextScore(
        positions=11,
        perplexity=float(nll(q, torch.from_numpy(ids)).exp()),
        reference_perplexity=float(nll(p, torch.from_numpy(ids)).exp()),
        kl=float(kl.mean()),
        kl_99=float(kl.quantile(0.99)),
        top1=float((p.argmax(-1) == q.argmax(-1)).double().mean()),
    )
    assert asdict(found) == pytest.approx(asdict(expected), rel=1e-12)
    assert 0 < found.top1 < 1
    assert found.perplexity != pytest.approx(found.reference_perplexity, rel=0.01)
    assert found.kl_99 > found.kl


def test_kl_is_from_the_reference() -> None:
    theirs, ours, ids = some()
    assert scored((theirs, ours, ids)).kl != pytest.approx(scored((ours, theirs, ids)).kl, rel=0.01)


def test_parts_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours, ids = some()
    whole = scored((theirs, ours, ids))
    monkeypatch.setattr(text_scores, "FLOAT64_VALUES", 100)
    parts = [(theirs[s], ours[s], ids[s]) for s in (slice(0, 4), slice(4, 5), slice(5, 5), slice(5, 11))]
    assert asdict(scored(*parts)) == pytest.approx(asdict(whole), rel=1e-12)
    several = []
    for part in parts:
        several.append(Scores())
        several[-1].add(*part)
    merged = Scores.merged(several)
    assert merged.positions == 11
    assert asdict(merged.score()) == pytest.approx(asdict(whole), rel=1e-12)
    assert several[1].score().positions == 1


def test_equal_logits_differ_by_nothing() -> None:
    theirs, _, ids = some()
    found = scored((theirs, theirs + np.float32(3), ids))
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert found.kl >= 0
    assert found.top1 == 1.0
    assert found.perplexity == pytest.approx(found.reference_perplexity)


def test_a_token_that_is_ruled_out_is_infinitely_surprising() -> None:
    theirs = np.array([[0.0, 2000.0]], np.float32)
    assert scored((theirs, theirs, np.array([0]))).perplexity == float("inf")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_that_are_not_finite_do_not_look_good() -> None:
    theirs, ours, ids = some()
    ours[3, 7] = np.nan
    found = scored((theirs, ours, ids))
    assert np.isnan([found.kl, found.kl_99, found.perplexity]).all()


def test_what_is_refused() -> None:
    theirs, ours, ids = some()
    for bad in ((theirs, ours[:-1], ids), (theirs, ours[:, :-1], ids), (theirs, ours, ids[:-1])):
        with pytest.raises(ValueError, match="expected the same"):
            Scores().add(*bad)
    with pytest.raises(ValueError, match="no position"):
        Scores().score()
