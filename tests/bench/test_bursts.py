from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench.peers.bursts import LEVELS, Served, bursts, measures, percentile


def test_percentiles_are_values_that_were_measured() -> None:
    assert [percentile([5.0, 1.0, 3.0, 4.0], share) for share in (0.5, 0.75, 0.95)] == [3.0, 4.0, 5.0]
    assert percentile([2.0], 0.5) == percentile([2.0], 0.95) == 2.0
    assert percentile(list(range(1, 101)), 0.95) == 95


def test_throughput_is_of_all_requests_together() -> None:
    served = Served(firsts=[4.0, 1.0, 2.0, 3.0], seconds=8.0, tokens=256)
    assert measures(4, served) == {
        "throughput_4": 32.0,
        "burst_ttft_p50_4": 2.0,
        "burst_ttft_p95_4": 4.0,
    }


def test_requests_without_a_first_token_are_no_measure() -> None:
    with pytest.raises(ValueError, match="3 of 4 requests"):
        measures(4, Served(firsts=[1.0, 2.0, 3.0], seconds=8.0, tokens=192))


IMAGES = [f"burst{number}.png" for number in range(13)]


def test_no_image_comes_twice() -> None:
    seen: list[str] = []

    def serve(images: Sequence[str]) -> Served:
        seen.extend(images)
        return Served(firsts=[1.0] * len(images), seconds=2.0, tokens=64 * len(images))

    missing: dict[str, str] = {}
    found = bursts(serve, IMAGES, missing)
    assert [found[f"throughput_{level}"] for level in LEVELS] == [32.0, 128.0, 256.0]
    assert seen == IMAGES
    assert not missing


def test_what_fails_at_a_level_is_told_and_the_levels_before_are_kept() -> None:
    def serve(images: Sequence[str]) -> Served:
        if len(images) == 8:
            raise MemoryError("no room")
        return Served(firsts=[1.0] * len(images), seconds=2.0, tokens=64 * len(images))

    missing: dict[str, str] = {}
    found = bursts(serve, IMAGES, missing)
    assert missing == {"throughput": "MemoryError: no room"}
    assert {f"throughput_{level}" in found for level in LEVELS[:2]} == {True}
    assert "throughput_8" not in found
