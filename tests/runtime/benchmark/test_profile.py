import re
from typing import Any

import pytest

from pumice.benchmark.profile import graph_profiles
from pumice.errors import GenerationError


def run(ts: int, dur: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "args": {}}


def node(
    name: str, ts: int, dur: int, operator: str = "MatMulNBits", shapes: tuple[list[int], ...] = ()
) -> dict[str, Any]:
    inputs, outputs = shapes[:-1], shapes[-1:]
    args = {
        "op_name": operator,
        "input_type_shape": [{"float": shape} for shape in inputs],
        "output_type_shape": [{"float": shape} for shape in outputs],
    }
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}


PRODUCT = ([1, 3, 8], [16, 1], [1, 3, 16])
LOADING = {"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 5, "args": {}}


def test_runs_are_counted_in_their_phases() -> None:
    events = [
        LOADING,
        *(node("/layers.0/mlp/up/MatMulNBits", ts, dur, shapes=PRODUCT) for ts, dur in ((12, 50), (112, 6))),
        *(
            node("/layers.0/mlp/up/MatMulNBits", ts, dur, shapes=PRODUCT)
            for ts, dur in ((212, 9), (312, 300))
        ),
        *(run(ts, dur) for ts, dur in ((10, 60), (110, 10), (210, 15), (310, 308))),
    ]
    weights = {"/layers.0/mlp/up/MatMulNBits": 100}
    warm, decode = graph_profiles("decoder", events, ["warm", "decode", "decode", "decode"], weights)
    assert (warm.phase, warm.runs, decode.phase, decode.runs) == ("warm", 1, "decode", 3)
    assert warm.seconds == pytest.approx(60e-6)
    (up,) = decode.nodes
    assert up.runs == 3
    assert up.weight_bytes == 300
    assert up.flops == 3 * 2 * 3 * 8 * 16
    assert up.seconds == pytest.approx(3 * 9e-6)  # the median, three times
    assert decode.between_s == pytest.approx(3 * 6e-6)


def test_runs_over_other_shapes_have_a_median_of_their_own() -> None:
    short = ([1, 1, 8], [16, 1], [1, 1, 16])
    events = [
        *(node("/up", ts, dur, shapes=PRODUCT) for ts, dur in ((1, 10), (21, 10))),
        node("/up", 41, 2, shapes=short),
        *(run(ts, 15) for ts in (0, 20, 40)),
    ]
    (profile,) = graph_profiles("decoder", events, ["prefill"] * 3, {})
    assert profile.nodes[0].seconds == pytest.approx(22e-6)
    assert profile.nodes[0].weight_bytes is None


def test_a_profile_that_lost_runs_is_refused() -> None:
    with pytest.raises(GenerationError, match=re.escape("has 1 runs of 2")):
        graph_profiles("decoder", [run(0, 1)], ["a", "a"], {})


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("/layers.3/mlp/down_proj/MatMulNBits", ("layers.3", "mlp")),
        ("/tower/layers.16/self_attn/MultiHeadAttention", ("tower/layers.16", "self_attn")),
        ("/layers.3/Add_2", ("layers.3", "")),
        ("/lm_head/MatMulNBits", ("", "lm_head")),
        ("ReorderOutput", ("", "")),
        ("/Shape_2", ("", "")),
    ],
)
def test_names_tell_the_layer(name: str, place: tuple[str, str]) -> None:
    (profile,) = graph_profiles("g", [run(0, 5), node(name, 1, 1)], ["a"], {})
    assert profile.nodes[0].place == place


@pytest.mark.parametrize(
    ("operator", "shapes", "flops"),
    [
        ("MatMul", ([2, 5, 8], [2, 5, 4]), 2 * 2 * 5 * 8 * 4),
        ("MatMulIntegerToFloat", ([1, 5, 8], [8, 4], [1, 5, 4]), 2 * 5 * 8 * 4),
        ("Conv", ([1, 3, 28, 28], [16, 3, 14, 14], [1, 16, 2, 2]), 2 * 16 * 4 * 3 * 14 * 14),
        ("MultiHeadAttention", ([1, 7, 8], [1, 9, 8], [1, 9, 8], [1, 7, 8]), 4 * 7 * 9 * 8),
        ("GroupQueryAttention", ([1, 7, 24], [1, 2, 64, 4], [1, 7, 8]), None),
        ("Add", ([1, 7], [1, 7], [1, 7]), None),
    ],
)
def test_operations_by_shapes(operator: str, shapes: tuple[list[int], ...], flops: int | None) -> None:
    (profile,) = graph_profiles("g", [run(0, 5), node("/x", 1, 1, operator, shapes)], ["a"], {})
    assert profile.nodes[0].flops == flops


def test_a_node_that_onnxruntime_renamed_has_its_weights() -> None:
    names = ("/tower/embeddings/Conv_output_0_nchwc", "/fc/MatMul/MatMulAddFusion", "/other")
    events = [run(0, 9), *(node(name, 1, 1) for name in names)]
    (profile,) = graph_profiles("g", events, ["a"], {"/tower/embeddings/Conv": 5, "/fc/MatMul": 7})
    assert [found.weight_bytes for found in profile.nodes] == [5, 7, None]


def test_a_choice_is_counted_by_what_was_chosen() -> None:
    events = [
        run(0, 9),
        node("/layers.0/self_attn/If", 1, 6, "If"),
        node("/layers.0/self_attn/one/X", 2, 4, "X"),
    ]
    (profile,) = graph_profiles("g", events, ["a"], {})
    assert [found.operator for found in profile.nodes] == ["X"]
    assert profile.between_s == pytest.approx(5e-6)
