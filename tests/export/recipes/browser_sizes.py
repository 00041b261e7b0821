"""What models of usual sizes need in a browser: the table of docs/clients/browser.md, of configurations alone.

Enters: nothing. Leaves: lines of Markdown. `python -m tests.export.recipes.browser_sizes` prints them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pumice.bundle.browser import TABS, BrowserPlan, browser_plan
from pumice.export.config.llava import read_config
from pumice.export.recipes.recipe import load_recipe
from pumice.export.recipes.storage import graph_bytes, precision_of, storage_of
from pumice.manifest import DecoderShape, FileEntry, Manifest, decode_manifest
from pumice.models.config import LlavaConfig
from tests.manifest_examples import FOLDER

SIGLIP: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
PIXTRAL: dict[str, Any] = {
    "model_type": "pixtral",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "head_dim": 64,
    "image_size": 1540,
    "patch_size": 14,
}
TEXTS: dict[str, dict[str, Any]] = {
    "0.5B": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 152000,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
    "1B": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "3B": {
        "model_type": "ministral3",
        "hidden_size": 3072,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 131072,
        "max_position_embeddings": 16384,
        "tie_word_embeddings": True,
    },
    "7B": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
    },
}
DEFAULT = {"vision_feature_select_strategy": "default"}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "0.5B": (
        "llava-interleave-qwen-0.5b",
        SIGLIP,
        {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
        "llava-interleave",
    ),
    "1B": ("CLIP and Llama 3.2 1B", CLIP, DEFAULT, "llava-1.5"),
    "3B": (
        "Ministral 3 3B",
        PIXTRAL,
        {"model_type": "mistral3", "spatial_merge_size": 2},
        "mistral-small",
    ),
    "7B": ("LLaVA-1.5 7B", CLIP, DEFAULT, "llava-1.5"),
}
RECIPES: tuple[Literal["web-int4", "web-q4f16"], ...] = ("web-int4", "web-q4f16")


def config_of(size: str) -> LlavaConfig:
    """Of one of the models."""
    _, vision, whole, _ = MODELS[size]
    text = TEXTS[size]
    tied = bool(text.get("tie_word_embeddings", False))
    given = {"model_type": "llava", "image_token_index": 5, "tie_word_embeddings": tied}
    given |= {
        "text_config": text,
        "vision_config": vision,
        **whole,
    }
    return read_config(given)


def planned(size: str, recipe: str) -> BrowserPlan:
    """Of one of the models; without its tokenizer and the structure of its graphs, which are megabytes."""
    _, vision, _, example = MODELS[size]
    config, chosen = config_of(size), load_recipe(recipe)
    form = storage_of(chosen, config)
    sizes = graph_bytes(form, config)
    manifest = decode_manifest((FOLDER / f"{example}.json").read_bytes(), example)
    decoder = config.text
    side = vision["image_size"] // vision["patch_size"]
    image, tokens = manifest.image, manifest.image_tokens
    if tokens.per_image is None:
        image = replace(image, resize_longest_edge=vision["image_size"], multiple_of=28)
        tokens = replace(tokens, patch_size=28, merge_size=2)
    else:
        image = replace(image, size=(vision["image_size"],) * 2)
        tokens = replace(tokens, per_image=side**2)
    return _plan(
        replace(
            manifest,
            image=image,
            image_tokens=tokens,
            precision=precision_of(chosen, form, rotated=False),
            decoder=DecoderShape(
                layers=decoder.num_hidden_layers,
                kv_heads=decoder.num_key_value_heads,
                head_dim=decoder.head_dim,
                hidden_size=decoder.hidden_size,
                vocab_size=decoder.vocab_size,
                context_length=decoder.max_position_embeddings,
                kv_dtype="float32" if chosen.float_type == "fp32" else "float16",
            ),
        ),
        sizes,
    )


def _plan(manifest: Manifest, sizes: dict[str, int]) -> BrowserPlan:
    """With files of these sizes, each graph's in one file of its own."""
    graphs, files, named = manifest.graphs, {"tokenizer.json": _entry(0)}, {}
    for name, size in sizes.items():
        data = f"onnx/{name}.onnx_data"
        graph = replace(getattr(graphs, name), file=f"onnx/{name}.onnx", external_data=(data,))
        named[name] = graph
        files |= {data: _entry(size), graph.file: _entry(0), "onnx/embed_tokens.onnx": _entry(0)}
    found = browser_plan(replace(manifest, graphs=replace(graphs, **named), files=files))
    assert found is not None
    return found


def _entry(size: int) -> FileEntry:
    return FileEntry(size=size, sha256="0" * 64)


def lines() -> list[str]:
    """The table, a line a model and recipe."""
    told = [
        "| model | recipe | fetched | largest file | the tab, at most | computing | fits |",
        "|---|---|---|---|---|---|---|",
    ]
    for size, (name, *_) in MODELS.items():
        for recipe in RECIPES:
            plan = planned(size, recipe)
            largest = max(plan.files.values())
            fits = [f"{tab >> 30} GB" for tab in TABS if plan.fits(tab)]
            where = "" if plan.processor == "wasm" else " of the GPU"
            why = (
                "no: the largest file"
                if plan.obstacle and "fetches" in plan.obstacle
                else "no: WebAssembly's 4 GB"
            )
            cells = [
                f"{size}: {name}",
                f"`{recipe}`",
                *(f"{value / 1e6:,.0f} MB" for value in (plan.download, largest, plan.total)),
            ]
            cells += [
                f"{plan.computing / 1e6:,.0f} MB{where}",
                why if plan.obstacle else f"in {fits[0]}" if fits else "not in 4 GB",
            ]
            told.append(f"| {' | '.join(cells)} |")
    return told


if __name__ == "__main__":
    print("\n".join(lines()))
