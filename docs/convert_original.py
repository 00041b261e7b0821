"""The original LLaVA's layout becomes transformers', without a model in memory: docs/original-checkpoints.md.

    python convert_original.py SOURCE TOWER TARGET [chat_template.jinja]

Enters: a full checkpoint in safetensors, the folder of its vision tower (config.json, preprocessor_config.json, and its
weights in safetensors unless SOURCE has them), and a chat template. Leaves: a folder that transformers and pumice read.
Values are not touched; a table that has no rows for `<image>` and `<video>` grows by zeros, which nobody reads.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AddedToken, AutoConfig, AutoTokenizer

NAMES = (
    (r"^model\.vision_tower\.vision_tower\.", "vision_tower."),
    (r"^vision_model\.", "vision_tower.vision_model."),  # of the tower's own folder
    (r"^(?=(embeddings|encoder|pre_layrnorm|post_layernorm|head)\.)", "vision_tower.vision_model."),  # or so
    (r"^model\.mm_projector\.0\.", "multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "multi_modal_projector.linear_2."),
    (r"^model\.image_newline$", "image_newline"),
    (r"^model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)
LEFT_OUT = re.compile(
    r"rotary_emb\.inv_freq$|position_ids$|^model\.vision_resampler\.|^(text_model|logit_|\w+_projection)"
)
TABLES = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
CLASSES = {"llava": "Llava", "llava_next": "LlavaNext", "llava_onevision": "LlavaOnevision"}
TEXTS = {"llama": "llama", "mistral": "mistral", "qwen": "qwen2"}
STRATEGIES = {"patch": "default", "cls_patch": "full"}


def main(source: Path, tower: Path, target: Path, template: Path | None = None) -> None:
    """Convert."""
    old = read(source / "config.json")
    kind = kind_of(old)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    tokens = ["<image>", "<video>"] if kind == "llava_onevision" else ["<image>"]
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True
    )
    ids = tokenizer.convert_tokens_to_ids(tokens)
    target.mkdir(parents=True)
    rows, layers = write_weights(source, tower, target, max(ids), newline=kind != "llava")
    config = config_of(old, kind, tower, ids=ids, rows=rows, layers=layers)
    write(target / "config.json", config)
    tokenizer.save_pretrained(target)
    write_processor(config, tower, target)
    if (source / "generation_config.json").exists():
        shutil.copy(source / "generation_config.json", target)
    if template is not None:
        shutil.copy(template, target / "chat_template.jinja")


def kind_of(old: dict[str, Any]) -> str:
    """transformers' class, by how images are cut and their features joined."""
    projector = old.get("mm_projector_type", "linear")
    merge, aspect = old.get("mm_patch_merge_type", "flat"), old.get("image_aspect_ratio", "square")
    if projector != "mlp2x_gelu":
        raise SystemExit(f"the projector is {projector!r}: transformers' classes have mlp2x_gelu only")
    if merge == "flat" or not aspect.startswith("anyres"):
        return "llava"
    if merge != "spatial_unpad":
        raise SystemExit(f"mm_patch_merge_type is {merge!r}: transformers' classes have spatial_unpad only")
    return "llava_onevision" if aspect.startswith("anyres_max_") else "llava_next"


