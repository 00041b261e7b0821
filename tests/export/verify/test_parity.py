"""Figures of a comparison: their definitions, and that bad numbers do not look like good ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pumice.export.verify import parity
from pumice.export.verify.parity import (
    Case,
    GraphError,
    LogitError,
    Report,
    TextCase,
    compare_answers,
    summarize,
)
from pumice.export.verify.parity_table import markdown, text_table
from pumice.export.verify.text_scores import TextScore


def test_figures() -> None:
    theirs = np.array([[0.0, 2.0], [3.0, 0.0]], np.float32)
    ours = np.array([[0.0, 2.5], [0.0, 1.0]], np.float32)
    error = LogitError.of(ours, [theirs])
    assert error.max == 3.0
    assert error.mean == pytest.approx(4.5 / 4)
    assert error.spread == pytest.approx(theirs.std())
    assert error.largest == 3.0
    assert error.top1 == 0.5
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (theirs, ours))
    kl = (p * np.log(p / q)).sum(-1)
    assert error.kl == pytest.approx(kl.mean())
    assert error.kl_99 == pytest.approx(np.percentile(kl, 99))
    assert GraphError.of(theirs, theirs) == GraphError(max=0.0, mean=0.0, spread=float(theirs.std()))


def test_parts_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = (rng.normal(size=(11, 50)).astype(np.float32) for _ in range(2))
    whole = LogitError.of(ours, [theirs])
    monkeypatch.setattr(parity, "FLOAT64_VALUES", 100)
    parts = LogitError.of(ours, [theirs[:4], theirs[4:5], theirs[5:]])
    for name in ("max", "mean", "spread", "largest", "top1", "kl", "kl_99"):
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


def test_the_bound_of_float32_is_each_case_own() -> None:
    """3e-4 is what rounding makes of logits of 40, and a mistake where they are about 2."""
    small, large = np.array([[0.0, 2.0]], np.float32), np.array([[0.0, 40.0]], np.float32)
    error = np.array([[3e-4, 0.0]], np.float32)
    assert summarize("fp32", [case(large + error, large), case(small, small)]).passed
    assert not summarize("fp32", [case(large, large), case(small + error, small)]).passed
    assert summarize("int8", [case(large, large), case(small + error, small)]).passed


def text(kl: float, logits_max: float = 1.0) -> TextCase:
    score = TextScore(
        positions=1234, perplexity=13.67, reference_perplexity=13.46, kl=kl, kl_99=3 * kl, top1=0.934
    )
    return TextCase(name="a.txt", score=score, logits_max=logits_max, largest=40.0)


def test_texts_decide_where_there_are_any() -> None:
    good = np.array([[0.0, 2.0]], np.float32)
    bad = np.array([[3.0, 0.0]], np.float32)
    by_prompts = summarize("int4", [case(bad, good)], built_in=True)
    assert (by_prompts.verdict, by_prompts.passed) == ("not usable", False)
    assert (by_prompts.judged_by, by_prompts.text) == ("built-in prompts", None)
    assert summarize("int4", [case(bad, good)]).judged_by == "prompts"
    by_text = summarize("int4", [case(bad, good)], text(0.0148), built_in=True)
    assert (by_text.verdict, by_text.passed, by_text.judged_by) == ("near", True, "texts")
    assert by_text.text == text(0.0148).score
    assert not summarize("int4", [case(good, good)], text(0.743)).passed
    assert summarize("fp32", [case(good, good)], text(0.0, 3e-4)).passed
    assert not summarize("fp32", [case(good, good)], text(0.0, 1e-3)).passed
    assert not summarize("int4", [case(good, good)], text(0.0, float("nan"))).passed


def report(precision: str, ours: np.ndarray, texts: tuple[TextCase, ...] = ()) -> Report:
    cases = [case(ours, np.array([[0.0, 2.0]], np.float32))]
    together = replace(texts[0], name="all") if texts else None
    return Report(
        precision=precision,
        checkpoint="a/b",
        versions={"pumice": "0"},
        summary=summarize(precision, cases, together, built_in=True),
        cases=tuple(cases),
        texts=texts,
        text=together,
    )


def test_tables_say_what_was_judged_and_by_what() -> None:
    good, bad = np.array([[0.0, 2.0]], np.float32), np.array([[3.0, 0.0]], np.float32)
    for write in (text_table, markdown):
        exact = write(report("fp32", good))
        assert "passed: 1 of 1 prompts generate the same tokens" in exact
        assert "built-in" not in exact
        assert "FAILED: logits differ by more than rounding explains; 1 of 1" in write(report("fp32", bad))
        alone = write(report("int4", bad))
        assert "NOT USABLE: text falls apart" in alone
        assert "passed" not in alone
        assert "give --text FILE" in alone
        scored = write(report("int4", bad, (text(0.0148),)))
        assert "near: answers are float32's, but" in scored
        assert "perplexity 13.67 (float32: 13.46), top-1 agreement 93.4%, KL 0.015" in scored
        assert "--text" not in scored
        assert scored.count("a.txt") == 1
        assert "1,234" in scored
    two = text_table(report("int4", bad, (text(0.0148), replace(text(0.1), name="b.txt"))))
    assert [line.split()[0] for line in two.splitlines()[4:7]] == ["a.txt", "b.txt", "all"]


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
