from __future__ import annotations

import pytest

from bench.results import Measured
from bench.series import best_limit, reasons, series
from tests.bench.found import measured, results, runs


def test_median_and_spread_are_over_rounds() -> None:
    found = series(measured("a", ttft_s=2.0), "ttft_s")
    assert found is not None
    assert (found.low, found.median, found.high) == pytest.approx((1.8, 2.0, 2.2))


def test_cold_and_warm_starts_are_told_apart() -> None:
    system = Measured(system="a", runs=runs({"load_s": 5.0}, {"load_s": 1.0}, {"load_s": 7.0}))
    cold, warm = series(system, "cold_load_s"), series(system, "load_s")
    assert cold is not None
    assert cold.values == (5.0, 7.0)
    assert warm is not None
    assert warm.values == (1.0,)


def test_measures_that_no_round_has_are_none() -> None:
    assert series(measured("a", batch8=None), "batch8") is None
    assert series(Measured(system="a", failure="no pip"), "ttft_s") is None


def test_export_comes_from_preparing() -> None:
    found = series(measured("a", {"export_s": 12}), "export_s")
    assert found is not None
    assert found.values == (12.0,)


def test_the_best_round_is_the_limit() -> None:
    assert best_limit(results(), "read_gb_s") == 30.0
    assert best_limit(results(limits=()), "read_gb_s") is None


def test_reasons_of_systems_rounds_and_measures() -> None:
    system = Measured(system="a", runs=(*runs({"missing": {"batch8": "no batches"}}),))
    assert reasons(system) == {"batch8": "no batches"}
    assert reasons(Measured(system="a", failure="no pip")) == {"all": "no pip"}
