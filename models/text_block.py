"""A layer of the decoder: attention and MLP, and the norms before or behind them.

    before   x + attn(norm(x)), then x + mlp(norm(x))               a Llama, and most
    after    x + norm(attn(x)), then x + norm(mlp(x))               OLMo 2, EXAONE 4
    around   x + norm(attn(norm(x))), then the MLP likewise         Gemma 2, GLM-4
    shared   x + attn(norm(x)) + mlp(norm(x)), of one norm          Phi, Cohere

Enters and leaves: the residual stream [B, T, D], and what is still to be added to it, which the next norm does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pumice.models import fused
from pumice.models.activations import ACTIVATIONS
from pumice.models.config import LayerKind, TextConfig
from pumice.models.layers import Linear, parameter


class Places:
    """Where in the cache each row's new tokens go, as GroupQueryAttention wants to be told."""

    def __init__(
        self, text: TextConfig, attention_mask: Tensor, new_tokens: int, cos_cache: Tensor, sin_cache: Tensor
    ) -> None:
        self.present_length = attention_mask.shape[1]
        self.seqlens_k = (attention_mask.sum(dim=1) - 1).to(torch.int32)
        self.total_sequence_length = torch.scalar_tensor(self.present_length, dtype=torch.int32)
        self.cos_cache, self.sin_cache = cos_cache, sin_cache
        self.growth = query_growth(text, self.seqlens_k, new_tokens)


class Attention(nn.Module):
    """Grouped-query attention, in the cache's float type; query, key and value are one packed projection."""

    def __init__(self, config: TextConfig, kind: LayerKind) -> None:
        super().__init__()
        self.num_heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.kind, self.softcap = config.head_dim, kind, config.softcap
        self.scale = config.attention_scale
        queries, keys = self.num_heads * config.head_dim, self.kv_heads * config.head_dim
        self.qkv = Linear(config.hidden_size, queries + 2 * keys, bias=config.qkv_bias)
        normed = config.qk_norm != "none"
        self.q_norm = HeadNorm(config, self.num_heads) if normed else None
        self.k_norm = HeadNorm(config, self.kv_heads) if normed else None
        self.o_proj = Linear(queries, config.hidden_size, bias=config.o_bias)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor], places: Places, *, projected: bool = True
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, T, D] → [B, T, D], or what the last projection would take, and the present key and value."""
        packed = self.qkv(x)
        if places.growth is not None:
            packed = packed * places.growth.to(packed.dtype)
        query, key, value = packed, None, None
        if self.q_norm is not None and self.k_norm is not None:
            widths = [heads * self.head_dim for heads in (self.num_heads, self.kv_heads, self.kv_heads)]
            query, key, value = packed.split(widths, dim=-1)
            query, key = self.q_norm(query), self.k_norm(key)
        dtype = past[0].dtype
        attention, key, value = fused.group_query_attention(
            query.to(dtype),
            *past,
            places.seqlens_k,
            places.total_sequence_length,
            places.cos_cache if self.kind.turned else None,
            places.sin_cache if self.kind.turned else None,
            num_heads=self.num_heads,
            kv_num_heads=self.kv_heads,
            scale=self.scale,
            sliding_window=self.kind.window,
            softcap=self.softcap,
            present_length=places.present_length,
            key=None if key is None else key.to(dtype),
            value=None if value is None else value.to(dtype),
        )
        return self.o_proj(attention.to(x.dtype)) if projected else attention, (key, value)


class HeadNorm(nn.Module):
    """RMSNorm of queries or keys [B, T, heads·K]: of each head, or of all together.

    Zeros that pad a head count in its mean: epsilon shrinks with them here, and the weight in
    `pumice.export.weights.heads`.
    """

    def __init__(self, config: TextConfig, heads: int) -> None:
        super().__init__()
        width = config.head_dim * (heads if config.qk_norm == "width" else 1)
        self.head_dim = config.head_dim if config.qk_norm == "head" else None
        self.weight = parameter(width)
        self.epsilon = config.rms_norm_eps * config.rotary_dim / config.head_dim

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, heads·K] → the same."""
        if self.head_dim is None:
            return fused.simplified_layer_norm(x, self.weight, self.epsilon)
        heads = fused.split_heads(x, self.head_dim)
        return fused.join_heads(fused.simplified_layer_norm(heads, self.weight, self.epsilon))


