"""The released families, small: each with its own parts, its own files, and its own chat format.

Enters: a folder, and whatever `make_checkpoint` takes in place of the family's own. Leaves: the folder.
Seeds are such that no answer to the prompts of `tests/export/test_families.py` ends before its 32nd token, and that at
each of them the best logit stands 0.005 clear of the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.factory.checkpoint import make_checkpoint
from tests.factory.parts import Text, Vision
from tests.factory.templates import (
    CHATML,
    CHATML_VIDEO,
    LLAMA_3,
    MISTRAL,
    MISTRAL_SMALL,
    VICUNA_VIDEO,
    VIP,
)
from tests.factory.vocabulary import Vocabulary

Family = Callable[..., Path]

QWEN_WORDS = Vocabulary(
    before=(),
    after=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"),
    bos=None,
    eos="<|im_end|>",
    unk=None,
    pad="<|endoftext|>",
    adds_bos=False,
)
ONEVISION_WORDS = replace(QWEN_WORDS, after=(*QWEN_WORDS.after, "<video>"), video="<video>")
LLAMA_3_WORDS = Vocabulary(
    before=(),
    after=(
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<image>",
        "<pad>",
    ),
    bos="<|begin_of_text|>",
    eos="<|eot_id|>",
    unk=None,
    ends=("<|end_of_text|>",),
)
PIXTRAL_WORDS = Vocabulary(
    before=("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"),
    after=(),
    image="[IMG]",
)

MISTRAL_SMALL_WORDS = Vocabulary(
    before=(*PIXTRAL_WORDS.before, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), after=(), image="[IMG]"
)

SIGLIP = Vision(tower="siglip", width=36, heads=2, mlp=68, act="gelu_pytorch_tanh", eps=1e-6)
PIXTRAL = Vision(tower="pixtral", width=48, heads=3, mlp=80, image_size=64, patch_size=8, act="silu")
LLAMA_3_TEXT = Text(heads=8, kv_heads=2, width=96, rope_theta=5e5, vocab_size=640, spare_rows=64, context=256)

ROPE_SCALINGS: dict[str, dict[str, Any]] = {
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "linear": {"type": "linear", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "dynamic": {"type": "dynamic", "factor": 2.0},
}
"""As checkpoints have them under `rope_scaling`; `type` is the older name of `rope_type`."""
MINISTRAL_ROPE: dict[str, Any] = {
    "rope_type": "yarn",
    "type": "yarn",
    "factor": 16.0,
    "original_max_position_embeddings": 24,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
"""Its queries grow at every 24th position."""


GRANITE = {
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.02,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
}


def _family(**own: Any) -> Family:
    def make(folder: Path, **overrides: Any) -> Path:
        return make_checkpoint(folder, **(own | overrides))

    return make


def _llama_3(scaling: str | None = None, seed: int = 0) -> Family:
    rope = ROPE_SCALINGS[scaling] if scaling else None
    text = Text(**(vars(LLAMA_3_TEXT) | {"rope_scaling": rope}))
    return _family(text=text, vocabulary=LLAMA_3_WORDS, template=LLAMA_3, seed=seed)


def _interleave(seed: int, **text: Any) -> Family:
    qwen = Text(kind="qwen2", rope_theta=1e6, eps=1e-6, tied=True, spare_rows=8, **text)
    return _family(
        vision=SIGLIP,
        text=qwen,
        vocabulary=QWEN_WORDS,
        template=CHATML,
        feature_layer=-1,
        strategy="full",
        dtype="bfloat16",
        seed=seed,
    )


def _onevision(seed: int) -> Family:
    """With 9 features a tile, of which no more than two tiles' are kept."""
    return _family(
        vision=Vision(**(vars(SIGLIP) | {"image_size": 42})),
        text=Text(
            kind="qwen2", rope_theta=1e6, eps=1e-6, tied=True, spare_rows=8, width=112, heads=7, kv_heads=1
        ),
        vocabulary=ONEVISION_WORDS,
        template=CHATML_VIDEO,
        feature_layer=-1,
        strategy="full",
        pinpoints=tuple((42 * rows, 42 * columns) for rows in (1, 2, 3) for columns in (1, 2, 3)),
        anyres_max=2,
        dtype="bfloat16",
        seed=seed,
    )


def _mistral_3(seed: int, *, tower: dict[str, Any], **own: Any) -> Family:
    return _family(
        vision=Vision(**(vars(PIXTRAL) | tower)),
        vocabulary=MISTRAL_SMALL_WORDS,
        template=MISTRAL_SMALL,
        feature_layer=-1,
        strategy="full",
        projector_bias=False,
        dtype="bfloat16",
        seed=seed,
        **own,
    )


