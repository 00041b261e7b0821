"""The numbers that Ray Serve is told; no Ray is needed for them."""

from __future__ import annotations

from typing import Any

import pytest

from pumice import UsageError
from pumice.ray.concurrency import Concurrency

SLOTS = [1, 2, 3, 4, 8, 16, 64, 1024]


@pytest.mark.parametrize("slots", SLOTS)
def test_a_replica_is_given_more_than_its_slots_and_scaled_below_them(slots: int) -> None:
    numbers = Concurrency(slots=slots)
    assert numbers.max_ongoing_requests == slots + numbers.beside
    assert numbers.beside >= 2, "those that ask for the models take places, too"
    assert 0 < numbers.target_ongoing_requests < slots < numbers.max_ongoing_requests, (
        "Ray would never start another replica"
    )


@pytest.mark.parametrize(
    ("slots", "ongoing", "target"), [(1, 3, 0.75), (4, 6, 3.0), (8, 12, 6.0), (16, 24, 12.0)]
)
def test_numbers_of_common_slots(slots: int, ongoing: int, target: float) -> None:
    numbers = Concurrency(slots=slots)
    assert (numbers.max_ongoing_requests, numbers.target_ongoing_requests) == (ongoing, target)


def test_replicas_are_fixed_or_between_two_numbers() -> None:
    numbers = Concurrency(slots=8)
    assert numbers.scaling(3) == {"num_replicas": 3}
    for bounds in ((1, 4), [1, 4]):
        scaling = numbers.scaling(bounds)["autoscaling_config"]
        assert (scaling["min_replicas"], scaling["max_replicas"]) == (1, 4)
        assert scaling["target_ongoing_requests"] == numbers.target_ongoing_requests
        assert scaling["downscale_delay_s"] >= 600, "loading takes longer than keeping"
    assert numbers.scaling((0, 1))["autoscaling_config"]["min_replicas"] == 0


@pytest.mark.parametrize(
    "wrong", [0, -1, True, 1.5, "2", (), (1,), (2, 1), (-1, 2), (0, 0), (1, 2, 3), (1, 2.0)]
)
def test_other_replicas_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="num_replicas is"):
        Concurrency(slots=8).scaling(wrong)
