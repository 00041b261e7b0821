"""All mutations, in a fixed order: some drawn at random (by seeds that never change), some made on purpose."""

from __future__ import annotations

import json
import math
from itertools import cycle
from typing import Any

import torch

from tests.export.mutations import files, values, weights
from tests.export.mutations.mutation import Apply, Mutation
from tests.factory import FAMILIES

SHARDED = {"shard_bytes": 40_000}
NEW = {"layout": "new"}

DRAWN: dict[str, tuple[int, Apply]] = {
    "config": (96, values.any_value("config.json")),
    "preprocessor": (24, values.any_value("preprocessor_config.json")),
    "processor": (10, values.any_value("processor_config.json")),
    "generation": (8, values.any_value("generation_config.json")),
    "tokenizer settings": (10, values.any_value("tokenizer_config.json")),
    "tokenizer": (12, values.any_value("tokenizer.json")),
    "cut": (14, files.cut),
    "flipped byte": (16, files.flipped),
    "flipped bit in header": (10, weights.flipped_in_header),
    "missing file": (4, files.missing),
    "swapped files": (6, files.swapped),
    "exchanged tensors": (3, weights.tensors(weights.exchanged)),
}
"""name → how many are drawn, over the families in turn."""

CONFIG: dict[str, tuple[str, Any]] = {
    "layers 1e9": ("text_config.num_hidden_layers", 10**9),
    "tower layers 1e9": ("vision_config.num_hidden_layers", 10**9),
    "context 1e9": ("text_config.max_position_embeddings", 10**9),
    "vocabulary 1e12": ("text_config.vocab_size", 10**12),
    "image 1e9": ("vision_config.image_size", 10**9),
    "patch 1e9": ("vision_config.patch_size", 10**9),
    "width 1e12": ("text_config.hidden_size", 10**12),
    "tower width 1e12": ("vision_config.hidden_size", 10**12),
    "head width 1e12": ("text_config.head_dim", 10**12),
    "heads 1e12": ("text_config.num_attention_heads", 10**12),
    "eps NaN": ("text_config.rms_norm_eps", math.nan),
    "eps negative": ("text_config.rms_norm_eps", -1e-5),
    "eps text": ("text_config.rms_norm_eps", "1e-5"),
    "tower eps infinite": ("vision_config.layer_norm_eps", math.inf),
    "theta zero": ("text_config.rope_theta", 0),
    "theta negative": ("text_config.rope_theta", -10000.0),
    "theta 1e308": ("text_config.rope_theta", 1e308),
    "theta other": ("text_config.rope_theta", 5e5),
    "feature layer 0": ("vision_feature_layer", 0),
    "feature layers": ("vision_feature_layer", [-2, 1]),
    "feature layers 1e6": ("vision_feature_layer", [1] * 10**6),
    "feature layers none": ("vision_feature_layer", []),
    "biases text": ("text_config.attention_bias", "yes"),
    "projector bias null": ("multimodal_projector_bias", None),
    "tied text": ("tie_word_embeddings", "false"),
    "tied": ("tie_word_embeddings", True),
    "unknown": ("use_mixture_of_experts", True),
    "unknown with a line": ("two\nlines", 1),
    "unknown in text": ("text_config.num_experts", 8),
    "unknown without value": ("text_config.num_experts", None),
    "code": ("auto_map", {"AutoModel": "evil.Model"}),
    "quantised by bitsandbytes": ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "quantised by compressed-tensors": ("text_config.quantization_config", {"quant_method": "compressed-tensors"}),
    "quantised, odd": ("quantization_config", [1, 2]),
    "gemma": ("text_config.model_type", "gemma"),
    "opt": ("text_config.model_type", "opt"),
    "dinov2": ("vision_config.model_type", "dinov2"),
    "LLaVA-NeXT": ("model_type", "llava_next"),
    "text only": ("model_type", "llama"),
    "other architecture": ("architectures", ["LlavaNextForConditionalGeneration"]),
    "architectures of rubbish": ("architectures", [{"a": 1}, None]),
    "null section": ("vision_config", None),
    "list section": ("text_config", []),
    "empty section": ("text_config", {}),
    "activation": ("text_config.hidden_act", "relu"),
    "activation unknown": ("projector_hidden_act", "snake"),
    "rope of rubbish": ("text_config.rope_scaling", {"rope_type": "yarn", "factor": "two"}),
    "rope longrope": ("text_config.rope_scaling", {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}),
    "rope factor 0": ("text_config.rope_scaling", {"type": "linear", "factor": 0}),
    "rope deep": ("text_config.rope_scaling", json.loads("[" * 500 + "]" * 500)),
    "image token beyond": ("image_token_index", 10**6),
    "image token a word": ("image_token_index", 100),
    "dtype": ("torch_dtype", "float8_e4m3fn"),
    "dtype of rubbish": ("text_config.torch_dtype", [1]),
}  # fmt: skip

