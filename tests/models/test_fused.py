"""Each fused operator: its eager implementation against the ONNX operator that it becomes, on ONNX Runtime's CPU.

Tolerance 2e-5 on inputs of order one: both are float32, in a different order of summation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from pumice.models import fused


class Wrapped(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Any:
        return self.function(*args)


def on_onnxruntime(function: Callable[..., Any], args: tuple[Tensor, ...]) -> tuple[list[Tensor], set[str]]:
    """Outputs of the exported function, and its operators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(Wrapped(function).eval(), args, dynamo=True, verbose=False)
    assert program is not None
    names = {node.op_type for node in program.model.graph}
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    feeds = {i.name: a.numpy() for i, a in zip(session.get_inputs(), args, strict=True)}
    return [torch.from_numpy(np.asarray(output)) for output in session.run(None, feeds)], names


def check(function: Callable[..., Any], *args: Tensor, operator: str | None) -> None:
    """Eager and exported alike; `operator` is among the graph's, where one is named."""
    with torch.no_grad():
        eager = function(*args)
    outputs, names = on_onnxruntime(function, args)
    assert operator is None or operator in names
    for output, expected in zip(outputs, eager if isinstance(eager, tuple) else (eager,), strict=True):
        torch.testing.assert_close(output, expected, atol=2e-5, rtol=1e-5)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_simplified_layer_norm() -> None:
    x, weight = torch.randn(2, 5, 48) * 3, torch.randn(48)
    check(
        lambda a, b: fused.simplified_layer_norm(a, b, 1e-5),
        x,
        weight,
        operator="SimplifiedLayerNormalization",
    )


def test_skip_simplified_layer_norm() -> None:
    x, skip, weight = torch.randn(2, 5, 48), torch.randn(2, 5, 48), torch.randn(48)
    check(
        lambda a, b, c: fused.skip_simplified_layer_norm(a, b, c, 1e-3),
        x,
        skip,
        weight,
        operator="SkipSimplifiedLayerNormalization",
    )


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    ("heads", "head_dim"), [(1, 48), (3, 16), (8, 6), (2, 72), (2, 64), (3, 5), (2, 1), (1, 257)]
)
def test_multi_head_attention(heads: int, head_dim: int, bias: bool) -> None:
    """Any width of head runs: SigLIP so400m has 72."""
    width = heads * head_dim
    q, k, v = torch.randn(3, 2, 7, width).unbind()
    biases = (torch.randn(3 * width),) if bias else ()
    check(
        lambda *args: fused.multi_head_attention(*args, *(() if bias else (None,)), num_heads=heads),
        q,
        k,
        v,
        *biases,
        operator="MultiHeadAttention",
    )


def test_multi_head_attention_of_a_large_image() -> None:
    """As many patches as SigLIP so400m has: the kernel goes through them in blocks."""
    q, k, v = torch.randn(3, 1, 729, 144).unbind()
    check(
        lambda *args: fused.multi_head_attention(*args, num_heads=2),
        q,
        k,
        v,
        torch.randn(432),
        operator="MultiHeadAttention",
    )


@pytest.mark.parametrize(("heads", "head_dim"), [(1, 4), (3, 16), (2, 20), (2, 64), (1, 100)])
def test_rotary_embedding(heads: int, head_dim: int) -> None:
    check(
        fused.rotary_embedding,
        torch.randn(2, 7, heads * head_dim),
        *torch.randn(2, 7, head_dim // 2),
        operator="RotaryEmbedding",
    )


def test_matmul_transposed() -> None:
    check(fused.matmul_transposed, torch.randn(2, 3, 48), torch.randn(30, 48), operator="FusedMatMul")


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize(
    ("past", "new", "lengths"),
    [(0, 6, [6]), (0, 6, [6, 2, 5]), (5, 1, [6]), (5, 1, [6, 3, 1]), (4, 3, [7])],
    ids=["prompt", "ragged prompts", "token", "ragged tokens", "several over a past"],
)
@pytest.mark.parametrize("window", [None, 1, 3, 64], ids="window {}".format)
def test_group_query_attention(
    heads: int, kv_heads: int, past: int, new: int, lengths: list[int], window: int | None
) -> None:
    batch, head_dim, total = len(lengths), 16, past + new
    caches = torch.randn(2, 64, head_dim // 2)
    qkv = torch.randn(batch, new, (heads + 2 * kv_heads) * head_dim)
    key, value = torch.randn(2, batch, kv_heads, past, head_dim)
    seqlens = torch.tensor(lengths, dtype=torch.int32) - 1

    def attend(*args: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return fused.group_query_attention(
            *args,
            num_heads=heads,
            kv_num_heads=kv_heads,
            scale=0.3,
            sliding_window=window,
            present_length=total,
        )

    args = (qkv, key, value, seqlens, torch.tensor(total, dtype=torch.int32), *caches)
    with torch.no_grad():
        expected = attend(*args)
    outputs, names = on_onnxruntime(attend, args)
    assert "GroupQueryAttention" in names
    for row, length in enumerate(lengths):  # what lies behind a row's real tokens has no meaning
        real = new if past else length
        torch.testing.assert_close(outputs[0][row, :real], expected[0][row, :real], atol=2e-5, rtol=1e-5)
        for output, wanted in zip(outputs[1:], expected[1:], strict=True):
            torch.testing.assert_close(output[row, :, :length], wanted[row, :, :length], atol=2e-5, rtol=1e-5)