FAMILIES: dict[str, Family] = {
    "llava-1.5": _family(text=Text(kv_heads=4), dtype="float16", seed=1),
    "bakllava": _family(text=Text(kind="mistral", sliding_window=24), seed=13),
    "llava-interleave": _interleave(seed=10, width=112, heads=7, kv_heads=1),
    "llava-interleave-qwen1.5": _interleave(seed=8, width=64, heads=4, kv_heads=4),
    "llava-llama-3": _llama_3(),
    "llava-llama-3-llama3": _llama_3("llama3", seed=2),
    "llava-llama-3-linear": _llama_3("linear", seed=5),
    "llava-llama-3-yarn": _llama_3("yarn", seed=4),
    "llava-llama-3-dynamic": _llama_3("dynamic"),
    "joycaption": _family(
        vision=Vision(**(vars(SIGLIP) | {"layers": 4, "image_size": 42, "pooled": True})),
        text=Text(**(vars(LLAMA_3_TEXT) | {"rope_scaling": ROPE_SCALINGS["llama3"]})),
        vocabulary=LLAMA_3_WORDS,
        template=LLAMA_3,
        strategy="full",
        dtype="bfloat16",
        seed=2,
    ),
    "vip-llava": _family(
        vision=Vision(layers=12, width=32, heads=2, mlp=64),
        text=Text(kv_heads=4),
        vip=True,
        feature_layer=(-2, -5, -8, -11, 6),
        template=VIP,
        seed=6,
    ),
    "llava-next": _family(
        text=Text(kind="mistral"),
        template=MISTRAL.replace("[IMG]", "<image>"),
        dtype="float16",
        pinpoints=((56, 112), (112, 56), (112, 112), (168, 56), (56, 168)),
        seed=1,
    ),
    "granite-vision": _family(
        vision=Vision(**(vars(SIGLIP) | {"image_size": 42})),
        text=Text(kind="granite", width=96, tied=True, spare_rows=8, multipliers=GRANITE),
        vocabulary=QWEN_WORDS,
        template=CHATML,
        feature_layer=(-3, -2, 0, -1),
        strategy="full",
        pinpoints=tuple((42 * rows, 42 * (4 // rows)) for rows in (1, 2, 3, 4)),
        dtype="bfloat16",
        seed=3,
    ),
    "llava-next-siglip": _family(
        vision=Vision(
            tower="siglip", width=36, heads=2, mlp=68, act="gelu_pytorch_tanh", eps=1e-6, image_size=42
        ),
        text=Text(
            kind="qwen2", rope_theta=1e6, eps=1e-6, tied=True, spare_rows=8, width=96, heads=4, kv_heads=2
        ),
        vocabulary=QWEN_WORDS,
        template=CHATML,
        feature_layer=(-3, -2, 0, -1),
        strategy="full",
        pinpoints=tuple((42 * rows, 42 * (4 // rows)) for rows in (1, 2, 3, 4)),
        dtype="bfloat16",
        seed=3,
    ),
    "llava-onevision": _onevision(seed=31),
    "llava-onevision-clip": _family(
        text=Text(kv_heads=4),
        pinpoints=tuple((56 * rows, 56 * columns) for rows in (1, 2, 3) for columns in (1, 2, 3)),
        anyres_max=2,
        seed=2,
    ),
    "llava-next-video": _family(
        text=Text(kv_heads=4),
        vocabulary=Vocabulary(after=("<image>", "<video>", "<pad>"), video="<video>"),
        template=VICUNA_VIDEO,
        pinpoints=((56, 112), (112, 56), (112, 112), (168, 56), (56, 168)),
        video_pool="average",
        dtype="bfloat16",
        seed=25,
    ),
    "pixtral": _family(
        vision=PIXTRAL,
        text=Text(kind="mistral", width=80, heads=4, kv_heads=2, head_dim=32, rope_theta=1e9),
        vocabulary=PIXTRAL_WORDS,
        template=MISTRAL,
        feature_layer=-1,
        strategy="full",
        dtype="bfloat16",
        seed=9,
    ),
    "mistral-small": _mistral_3(
        seed=12,
        tower={"image_size": 112},
        text=Text(kind="mistral", width=80, heads=4, kv_heads=2, head_dim=32, rope_theta=1e9),
        merge=2,
    ),
    "ministral-3": _mistral_3(
        seed=3,
        tower={"image_size": 108, "patch_size": 6},
        text=Text(
            kind="ministral3",
            width=96,
            heads=4,
            kv_heads=2,
            head_dim=16,
            context=384,
            rope_theta=1e6,
            rope_scaling=MINISTRAL_ROPE,
            tied=True,
        ),
        merge=3,
    ),
}
"""name → function(folder, **overrides) → folder."""

TILED = (
    "llava-next",
    "llava-next-siglip",
    "granite-vision",
    "llava-onevision",
    "llava-onevision-clip",
    "llava-next-video",
)
"""Families whose images are cut into tiles, and joined outside the vision encoder."""
WITH_VIDEOS = ("llava-onevision", "llava-next-video")