IMAGES: dict[str, tuple[str, Any]] = {
    "size 0": ("size", {"shortest_edge": 0}),
    "size negative": ("size", {"height": -56, "width": -56}),
    "size 1e12": ("size", {"shortest_edge": 10**12}),
    "size text": ("size", "large"),
    "size both": ("size", {"height": 56, "width": 56}),
    "crop 1e9": ("crop_size", {"height": 10**9, "width": 10**9}),
    "mean negative": ("image_mean", [-1.0, -2.0, -3.0]),
    "mean NaN": ("image_mean", [math.nan] * 3),
    "mean of two": ("image_mean", [0.5, 0.5]),
    "deviation 0": ("image_std", [0.5, 0.0, 0.5]),
    "deviation null": ("image_std", None),
    "filter 99": ("resample", 99),
    "filter 0": ("resample", 0),
    "rescale infinite": ("rescale_factor", math.inf),
    "rescale 0": ("rescale_factor", 0),
    "padding": ("do_pad", True),
    "no crop": ("do_center_crop", False),
    "text for a flag": ("do_resize", "no"),
    "class unknown": ("image_processor_type", "NoImageProcessor"),
    "class other": ("image_processor_type", "ViTImageProcessor"),
    "code": ("auto_map", {"AutoImageProcessor": "evil.Processor"}),
    "unknown": ("do_sharpen", True),
}

PROCESSOR: dict[str, tuple[str, Any]] = {
    "patch 7": ("patch_size", 7),
    "patch text": ("patch_size", "14"),
    "patch 0": ("patch_size", 0),
    "class": ("processor_class", "Qwen2VLProcessor"),
    "class of rubbish": ("processor_class", 7),
    "image token": ("image_token", "<picture>"),
    "image token a number": ("image_token", 7),
}

GENERATION: dict[str, tuple[str, Any]] = {
    "end beyond": ("eos_token_id", 10**12),
    "end a list": ("eos_token_id", [2, 2, 10**6]),
    "end text": ("eos_token_id", "</s>"),
    "end nothing": ("eos_token_id", []),
    "pad negative": ("pad_token_id", -1),
    "tokens 0": ("max_new_tokens", 0),
    "tokens 1e12": ("max_new_tokens", 10**12),
    "temperature": ("temperature", -3.0),
}

TEMPLATES = {
    "open tag": "{% for message in messages %}",
    "unknown filter": "{{ messages | frobnicate }}",
    "always raises": "{{ raise_exception('no') }}",
    "endless": "{% for a in range(10**9) %}{% for b in range(10**9) %}x{% endfor %}{% endfor %}",
    "not a template": "hello",
    "empty": "",
}

WEIGHTS: dict[str, Apply] = {
    "renamed": weights.renamed(lambda name: name + ".old"),
    "renamed with a line": weights.renamed(lambda name: name + "\n\x1b[31m"),
    "renamed to another prefix": weights.renamed(lambda name: "base_model." + name),
    "adapter beside": weights.doubled(lambda name: name.replace(".weight", ".lora_A.weight") + "_"),
    "doubled by prefix": weights.doubled(lambda name: "model." + name),
    "packed": weights.doubled(lambda name: name + ".absmax"),
    "missing": weights.tensors(lambda loaded, name, _: loaded.pop(name)),
    "flat": weights.reshaped(lambda tensor: tensor.reshape(-1, 1, 1)),
    "longer": weights.reshaped(lambda tensor: torch.cat([tensor, tensor])),
    "empty": weights.reshaped(lambda tensor: tensor[:0]),
    "scalar": weights.reshaped(lambda tensor: torch.tensor(1.0)),
    "one in float64": weights.reshaped(lambda tensor: tensor.double()),
    "one in bfloat16": weights.reshaped(lambda tensor: tensor.bfloat16()),
    "one in int8": weights.reshaped(lambda tensor: tensor.to(torch.int8)),
    "one in float8": weights.reshaped(lambda tensor: tensor.to(torch.float8_e4m3fn)),
    "one in bool": weights.reshaped(lambda tensor: tensor > 0),
    "one in complex64": weights.reshaped(lambda tensor: tensor.to(torch.complex64)),
    "all in float64": weights.all_in(torch.float64),
    "all in float16": weights.all_in(torch.float16),
    "NaN in the table": weights.poked(math.nan, "embed_tokens.weight"),
    "infinity in a norm": weights.poked(-math.inf, "norm.weight"),
    "NaN somewhere": weights.poked(math.nan),
    "1e300 in a projection": weights.poked(1e300, "q_proj.weight"),
    "no tensors": weights.tensors(lambda loaded, *_: loaded.clear()),
    "shape transposed": weights.header(lambda head, name, _: head[name]["shape"].reverse()),
    "shape negative": weights.entry(shape=[-1]),
    "shape huge": weights.entry(shape=[1 << 40, 1 << 40]),
    "shape text": weights.entry(shape="big"),
    "offsets beyond": weights.entry(data_offsets=[0, 1 << 50]),
    "offsets swapped": weights.entry(data_offsets=[64, 0]),
    "dtype other": weights.entry(dtype="I32"),
    "dtype unknown": weights.entry(dtype="Q4_K"),
    "entry no object": weights.header(lambda head, name, _: head.update({name: 3})),
    "doubled key": weights.doubled_key,
    "metadata odd": weights.header(lambda head, *_: head.update(__metadata__={"format": 3})),
}