class MLP(nn.Module):
    """The gated MLP, or two matrices with the activation between."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        size, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(size, inner, bias=bias) if config.gated else None
        self.up_proj = Linear(size, inner, bias=bias)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.down_proj = Linear(inner, size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] → [..., D]."""
        if self.gate_proj is None:
            return self.down_proj(self.activation(self.up_proj(x)))
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Norm(nn.Module):
    """RMSNorm or LayerNorm of the residual stream, alone or with the sum that precedes it."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.weight = parameter(config.hidden_size) if config.norm_weight else None
        self.bias = parameter(config.hidden_size) if config.norm_bias else None
        self.epsilon, self.rms = config.rms_norm_eps, config.norm == "rms"

    def forward(self, residual: Tensor, delta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """residual, delta [..., D] → the normed sum, and the sum."""
        if self.rms and self.weight is not None:
            if delta is None:
                return fused.simplified_layer_norm(residual, self.weight, self.epsilon), residual
            return fused.skip_simplified_layer_norm(residual, delta, self.weight, self.epsilon)
        total = residual if delta is None else residual + delta
        return nn.functional.layer_norm(total, total.shape[-1:], self.weight, self.bias, self.epsilon), total


class Block(nn.Module):
    """A layer. What its MLP adds is left to the next norm, which sums and normalises in one operator."""

    def __init__(self, config: TextConfig, kind: LayerKind) -> None:
        super().__init__()
        before, behind = config.norm_places != "after", config.norm_places in ("after", "around")
        self.input_layernorm = Norm(config) if before else None
        self.self_attn = Attention(config, kind)
        self.attention_layernorm = Norm(config) if behind else None
        self.shared = config.norm_places == "shared"
        self.post_attention_layernorm = Norm(config) if before and not self.shared else None
        self.mlp = MLP(config)
        self.mlp_layernorm = Norm(config) if behind else None

    def attention_input(self, residual: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """What attention reads, and the stream with all that was still to be added."""
        return _normed(self.input_layernorm, residual, delta)

    def forward(
        self,
        residual: Tensor,
        delta: Tensor | None,
        past: tuple[Tensor, Tensor],
        places: Places,
        rows_BN: Tensor | None,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """The stream [B, T, D] and what the layer before adds to it → the same two, and the present key and value.

        With `rows_BN`, only those rows leave: behind the last cache write no others are read.
        """
        x, residual = self.attention_input(residual, delta)
        attention, present = self.self_attn(x, past, places)
        if rows_BN is not None:
            attention, residual = take_rows(attention, rows_BN), take_rows(residual, rows_BN)
        if self.shared:
            x = x if rows_BN is None else take_rows(x, rows_BN)
            return residual, attention + self.mlp(x), present
        if self.attention_layernorm is not None:
            attention, _ = self.attention_layernorm(attention)
        x, residual = _normed(self.post_attention_layernorm, residual, attention)
        y = self.mlp(x)
        if self.mlp_layernorm is not None:
            y, _ = self.mlp_layernorm(y)
        return residual, y, present


def _normed(norm: nn.Module | None, residual: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sum behind a norm, if there is one, and the sum."""
    if norm is not None:
        normed: tuple[Tensor, Tensor] = norm(residual, delta)
        return normed
    total = residual if delta is None else residual + delta
    return total, total


def take_rows(x: Tensor, rows_BN: Tensor) -> Tensor:
    """x [B, T, D] → [B, N, D]."""
    return nn.functional.embedding(rows_BN, x.flatten(0, 1))


def query_growth(text: TextConfig, seqlens_k: Tensor, new_tokens: int) -> Tensor | None:
    """What packed queries, keys and values are times: queries by their positions, float32 [B, T, packed width].

    None where that is 1 in the whole context. In that width, for onnxruntime before 1.32 wants to know the width of
    what goes into its attention, and a reshape to heads and back would hide it.
    """
    growth = text.query_growth
    if growth is None or text.max_position_embeddings <= growth.every:
        return None
    first_B1 = (seqlens_k.to(torch.int64).unsqueeze(1) - tensor_of(new_tokens - 1)).clamp(min=0)
    positions_BT = (first_B1 + torch.arange(new_tokens)).float()
    grown_BT = growth.beta * torch.log(1 + torch.floor(positions_BT / growth.every))
    channels = torch.arange((text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim)
    queries = (channels < text.num_attention_heads * text.head_dim).float()
    return 1 + grown_BT.unsqueeze(-1) * queries


def tensor_of(number: int | float) -> Tensor:
    """A number as int64 [1]: shapes that become tensors so are computed on the CPU, whatever computes the rest."""
    return torch.arange(number, number + 1)
