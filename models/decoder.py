"""The decoder: a Llama (arXiv:2302.13971) over `inputs_embeds` and a KV cache, with logits where they are asked for.

Mistral and Qwen2 differ from it by biases and sliding windows only, which the config has; Ministral 3's queries grow
with their position.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pumice.models import fused
from pumice.models.activations import ACTIVATIONS
from pumice.models.config import LlavaConfig, TextConfig
from pumice.models.layers import Linear, parameter

Cache = list[tuple[Tensor, Tensor]]
"""Per layer: key and value, each [B, kv_heads, P, head_dim]."""


class Attention(nn.Module):
    """Grouped-query attention, in the cache's float type; query, key and value are one packed projection."""

    def __init__(self, config: TextConfig, sliding_window: int | None) -> None:
        super().__init__()
        self.num_heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.sliding_window = sliding_window
        self.scale = config.attention_scale
        queries = self.num_heads * config.head_dim
        packed = queries + 2 * self.kv_heads * config.head_dim
        self.qkv = Linear(config.hidden_size, packed, bias=config.qkv_bias)
        self.parts = self.num_heads + 2 * self.kv_heads
        self.o_proj = Linear(queries, config.hidden_size, bias=config.o_bias)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor], places: Places, *, projected: bool = True
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, T, D] → [B, T, D], or what the last projection would take, and the present key and value."""
        qkv = self.qkv(x)
        if places.growth is not None:
            qkv = (qkv.unflatten(-1, (self.parts, -1)) * places.growth.to(qkv.dtype)).flatten(-2)
        attention, key, value = fused.group_query_attention(
            qkv.to(past[0].dtype),
            *past,
            places.seqlens_k,
            places.total_sequence_length,
            places.cos_cache,
            places.sin_cache,
            num_heads=self.num_heads,
            kv_num_heads=self.kv_heads,
            scale=self.scale,
            sliding_window=self.sliding_window,
            present_length=places.present_length,
        )
        return self.o_proj(attention.to(x.dtype)) if projected else attention, (key, value)


class MLP(nn.Module):
    """The gated MLP."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        size, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(size, inner, bias=bias)
        self.up_proj = Linear(size, inner, bias=bias)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.down_proj = Linear(inner, size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] → [..., D]."""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Norm(nn.Module):
    """RMSNorm of the residual stream, alone or with the sum that precedes it."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.weight = parameter(config.hidden_size)
        self.epsilon = config.rms_norm_eps

    def forward(self, residual: Tensor, delta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """residual, delta [..., D] → the normed sum, and the sum."""
        if delta is None:
            return fused.simplified_layer_norm(residual, self.weight, self.epsilon), residual
        return fused.skip_simplified_layer_norm(residual, delta, self.weight, self.epsilon)


class Block(nn.Module):
    """A layer. What its MLP adds is left to the next norm, which sums and normalises in one operator."""

    def __init__(self, config: TextConfig, sliding_window: int | None) -> None:
        super().__init__()
        self.input_layernorm = Norm(config)
        self.self_attn = Attention(config, sliding_window)
        self.post_attention_layernorm = Norm(config)
        self.mlp = MLP(config)

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
        x, residual = self.input_layernorm(residual, delta)
        attention, present = self.self_attn(x, past, places)
        if rows_BN is not None:
            attention, residual = take_rows(attention, rows_BN), take_rows(residual, rows_BN)
        x, residual = self.post_attention_layernorm(residual, attention)
        return residual, self.mlp(x), present


class Head(nn.Module):
    """Hidden states to logits; the table is [V, D], as the embedding's, so that a tied one is stored once."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.weight = parameter(config.vocab_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] → [B, N, V]."""
        return fused.matmul_transposed(x, self.weight)


class Decoder(nn.Module):
    """All layers, the final norm and the head; with `greedy` also the most likely token of each row."""

    cos_cache: Tensor
    sin_cache: Tensor

    def __init__(self, config: LlavaConfig, *, greedy: bool = False) -> None:
        super().__init__()
        text = config.text
        self.greedy, self.text = greedy, text
        self.layers = nn.ModuleList(Block(text, window) for window in text.sliding_windows)
        self.norm = Norm(text)
        tied = config.rotated and config.tie_word_embeddings
        self.head_rotation = Linear(text.hidden_size, text.hidden_size, bias=False) if tied else None
        self.lm_head = Head(text)
        self.register_buffer("cos_cache", torch.empty(text.max_position_embeddings, text.head_dim // 2))
        self.register_buffer("sin_cache", torch.empty(text.max_position_embeddings, text.head_dim // 2))

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        past_key_values: Cache,
        num_logits_to_keep: Tensor,
    ) -> tuple[Tensor, Cache] | tuple[Tensor, Tensor, Cache]:
        """Run T new tokens over P past ones.

        Args:
            inputs_embeds: float32 [B, T, D], padded on the right.
            attention_mask: int64 [B, P + T], 1 for real tokens.
            past_key_values: per layer a key and a value [B, kv_heads, P, head_dim].
            num_logits_to_keep: int64 scalar; how many of each row's last real positions get logits, 0 for all T.

        Returns:
            logits float32 [B, N, V]; with `greedy` the token of `greedy_token`, int64 [B]; and the cache grown to
            P + T. T > 1 with P > 0 asks for B = 1.
        """
        places = Places(self, attention_mask, inputs_embeds.shape[1])
        rows_BN = kept_rows(inputs_embeds.shape, places.seqlens_k.to(torch.int64), num_logits_to_keep)
        residual, delta, presents = inputs_embeds.to(self.norm.weight.dtype), None, []
        last = len(self.layers) - 1
        for index, (layer, past) in enumerate(zip(self.layers, past_key_values, strict=True)):
            rows = rows_BN if index == last else None
            residual, delta, present = layer(residual, delta, past, places, rows)
            presents.append(present)
        x, _ = self.norm(residual, delta)
        if self.head_rotation is not None:  # a tied table cannot take up the final norm's weight
            x = self.head_rotation(x)
        logits = self.lm_head(x).float()
        return (logits, greedy_token(logits), presents) if self.greedy else (logits, presents)


class Prefill(nn.Module):
    """The decoder as far as keys and values need it: no head, and of the last layer nothing behind them.

    Parameters are called as the decoder's, which they are.
    """

    cos_cache: Tensor
    sin_cache: Tensor

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        self.text = text = config.text
        self.layers = nn.ModuleList(Block(text, window) for window in text.sliding_windows)
        self.register_buffer("cos_cache", torch.empty(text.max_position_embeddings, text.head_dim // 2))
        self.register_buffer("sin_cache", torch.empty(text.max_position_embeddings, text.head_dim // 2))

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, past_key_values: Cache) -> Cache:
        """The cache grown by T new tokens; shapes and conditions as those of `Decoder.forward`."""
        places = Places(self, attention_mask, inputs_embeds.shape[1])
        blocks = [cast(Block, layer) for layer in self.layers]
        residual, delta, presents = inputs_embeds.to(blocks[0].input_layernorm.weight.dtype), None, []
        for block, past in zip(blocks[:-1], past_key_values[:-1], strict=True):
            residual, delta, present = block(residual, delta, past, places, None)
            presents.append(present)
        x, _ = blocks[-1].input_layernorm(residual, delta)
        _, present = blocks[-1].self_attn(x, past_key_values[-1], places, projected=False)
        return [*presents, present]


class Places:
    """Where in the cache each row's new tokens go, as GroupQueryAttention wants to be told."""

    def __init__(self, decoder: Decoder | Prefill, attention_mask: Tensor, new_tokens: int) -> None:
        self.present_length = attention_mask.shape[1]
        self.seqlens_k = (attention_mask.sum(dim=1) - 1).to(torch.int32)
        self.total_sequence_length = torch.scalar_tensor(self.present_length, dtype=torch.int32)
        self.cos_cache, self.sin_cache = decoder.cos_cache, decoder.sin_cache
        self.growth = query_growth(decoder.text, self.seqlens_k, new_tokens)


def kept_rows(shape: torch.Size, past_last_B: Tensor, num_to_keep: Tensor) -> Tensor:
    """Which rows of a [B, T, D] tensor are read → indices int64 [B, N] into its B·T rows.

    N rows end at a prompt's last real one, which is `past_last_B` where nothing is cached and the last of T elsewhere;
    0 keeps all T. Positions before a prompt's first are answered with the first.

        T = 5, past_last = 3, N = 2:   . . x x .

    Whatever follows from shapes is computed as numbers, which become tensors by `arange`: execution providers compute
    shapes on the CPU, and would stop for each number that a tensor of theirs is computed with.
    """
    B, T, _ = shape
    length = torch.scalar_tensor(T, dtype=torch.int64)
    kept = torch.minimum(num_to_keep, length)
    everything = kept == 0
    count = torch.where(everything, length, kept).item()
    first_end = torch.where(everything, length - 1, length - length).item()
    torch._check(count >= 1)
    end_B = past_last_B.minimum(_tensor_of(T - 1)).maximum(_tensor_of(first_end))
    rows_BN = end_B.unsqueeze(1) + torch.arange(1 - count, 1)
    return rows_BN.clamp(min=0) + (torch.arange(B) * _tensor_of(T)).unsqueeze(1)


def _tensor_of(number: int | float) -> Tensor:
    """A number as int64 [1]."""
    return torch.arange(number, number + 1)


def greedy_token(logits: Tensor) -> Tensor:
    """logits [B, N, V] → the most likely token after each row's last, int64 [B]; -1 where a logit is not finite."""
    last_BV = logits[:, -1]
    finite_B = last_BV.sum(dim=-1).abs() <= torch.finfo(torch.float32).max  # NaN and infinity outlive the sum
    return torch.where(finite_B, last_BV.argmax(dim=-1), -1)


def query_growth(text: TextConfig, seqlens_k: Tensor, new_tokens: int) -> Tensor | None:
    """What queries are times by their positions, and keys and values by 1, float32 [B, T, heads, 1].

    None where that is 1 in the whole context.
    """
    growth = text.query_growth
    if growth is None or text.max_position_embeddings <= growth.every:
        return None
    first_B1 = (seqlens_k.to(torch.int64).unsqueeze(1) - _tensor_of(new_tokens - 1)).clamp(min=0)
    positions_BT = (first_B1 + torch.arange(new_tokens)).float()
    grown_BT = growth.beta * torch.log(1 + torch.floor(positions_BT / growth.every))
    heads = torch.arange(text.num_attention_heads + 2 * text.num_key_value_heads)
    return 1 + grown_BT[:, :, None, None] * (heads < text.num_attention_heads).float()[:, None]


def take_rows(x: Tensor, rows_BN: Tensor) -> Tensor:
    """x [B, T, D] → [B, N, D]."""
    return nn.functional.embedding(rows_BN, x.flatten(0, 1))


def rotary_caches(config: TextConfig) -> tuple[Tensor, Tensor]:
    """cos and sin float32 [context, head_dim / 2] of position · frequency (arXiv:2104.09864), times the scale.

    Columns that pad a head beyond its `rotary_dim` stay at angle 0.
    """
    frequencies = torch.tensor(config.inv_freq, dtype=torch.float32)
    frequencies = nn.functional.pad(frequencies, (0, config.head_dim // 2 - len(frequencies)))
    angles = torch.outer(torch.arange(config.max_position_embeddings).float(), frequencies)
    return angles.cos() * config.rotary_scale, angles.sin() * config.rotary_scale