def write_weights(source: Path, tower: Path, target: Path, last: int, newline: bool) -> tuple[int, int]:
    """Shard by shard under transformers' names; the tables' rows (one for `last` among them); the tower's layers."""
    files = sorted(source.glob("*.safetensors"))
    if not any("vision_tower" in name for file in files for name in names_in(file)):
        files += sorted(tower.glob("*.safetensors"))
    weight_map: dict[str, str] = {}
    rows = 0
    for number, file in enumerate(files, 1):
        shard = f"model-{number:05}-of-{len(files):05}.safetensors"
        tensors = {}
        for name, tensor in renamed(file):
            if name in TABLES:
                missing = max(0, last + 1 - len(tensor))
                tensor = (
                    torch.cat([tensor, tensor.new_zeros(missing, tensor.shape[1])]) if missing else tensor
                )
                rows = len(tensor)
            if newline or name != "image_newline":
                tensors[name] = tensor
        save_file(tensors, target / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard)
    write(target / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    numbers = [re.search(r"^vision_tower\..*\.layers\.(\d+)\.", name) for name in weight_map]
    return rows, 1 + max(int(number[1]) for number in numbers if number)


def names_in(file: Path) -> list[str]:
    """The names of a file's tensors."""
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def renamed(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """A file's tensors by their new names."""
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 (no mapping)
            if not LEFT_OUT.search(name):
                row = next((row for row in NAMES if re.search(row[0], name)), None)
                if row is None:
                    raise SystemExit(f"{file} has {name}, which is not understood")
                yield re.sub(*row, name), opened.get_tensor(name)


def config_of(
    old: dict[str, Any], kind: str, tower: Path, *, ids: list[int], rows: int, layers: int
) -> dict[str, Any]:
    """The config in sections: the text model's keys stand at the top of the old one."""
    called = f"{old['model_type']} {old.get('architectures')}".lower()
    text = next((text for part, text in TEXTS.items() if part in called.replace("llava", "")), None)
    if text is None:
        raise SystemExit(f"the text model of {called} is none of {', '.join(TEXTS.values())}")
    known = {*AutoConfig.for_model(text).to_dict(), "rope_theta", "rope_scaling"} - {"architectures"}
    whole = AutoConfig.from_pretrained(tower, trust_remote_code=False)
    vision = getattr(whole, "vision_config", whole)
    siglip = "siglip" in vision.model_type
    config = {
        "model_type": kind,
        "architectures": [f"{CLASSES[kind]}ForConditionalGeneration"],
        "text_config": {k: v for k, v in old.items() if k in known}
        | {"model_type": text, "vocab_size": rows},
        "vision_config": vision.to_dict() | {"num_hidden_layers": layers},
        "image_token_index": ids[0],
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": old.get("tie_word_embeddings", False),
        "torch_dtype": old.get("torch_dtype"),
        # The original's SigLIP drops its last layer, whatever it is told, and takes what comes out of the others.
        "vision_feature_layer": vision.num_hidden_layers - 1 if siglip else old["mm_vision_select_layer"],
        "vision_feature_select_strategy": "full"
        if siglip
        else STRATEGIES[old.get("mm_vision_select_feature", "patch")],
    }
    if kind != "llava":
        config["image_grid_pinpoints"] = pinpoints(old["image_grid_pinpoints"], vision.image_size)
    if kind == "llava_onevision":
        config |= {"vision_aspect_ratio": old["image_aspect_ratio"], "video_token_index": ids[1]}
    return config


def pinpoints(given: Any, tile: int) -> list[list[int]]:
    """(height, width), where the original has (width, height); `(1x1),…,(6x6)` are all grids of that many tiles."""
    if isinstance(given, str) and "x" in given:
        low, *_, high = re.findall(r"\((\d+)x(\d+)\)", given)
        columns, rows = (range(int(low[i]), int(high[i]) + 1) for i in (0, 1))
        return [[tile * row, tile * column] for column in columns for row in rows]
    pairs = ast.literal_eval(given) if isinstance(given, str) else given
    return [[height, width] for width, height in pairs]


def write_processor(config: dict[str, Any], tower: Path, target: Path) -> None:
    """How images are prepared, and how many tokens they have."""
    name, vision = CLASSES[config["model_type"]], config["vision_config"]
    images = read(tower / "preprocessor_config.json") | {"processor_class": f"{name}Processor"}
    if name != "Llava":
        images |= {
            "image_processor_type": f"{name}ImageProcessor",
            "image_grid_pinpoints": config["image_grid_pinpoints"],
            "do_pad": True,
        }
    write(target / "preprocessor_config.json", images)
    strategy = config["vision_feature_select_strategy"]
    processor = {
        "processor_class": f"{name}Processor",
        "image_token": "<image>",
        "vision_feature_select_strategy": strategy,
    }
    if name == "LlavaOnevision":
        processor |= {
            "video_token": "<video>",
            "num_image_tokens": (vision["image_size"] // vision["patch_size"]) ** 2,
            "vision_aspect_ratio": config["vision_aspect_ratio"],
        }
    else:
        clip = "clip" in vision["model_type"]
        processor |= {"patch_size": vision["patch_size"], "num_additional_image_tokens": int(clip)}
    write(target / "processor_config.json", processor)


def read(file: Path) -> dict[str, Any]:
    """A JSON file's object."""
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def write(file: Path, content: dict[str, Any]) -> None:
    """An object as a JSON file."""
    file.write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 5:
        raise SystemExit(__doc__)
    main(*map(Path, sys.argv[1:]))
