"""The fused operators: each an eager torch function, and the ONNX operator that it becomes when exported.

While `torch.onnx.export` traces, a function emits its operator through `torch.onnx.ops.symbolic`; otherwise it computes
in plain torch, so that every module runs, and is tested against transformers, without ONNX.
The `com.microsoft` operators are described in ONNX Runtime's docs/ContribOperators.md.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.onnx.ops import symbolic, symbolic_multi_out


def simplified_layer_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMSNorm over the last axis (arXiv:1910.07467): x [..., D], weight [D] → [..., D]."""
    if torch.onnx.is_in_onnx_export():
        return symbolic(
            "SimplifiedLayerNormalization",
            (x, weight),
            {"axis": -1, "epsilon": epsilon, "stash_type": 1},
            dtype=x.dtype,
            shape=x.shape,
        )
    variance = x.float().pow(2).mean(-1, keepdim=True)
    return weight * (x.float() * torch.rsqrt(variance + epsilon)).to(x.dtype)


def skip_simplified_layer_norm(
    x: Tensor, skip: Tensor, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The residual sum and its RMSNorm in one pass: x, skip [..., D] → (norm(x + skip), x + skip)."""
    if torch.onnx.is_in_onnx_export():
        statistics = (*x.shape[:-1], 1)  # mean and inverse deviation: optional outputs, removed by a pass
        normed, _, _, total = symbolic_multi_out(
            "com.microsoft::SkipSimplifiedLayerNormalization",
            (x, skip, weight),
            {"epsilon": epsilon},
            dtypes=(x.dtype, torch.float32, torch.float32, x.dtype),
            shapes=(x.shape, statistics, statistics, x.shape),
            version=1,
        )
        return normed, total
    total = x + skip
    return simplified_layer_norm(total, weight, epsilon), total


def group_query_attention(
    query: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    seqlens_k: Tensor,
    total_sequence_length: Tensor,
    cos_cache: Tensor | None,
    sin_cache: Tensor | None,
    *,
    num_heads: int,
    kv_num_heads: int,
    scale: float,
    sliding_window: int | None,
    present_length: int | torch.SymInt,
    key: Tensor | None = None,
    value: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention, rotary embedding inside, over a growing cache.

    Args:
        query: [B, T, num_heads·K], prompts padded on the right; with `key` and `value` None all three side by side,
            [B, T, (num_heads + 2·kv_num_heads)·K].
        past_key, past_value: [B, kv_num_heads, P, K].
        seqlens_k: int32 [B], each row's number of real tokens, past and new, less one.
        total_sequence_length: int32 scalar, P + T; `present_length` is the same as a size.
        cos_cache, sin_cache: [context, K/2]; None where positions turn nothing.
        scale: what scores are multiplied by before the softmax.
        sliding_window: how many tokens a token sees, itself included; None for all before it.
        key, value: [B, T, kv_num_heads·K].
        softcap: c of c·tanh(score / c), None for scores as they are.

    Returns:
        attention [B, T, num_heads·K], and present key and value [B, kv_num_heads, P + T, K].
        Rows beyond a prompt's real tokens hold no meaning.
    """
    if torch.onnx.is_in_onnx_export():
        B, T, _ = query.shape
        head_dim = past_key.shape[-1]
        present = (B, kv_num_heads, present_length, head_dim)
        attributes: dict[str, Any] = {"num_heads": num_heads, "kv_num_heads": kv_num_heads}
        attributes |= {"scale": scale, "do_rotary": int(cos_cache is not None)}
        attributes |= {} if sliding_window is None else {"local_window_size": sliding_window}
        attributes |= {} if softcap is None else {"softcap": softcap}
        caches = () if cos_cache is None else (cos_cache, sin_cache)
        attention, present_key, present_value = symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            (query, key, value, past_key, past_value, seqlens_k, total_sequence_length, *caches),
            attributes,
            dtypes=(query.dtype, past_key.dtype, past_value.dtype),
            shapes=((B, T, num_heads * head_dim), present, present),
            version=1,
        )
        return attention, present_key, present_value
    return _eager_group_query_attention(
        query if key is None or value is None else torch.cat((query, key, value), dim=-1),
        past_key,
        past_value,
        seqlens_k,
        cos_cache,
        sin_cache,
        num_heads,
        kv_num_heads,
        scale,
        sliding_window,
        softcap,
    )


