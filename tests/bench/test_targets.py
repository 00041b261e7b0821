from __future__ import annotations

import pytest

from bench.targets import Verdict, verdicts
from tests.bench.found import measured, results


def judged(*systems, **given) -> dict[tuple[str, str], Verdict]:
    found = verdicts(results(*systems, **given))
    return {(verdict.target, verdict.against): verdict for verdict in found}


def test_first_token_is_judged_against_the_quickest_peer() -> None:
    found = judged(
        measured("pumice-cpu-int4", ttft_s=3.0),
        measured("openvino-int4", ttft_s=8.0),
        measured("llama-cpp-q4_0", ttft_s=5.0),
    )
    (verdict,) = found.values()
    assert verdict.against == "best peer, llama-cpp-q4_0 5.00"
    assert verdict.ratio.median == pytest.approx(0.6)
    assert not verdict.met


def test_decoding_is_judged_against_the_quickest_peer_and_the_limit() -> None:
    found = judged(
        measured("pumice-cpu-int4", decode_100=74.0, decode_2000=40.0),
        measured("genai-int4", decode_100=60.0, decode_2000=20.0),
    )
    near, far = "decode tokens/s in 4 bits at 100 tokens", "decode tokens/s in 4 bits at 2,000 tokens"
    assert found[near, "best peer, genai-int4 60.0"].met
    limit = next(
        verdict for (target, _), verdict in found.items() if target == near and verdict.bound == 0.75
    )
    assert limit.ratio.median == pytest.approx(
        0.74, rel=0.06
    )  # keys and values of 100 tokens are read as well
    assert found[far, "bandwidth limit 50.0"].met


def test_8_bits_are_not_judged_where_4_are_asked_for() -> None:
    assert not judged(measured("pumice-cpu-int8", decode_100=90.0), measured("genai-int4", decode_100=1.0))


def test_peers_that_see_no_images_are_not_the_leanest() -> None:
    found = judged(
        measured("pumice-cpu-int4", resident_mb=500.0),
        measured("genai-int4", resident_mb=600.0, ttft_s=None),
        measured("llama-cpp-q4_0", resident_mb=1000.0, ttft_s=9.0),
    )
    (verdict,) = found.values()
    assert verdict.against == "best peer, llama-cpp-q4_0 1,000"
    assert verdict.met


def test_a_second_turn_is_judged_against_the_first() -> None:
    found = judged(measured("pumice-cpu-int4", ttft_s=3.0, second_turn_s=0.3))
    (verdict,) = found.values()
    assert verdict.ratio.median == pytest.approx(0.1)


def test_only_optimised_copies_must_load_at_once() -> None:
    found = judged(measured("pumice-cpu-int4", load_s=2.0), measured("pumice-cpu-int4+optimized", load_s=0.4))
    (verdict,) = found.values()
    assert verdict.system == "pumice-cpu-int4+optimized"
    assert verdict.met


def test_export_is_judged_against_the_quickest_exporter() -> None:
    found = judged(
        measured("pumice-cpu-int4", {"export_s": 20.0, "export_peak_mb": 500.0}),
        measured("transformers-fp32", {"export_s": 0.0, "export_peak_mb": 1.0}),
        measured("openvino-int4", {"export_s": 50.0, "export_peak_mb": 4000.0}),
        measured("llama-cpp-q4_0", {"export_s": 90.0, "export_peak_mb": 2000.0}),
    )
    assert {target: verdict.ratio.median for (target, _), verdict in found.items()} == {
        "export time": 0.4,
        "export memory": 0.125,
    }


def test_a_7b_must_come_closer_to_the_limit() -> None:
    found = judged(measured("pumice-cpu-int4", decode_100=74.0), shape="llava-1.5-7b")
    assert [verdict.bound for verdict in found.values()] == [0.8]


def test_requests_at_once_are_judged_against_the_best_that_see_images() -> None:
    found = judged(
        measured("pumice-cpu-int4", throughput_8=33.0),
        measured("openvino-genai-int4", throughput_8=20.0, ttft_s=2.0),
        measured("genai-int4", text_throughput_8=90.0),
    )
    verdict = found["tokens/s in all, 8 requests at once", "best peer, openvino-genai-int4 20.0"]
    assert verdict.ratio.median == pytest.approx(1.65)
    assert verdict.goal == 30.0
    assert verdict.met


def test_goals_are_what_the_measure_must_be() -> None:
    found = judged(
        measured("pumice-cpu-int4", decode_100=74.0), measured("genai-int4", decode_100=60.0)
    ).values()
    for verdict in found:
        assert verdict.goal / verdict.bound == pytest.approx(74.0 / verdict.ratio.median)


def test_small_shapes_are_not_judged() -> None:
    assert not judged(
        measured("pumice-cpu-int4", ttft_s=3.0), measured("openvino-int4", ttft_s=8.0), shape="pebble"
    )
