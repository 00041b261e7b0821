"""The decoder: a Llama (arXiv:2302.13971) over `inputs_embeds` and a KV cache, with logits where they are asked for.

What other text models do otherwise the config says; their layers are in `pumice.models.text_block`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pumice.models import fused
from pumice.models.config import LlavaConfig, TextConfig
from pumice.models.layers import Linear, parameter
from pumice.models.text_block import Block, Norm, Places, tensor_of

Cache = list[tuple[Tensor, Tensor]]
"""Per layer: key and value, each [B, kv_heads, P, head_dim]."""


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
        self.layers = nn.ModuleList(Block(text, kind) for kind in text.layer_kinds)
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
        places = Places(self.text, attention_mask, inputs_embeds.shape[1], self.cos_cache, self.sin_cache)
        rows_BN = kept_rows(inputs_embeds.shape, places.seqlens_k.to(torch.int64), num_logits_to_keep)
        residual, delta, presents = inputs_embeds.to(self.lm_head.weight.dtype), None, []
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
        self.layers = nn.ModuleList(Block(text, kind) for kind in text.layer_kinds)
        self.register_buffer("cos_cache", torch.empty(text.max_position_embeddings, text.head_dim // 2))
        self.register_buffer("sin_cache", torch.empty(text.max_position_embeddings, text.head_dim // 2))

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, past_key_values: Cache) -> Cache:
        """The cache grown by T new tokens; shapes and conditions as those of `Decoder.forward`."""
        places = Places(self.text, attention_mask, inputs_embeds.shape[1], self.cos_cache, self.sin_cache)
        blocks = [cast(Block, layer) for layer in self.layers]
        residual, delta, presents = inputs_embeds.to(blocks[0].self_attn.qkv.weight.dtype), None, []
        for block, past in zip(blocks[:-1], past_key_values[:-1], strict=True):
            residual, delta, present = block(residual, delta, past, places, None)
            presents.append(present)
        x, _ = blocks[-1].attention_input(residual, delta)
        _, present = blocks[-1].self_attn(x, past_key_values[-1], places, projected=False)
        return [*presents, present]


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
    end_B = past_last_B.minimum(tensor_of(T - 1)).maximum(tensor_of(first_end))
    rows_BN = end_B.unsqueeze(1) + torch.arange(1 - count, 1)
    return rows_BN.clamp(min=0) + (torch.arange(B) * tensor_of(T)).unsqueeze(1)


def greedy_token(logits: Tensor) -> Tensor:
    """logits [B, N, V] → the most likely token after each row's last, int64 [B]; -1 where a logit is not finite."""
    last_BV = logits[:, -1]
    finite_B = last_BV.sum(dim=-1).abs() <= torch.finfo(torch.float32).max  # NaN and infinity outlive the sum
    return torch.where(finite_B, last_BV.argmax(dim=-1), -1)


def rotary_caches(config: TextConfig) -> tuple[Tensor, Tensor]:
    """cos and sin float32 [context, head_dim / 2] of position · frequency (arXiv:2104.09864), times the scale.

    Columns that pad a head beyond its `rotary_dim` stay at angle 0; of frequency 0, they are not scaled either.
    """
    frequencies = torch.tensor(config.inv_freq, dtype=torch.float32)
    frequencies = nn.functional.pad(frequencies, (0, config.head_dim // 2 - len(frequencies)))
    angles = torch.outer(torch.arange(config.max_position_embeddings).float(), frequencies)
    scale = torch.where(frequencies == 0, 1.0, config.rotary_scale)
    return angles.cos() * scale, angles.sin() * scale