SHARDS: dict[str, Apply] = {
    "swapped": weights.swapped_shards,
    "copied": weights.copied_shard,
    "whole beside": weights.joined_beside_shards,
    "stale": weights.stale_shard,
    "damaged": weights.on_shard(weights.flipped_in_header),
    "other dtype": weights.on_shard(weights.all_in(torch.float64)),
    "index outside": weights.in_index("../../etc/model.safetensors"),
    "index to code": weights.in_index("model.bin"),
    "index to a number": weights.in_index(3),
    "index to nowhere": weights.in_index("model-00077.safetensors"),
    "index to another": weights.in_index("model-00002-of-00003.safetensors"),
    "index without one": weights.index(lambda content, name, _: content["weight_map"].pop(name)),
    "index with more": weights.index(lambda c, name, _: c["weight_map"].update(more=c["weight_map"][name])),
    "index without map": weights.index(lambda content, *_: content.pop("weight_map")),
    "index of lists": weights.index(lambda content, *_: content.update(weight_map=[])),
}

FILES: dict[str, Apply] = {
    "config a folder": files.folder_instead("config.json"),
    "tokenizer a folder": files.folder_instead("tokenizer.json"),
    "generation a folder": files.folder_instead("generation_config.json"),
    "weights a folder": files.folder_instead("model.safetensors"),
    "weights a dead link": files.link_to_nowhere("model.safetensors"),
    "tokenizer a dead link": files.link_to_nowhere("tokenizer.json"),
    "images a circle": files.closed("preprocessor_config.json"),
    "settings a circle": files.closed("tokenizer_config.json"),
    "no tokenizer settings": files.gone("tokenizer_config.json"),
    "no image settings": files.gone("preprocessor_config.json"),
    "no processor": files.gone("processor_config.json", "chat_template.json"),
    "pointer of git-lfs": files.content("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
    "zip as weights": files.content("model.safetensors", b"PK\x03\x04" + bytes(100)),
    "adapter": files.content("adapter_config.json", b"{}"),
    "GPTQ": files.content("quantize_config.json", b"{}"),
    "AWQ": files.content("quant_config.json", b"{}"),
    "stray pickle": files.content("pytorch_model.bin", b"\x80\x04N."),
    "pieces of rubbish": files.content("tokenizer.model", bytes(range(256))),
    "UTF-16 config": files.content("config.json", "{}".encode("utf-16")),
    "UTF-16 template": files.content("chat_template.jinja", "{{ x }}".encode("utf-16")),
    "deep JSON": files.content("processor_config.json", b"[" * 100_000),
    "long number": files.content("generation_config.json", b'{"max_new_tokens": ' + b"9" * 5000 + b"}"),
    "other vocabulary": files.tokenizer(lambda parsed, _: parsed["model"]["vocab"].clear()),
    "no added tokens": files.tokenizer(lambda parsed, _: parsed["added_tokens"].clear()),
    "added token moved": files.tokenizer(lambda parsed, _: parsed["added_tokens"][-1].update(id=99)),
    "added token 1e12": files.tokenizer(lambda parsed, _: parsed["added_tokens"][-1].update(id=10**12)),
    "subword prefix": files.tokenizer(lambda parsed, _: parsed["model"].update(continuing_subword_prefix="prefix")),
    "other model": files.tokenizer(lambda parsed, _: parsed.update(model={"type": "Nonsense"})),
    "regular expression": files.tokenizer(
        lambda parsed, _: parsed.update(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "((("}, "behavior": "Isolated", "invert": False}
        )
    ),
}  # fmt: skip


def catalogue(times: int = 1) -> list[Mutation]:
    """All mutations; with `times` as many of those that are drawn."""
    turn = cycle(FAMILIES)
    found = []
    for name, (count, apply) in DRAWN.items():
        found += [_made(f"{name} {number}", next(turn), apply) for number in range(1, count * times + 1)]
    settings = {
        "config.json": CONFIG,
        "preprocessor_config.json": IMAGES,
        "processor_config.json": PROCESSOR,
        "generation_config.json": GENERATION,
    }
    for file, table in settings.items():
        for name, (path, value) in table.items():
            apply = values.setting(file, tuple(path.split(".")), value)
            found.append(_made(f"{file.partition('_')[0].removesuffix('.json')}: {name}", next(turn), apply))
    for name, text in TEMPLATES.items():
        found.append(_made(f"template: {name}", next(turn), files.templates(text)))
    for name, apply in WEIGHTS.items():
        found.append(_made(f"weights: {name}", next(turn), apply))
    for name, apply in FILES.items():
        found.append(_made(f"files: {name}", next(turn), apply))
    for name, apply in SHARDS.items():
        found.append(_made(f"shards: {name}", next(turn), apply, SHARDED))
    return found


def _made(name: str, family: str, apply: Apply, options: dict[str, Any] | None = None) -> Mutation:
    return Mutation(name=name, family=family, apply=apply, options=options or {})


MUTATIONS = catalogue()