def _eager_group_query_attention(
    qkv: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    seqlens_k: Tensor,
    cos_cache: Tensor | None,
    sin_cache: Tensor | None,
    num_heads: int,
    kv_num_heads: int,
    scale: float,
    sliding_window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    B, T, _ = qkv.shape
    P, head_dim = past_key.shape[2:]
    q, k, v = qkv.view(B, T, -1, head_dim).split((num_heads, kv_num_heads, kv_num_heads), dim=2)
    first_B1 = (seqlens_k.long() + 1 - T).clamp(min=0)[:, None] if P else torch.zeros(B, 1, dtype=torch.long)
    positions_BT = (first_B1 + torch.arange(T)).clamp(max=P + T - 1)
    if cos_cache is not None and sin_cache is not None:
        places_BT = positions_BT.clamp(max=cos_cache.shape[0] - 1)
        cos, sin = cos_cache[places_BT][:, :, None], sin_cache[places_BT][:, :, None]
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)

    key, value = (F.pad(past, (0, 0, 0, T)) for past in (past_key, past_value))  # [B, kv, P+T, K]
    at = positions_BT[:, None, :, None].expand(B, kv_num_heads, T, head_dim)
    key, value = key.scatter(2, at, k.transpose(1, 2)), value.scatter(2, at, v.transpose(1, 2))

    distance = positions_BT[:, None, :, None] - torch.arange(P + T)  # [B, 1, T, P+T]
    visible = distance >= 0
    if sliding_window is not None:
        visible = visible & (distance < sliding_window)
    if softcap is None:
        attention = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            key,
            value,
            attn_mask=visible,
            scale=scale,
            enable_gqa=num_heads != kv_num_heads,
        )
    else:
        keys, values = (x.repeat_interleave(num_heads // kv_num_heads, dim=1) for x in (key, value))
        scores = softcap * torch.tanh(q.transpose(1, 2) @ keys.transpose(2, 3) * scale / softcap)
        attention = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1) @ values
    return attention.transpose(1, 2).reshape(B, T, -1), key, value


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (arXiv:2104.09864), halves not interleaved: x [B, T, heads, K], cos and sin [B, T, 1, K/2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """[B, T, heads·K] → [B, T, heads, K]."""
    return _reshaped(x, (x.shape[-1] // head_dim, head_dim))


def join_heads(x: Tensor) -> Tensor:
    """[B, T, heads, K] → [B, T, heads·K]."""
    return _reshaped(x, (x.shape[-2] * x.shape[-1],))


def _reshaped(x: Tensor, last: tuple[int, ...]) -> Tensor:
    """x with other sizes behind its first two, which ONNX's Reshape keeps at 0: no shape is computed at run time."""
    shape = (*x.shape[:2], *last)
    if torch.onnx.is_in_onnx_export():
        sizes = torch.cat([torch.full((1,), size, dtype=torch.int64) for size in (0, 0, *last)])
        return symbolic("Reshape", (x, sizes), dtype=x.dtype, shape=shape)
    return x.reshape(shape)


def multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, num_heads: int
) -> Tensor:
    """Full attention of a vision tower: query, key, value [N, T, D] before their bias [3·D], if any → [N, T, D]."""
    if torch.onnx.is_in_onnx_export():
        return symbolic(
            "com.microsoft::MultiHeadAttention",
            (query, key, value) if bias is None else (query, key, value, bias),
            {"num_heads": num_heads},
            dtype=query.dtype,
            shape=query.shape,
            version=1,
        )
    N, T, D = query.shape
    parts: tuple[Tensor, ...] = (query, key, value)
    if bias is not None:
        parts = tuple(x + b for x, b in zip(parts, bias.chunk(3), strict=True))
    q, k, v = (x.view(N, T, num_heads, -1).transpose(1, 2) for x in parts)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(N, T, D)


def rotary_embedding(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn every head of x [N, T, heads·K] by the angles of its token; cos and sin [T, K/2] → [N, T, heads·K]."""
    if torch.onnx.is_in_onnx_export():
        first = torch.zeros(1, dtype=torch.int64)  # a single number: tokens are counted from there
        return symbolic(
            "com.microsoft::RotaryEmbedding",
            (x, first, cos, sin),
            dtype=x.dtype,
            shape=x.shape,
            version=1,
        )
    heads = x.unflatten(-1, (-1, 2 * cos.shape[-1]))
    return _rotate(heads, cos[:, None], sin[:, None]).flatten(-2)


def matmul_transposed(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., D] times a table [V, D] in its stored order → [..., V]: lets a head share the embedding's bytes."""
    if torch.onnx.is_in_onnx_export():
        shape = (*x.shape[:-1], weight.shape[0])
        return symbolic(
            "com.microsoft::FusedMatMul", (x, weight), {"transB": 1}, dtype=x.dtype, shape=shape, version=1
        )
    return x @ weight.T
