"""Checkpoints of any shape, for hypothesis: what `make_checkpoint` takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tests.factory import Text, Tower, Vision, Vocabulary
from tests.factory.families import MINISTRAL_ROPE, PIXTRAL_WORDS, ROPE_SCALINGS
from tests.factory.parts import Kind


@st.composite
def checkpoints(draw: st.DrawFn) -> dict[str, Any]:
    """Every tower with every text model; a few channels wide, a few layers deep."""
    vision = draw(visions())
    merge = draw(st.none() | st.integers(1, 3)) if vision.tower == "pixtral" else None
    vision = replace(vision, image_size=vision.image_size * (merge or 1))
    layer = st.integers(-vision.layers, -1) | st.integers(1, vision.layers)
    several = st.lists(st.integers(-vision.layers - 1, vision.layers), min_size=1, max_size=4)
    pixtral = vision.tower == "pixtral"
    vip = draw(st.booleans()) and not pixtral
    strategies = ["full"] if pixtral else ["default"] if vip else ["default", "full"]
    return {
        "text": draw(texts(("llama", "mistral", "qwen2", *(("ministral3",) if merge else ())))),
        "vision": vision,
        "vocabulary": PIXTRAL_WORDS if pixtral else Vocabulary(),
        "vip": vip,
        "merge": merge,
        "feature_layer": draw(layer if merge else layer | several.map(tuple)),
        "strategy": draw(st.sampled_from(strategies)),
        "projector_act": draw(st.sampled_from(["gelu", "gelu_pytorch_tanh", "relu"])),
        "projector_bias": draw(st.booleans()),
        "layout": draw(st.sampled_from(["released", "new", "saved"])),
        "dtype": draw(st.sampled_from(["float32", "bfloat16"])),
        "seed": draw(st.integers(0, 99)),
    }


@st.composite
def visions(draw: st.DrawFn) -> Vision:
    """A tower. A Pixtral's heads hold pairs of both directions: multiples of 4."""
    tower: Tower = draw(st.sampled_from(["clip", "siglip", "pixtral"]))
    heads = draw(st.sampled_from([1, 2, 5]))
    head_dim = draw(st.sampled_from([8, 12, 16] if tower == "pixtral" else [7, 8, 12]))
    patch = draw(st.sampled_from([7, 14]))
    return Vision(
        tower=tower,
        width=heads * head_dim,
        layers=draw(st.integers(1, 3)),
        heads=heads,
        mlp=draw(st.integers(1, 9)) * 7,
        image_size=4 * patch if tower == "pixtral" else draw(st.sampled_from([28, 30, 45])),
        patch_size=patch,
        act=draw(st.sampled_from(["quick_gelu", "gelu", "gelu_pytorch_tanh", "silu"])),
        rope_theta=draw(st.sampled_from([100.0, 1e4])),
    )


@st.composite
def texts(draw: st.DrawFn, kinds: tuple[Kind, ...] = ("llama", "mistral", "qwen2")) -> Text:
    """A text model; windows are shorter than prompts with an image, or than all prompts."""
    kind = draw(st.sampled_from(kinds))
    heads, kv_heads = draw(st.sampled_from([(1, 1), (4, 2), (6, 3), (5, 5), (8, 1)]))
    head_dim = draw(st.sampled_from([6, 8, 16, 24, 40]))
    layers = draw(st.integers(1, 4))
    return Text(
        kind=kind,
        width=heads * (head_dim if kind == "qwen2" else draw(st.sampled_from([8, 24]))),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=None if kind == "qwen2" else head_dim,
        mlp=draw(st.integers(1, 12)) * 9,
        rope_theta=draw(st.sampled_from([1e4, 1e6])),
        rope_scaling=MINISTRAL_ROPE
        if kind == "ministral3"
        else draw(st.none() | st.sampled_from(list(ROPE_SCALINGS.values()))),
        sliding_window=None if kind == "llama" else draw(st.none() | st.sampled_from([1, 3, 10])),
        full_layers=draw(st.integers(0, layers)),
        tied=draw(st.booleans()),
        attention_bias=kind == "llama" and draw(st.booleans()),
        mlp_bias=kind == "llama" and draw(st.booleans()),
    )
