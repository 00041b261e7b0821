"""Every tensor of a checkpoint: its name in a layout, its shape, and how its values are spread."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tests.factory.parts import Layout, Llava, Text, Vision


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One tensor: values are `mean` + `std` × normal."""

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def all_tensors(model: Llava, layout: Layout) -> Iterator[Drawn]:
    """In the order in which seeds are given out."""
    top = "model." if layout == "new" else ""
    projector = f"{top}multi_modal_projector"
    text, head = {
        "released": ("language_model.model", "language_model.lm_head"),
        "saved": ("language_model.model", "language_model.lm_head"),
        "new": ("model.language_model", "lm_head"),
    }[layout]
    if model.vision.tower == "pixtral":
        yield from _pixtral(model.vision, f"{top}vision_tower")
    else:
        yield from _vit(
            model.vision, f"{top}vision_tower" + (".vision_model" if layout == "released" else "")
        )
    if model.pinpoints is not None:
        yield Drawn(name=f"{top}image_newline", shape=(model.text.width,), std=1.0)
    if model.vip:
        yield from _norm(f"{projector}.projector_layernorm", model.features, True)
    if model.merge is not None:
        yield from _norm(f"{projector}.norm", model.features, False)
        merged = model.features * model.merge**2
        yield from _linear(f"{projector}.patch_merger.merging_layer", model.features, merged, False)
    bias = model.projector_bias or model.vip
    yield from _linear(f"{projector}.linear_1", model.text.width, model.features, bias)
    yield from _linear(f"{projector}.linear_2", model.text.width, model.text.width, bias)
    yield from _text(model.text, text, head)


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> Iterator[Drawn]:
    yield Drawn(name=f"{name}.weight", shape=(outputs, inputs), std=inputs**-0.5)
    if bias:
        yield Drawn(name=f"{name}.bias", shape=(outputs,), std=0.1)


def _norm(name: str, width: int, bias: bool) -> Iterator[Drawn]:
    yield Drawn(name=f"{name}.weight", shape=(width,), std=0.1, mean=1.0)
    if bias:
        yield Drawn(name=f"{name}.bias", shape=(width,), std=0.1)


def _patches(name: str, v: Vision) -> Drawn:
    inputs = 3 * v.patch_size**2
    return Drawn(name=name, shape=(v.width, 3, v.patch_size, v.patch_size), std=inputs**-0.5)


def _vit(v: Vision, at: str) -> Iterator[Drawn]:
    clip = v.tower == "clip"
    if clip:
        yield Drawn(name=f"{at}.embeddings.class_embedding", shape=(v.width,), std=1.0)
    yield _patches(f"{at}.embeddings.patch_embedding.weight", v)
    if not clip:
        yield Drawn(name=f"{at}.embeddings.patch_embedding.bias", shape=(v.width,), std=0.1)
    positions = (v.patches + (1 if clip else 0), v.width)
    yield Drawn(name=f"{at}.embeddings.position_embedding.weight", shape=positions, std=0.5)
    if clip:
        yield from _norm(f"{at}.pre_layrnorm", v.width, True)
    for i in range(v.layers):
        layer = f"{at}.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{part}", v.width, v.width, True)
        yield from _norm(f"{layer}.layer_norm1", v.width, True)
        yield from _norm(f"{layer}.layer_norm2", v.width, True)
        yield from _linear(f"{layer}.mlp.fc1", v.mlp, v.width, True)
        yield from _linear(f"{layer}.mlp.fc2", v.width, v.mlp, True)
    yield from _norm(f"{at}.post_layernorm", v.width, True)
    if v.pooled:
        yield from _pooling_head(v, f"{at}.head")


def _pooling_head(v: Vision, at: str) -> Iterator[Drawn]:
    yield Drawn(name=f"{at}.probe", shape=(1, 1, v.width), std=1.0)
    yield Drawn(name=f"{at}.attention.in_proj_weight", shape=(3 * v.width, v.width), std=v.width**-0.5)
    yield Drawn(name=f"{at}.attention.in_proj_bias", shape=(3 * v.width,), std=0.1)
    yield from _linear(f"{at}.attention.out_proj", v.width, v.width, True)
    yield from _norm(f"{at}.layernorm", v.width, True)
    yield from _linear(f"{at}.mlp.fc1", v.mlp, v.width, True)
    yield from _linear(f"{at}.mlp.fc2", v.width, v.mlp, True)


def _pixtral(v: Vision, at: str) -> Iterator[Drawn]:
    yield _patches(f"{at}.patch_conv.weight", v)
    yield from _norm(f"{at}.ln_pre", v.width, False)
    for i in range(v.layers):
        layer = f"{at}.transformer.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield from _linear(f"{layer}.attention.{part}", v.width, v.width, False)
        yield from _norm(f"{layer}.attention_norm", v.width, False)
        yield from _linear(f"{layer}.feed_forward.gate_proj", v.mlp, v.width, False)
        yield from _linear(f"{layer}.feed_forward.up_proj", v.mlp, v.width, False)
        yield from _linear(f"{layer}.feed_forward.down_proj", v.width, v.mlp, False)
        yield from _norm(f"{layer}.ffn_norm", v.width, False)


def _text(t: Text, at: str, head: str) -> Iterator[Drawn]:
    table_std = 3 * t.width**-0.5  # logits spread by about 3
    yield Drawn(name=f"{at}.embed_tokens.weight", shape=(t.vocab_size, t.width), std=table_std)
    for i in range(t.layers):
        layer = f"{at}.layers.{i}"
        for part, heads in (("q_proj", t.heads), ("k_proj", t.kv_heads), ("v_proj", t.kv_heads)):
            yield from _linear(f"{layer}.self_attn.{part}", heads * t.head_size, t.width, t.qkv_bias)
        yield from _linear(f"{layer}.self_attn.o_proj", t.width, t.heads * t.head_size, t.attention_bias)
        yield from _linear(f"{layer}.mlp.gate_proj", t.mlp, t.width, t.mlp_bias)
        yield from _linear(f"{layer}.mlp.up_proj", t.mlp, t.width, t.mlp_bias)
        yield from _linear(f"{layer}.mlp.down_proj", t.width, t.mlp, t.mlp_bias)
        yield from _norm(f"{layer}.input_layernorm", t.width, False)
        yield from _norm(f"{layer}.post_attention_layernorm", t.width, False)
    if t.tied:  # of random signs, or every token's best successor would be itself
        yield Drawn(name=f"{at}.norm.weight", shape=(t.width,), std=1.0)
    else:
        yield from _norm(f"{at}.norm", t.width, False)
        yield Drawn(name=f"{head}.weight", shape=(t.vocab_size, t.width), std=table_std)
