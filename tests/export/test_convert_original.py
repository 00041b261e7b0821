"""`docs/convert_original.py`: a checkpoint put into the original's layout, and converted, is what it was."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPVisionModel

from pumice.errors import CheckpointError
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.config.tying import as_stored
from pumice.export.processor.load import load_processor
from pumice.models.tensor_names import check_names
from tests.factory import FAMILIES

SCRIPT = Path(__file__).parents[2] / "docs" / "convert_original.py"
TO_ORIGINAL = (
    (r"^vision_tower\.", "model.vision_tower.vision_tower."),
    (r"^multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"^multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    (r"^image_newline$", "model.image_newline"),
    (r"^language_model\.model\.", "model."),
    (r"^language_model\.", ""),
)
TYPES = {"llama": "llava_llama", "mistral": "llava_mistral", "qwen2": "llava_qwen"}
FAMILY_NAMES = ("llava-1.5", "llava-next", "llava-interleave", "llava-onevision")


@pytest.fixture(scope="module")
def convert() -> Any:
    return runpy.run_path(str(SCRIPT))["main"]


def original_name(name: str) -> str:
    return next(re.sub(old, new, name) for old, new in TO_ORIGINAL if re.search(old, name))


def put_back(made: Path, place: Path, *, tower_apart: bool, rows: int | None = None) -> tuple[Path, Path]:
    """The original's layout of a checkpoint of transformers', and its tower's folder."""
    config, tensors = json.loads((made / "config.json").read_text()), load_file(made / "model.safetensors")
    text, vision = config["text_config"], config["vision_config"]
    siglip = vision["model_type"].startswith("siglip")
    source, tower = place / "source", place / "tower"
    source.mkdir(parents=True)
    tower.mkdir()
    tiled = "image_grid_pinpoints" in config
    old = {k: v for k, v in text.items() if k not in ("model_type", "architectures")} | {
        "model_type": TYPES[text["model_type"]],
        "architectures": ["LlavaForCausalLM"],
        "mm_vision_tower": "org/tower",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_hidden_size": vision["hidden_size"],
        "mm_patch_merge_type": "spatial_unpad" if tiled else "flat",
        "image_aspect_ratio": config.get("vision_aspect_ratio", "anyres" if tiled else "pad"),
        "tie_word_embeddings": config["tie_word_embeddings"],
    }
    if tiled:
        old["image_grid_pinpoints"] = [[width, height] for height, width in config["image_grid_pinpoints"]]
    if rows is not None:
        old["vocab_size"] = rows
    (source / "config.json").write_text(json.dumps(old))
    # The original's SigLIP has left its last layer behind when it is saved.
    (tower / "config.json").write_text(
        json.dumps(vision | {"num_hidden_layers": vision["num_hidden_layers"] + siglip})
    )
    apart = {name: tensors.pop(name) for name in list(tensors) if name.startswith("vision_tower.")}
    if tower_apart:
        save_file({n.removeprefix("vision_tower."): t for n, t in apart.items()}, tower / "model.safetensors")
    else:
        tensors |= apart
    kept = {original_name(name): tensor for name, tensor in tensors.items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if rows is not None and name in kept:
            kept[name] = kept[name][:rows].clone()
    kept["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(kept, source / "model.safetensors")
    images = json.loads((made / "preprocessor_config.json").read_text())
    for key in ("image_grid_pinpoints", "do_pad", "processor_class"):
        images.pop(key, None)
    images["image_processor_type"] = "SiglipImageProcessor" if siglip else "CLIPImageProcessor"
    (tower / "preprocessor_config.json").write_text(json.dumps(images))
    settings = json.loads((made / "tokenizer_config.json").read_text())
    (place / "template.jinja").write_text(settings.pop("chat_template"))
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    for name in ("tokenizer.json", "special_tokens_map.json", "generation_config.json"):
        (source / name).write_bytes((made / name).read_bytes())
    return source, tower


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_converted_checkpoint_is_what_it_was(name: str, convert: Any, tmp_path: Path) -> None:
    made = FAMILIES[name](tmp_path / "made")
    source, tower = put_back(made, tmp_path, tower_apart=name == "llava-1.5")
    with pytest.raises(CheckpointError, match="original LLaVA's layout"):
        open_checkpoint(source)
    convert(source, tower, tmp_path / "target", tmp_path / "template.jinja")

    before, after = open_checkpoint(made), open_checkpoint(tmp_path / "target")
    assert after.names.keys() == before.names.keys()
    for canonical, own in after.names.items():
        was = before.read(before.names[canonical])
        assert after.read(own).dtype == was.dtype
        assert torch.equal(after.read(own), was), canonical
    was, config = (as_stored(read_config(opened.config), opened) for opened in (before, after))
    check_names(config, after.shapes())
    if name in ("llava-interleave", "llava-onevision"):  # the same layer, counted from the front
        assert config.vision_feature_layers == (was.vision.num_hidden_layers,)
    assert config == was

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 131, 3), np.uint8))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is shown?"}]}]
    prepared = []
    for folder, its in ((made, was), (tmp_path / "target", config)):
        processor = load_processor(folder, its)
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        prepared.append(processor(images=[image], text=prompt, return_tensors="np"))
    assert (prepared[0]["input_ids"] == prepared[1]["input_ids"]).all()
    assert (prepared[0]["pixel_values"] == prepared[1]["pixel_values"]).all()


def test_a_tower_that_transformers_has_saved_by_itself(convert: Any, tmp_path: Path) -> None:
    made = FAMILIES["llava-1.5"](tmp_path / "made")
    source, tower = put_back(made, tmp_path, tower_apart=True)
    CLIPVisionModel.from_pretrained(tower).save_pretrained(tower)
    convert(source, tower, tmp_path / "target")
    before, after = open_checkpoint(made), open_checkpoint(tmp_path / "target")
    assert after.names.keys() == before.names.keys()
    towers = [name for name in after.names if name.startswith("vision_tower.")]
    assert all(torch.equal(after.read(after.names[n]), before.read(before.names[n])) for n in towers)


@pytest.mark.parametrize("kind", ["llava_phi", "llava_mixtral"])
def test_text_models_that_are_not_known_are_refused(kind: str, convert: Any, tmp_path: Path) -> None:
    made = FAMILIES["llava-1.5"](tmp_path / "made")
    source, tower = put_back(made, tmp_path, tower_apart=False)
    config = json.loads((source / "config.json").read_text()) | {"model_type": kind}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit, match="is none of llama, mistral, qwen2"):
        convert(source, tower, tmp_path / "target")


def test_a_table_without_a_row_for_images_grows_by_zeros(convert: Any, tmp_path: Path) -> None:
    made = FAMILIES["llava-1.5"](tmp_path / "made")
    source, tower = put_back(made, tmp_path, tower_apart=False, rows=380)
    image = AutoTokenizer.from_pretrained(made).convert_tokens_to_ids("<image>")
    assert image == 382
    convert(source, tower, tmp_path / "target")
    after, before = open_checkpoint(tmp_path / "target"), open_checkpoint(made)
    assert after.config["text_config"]["vocab_size"] == 383
    for name in ("language_model.embed_tokens.weight", "lm_head.weight"):
        table = after.read(after.names[name])
        assert torch.equal(table[:380], before.read(before.names[name])[:380])
        assert table.shape == (383, 64)
        assert not table[380:].any()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([[336, 672], [1008, 336]], [[672, 336], [336, 1008]]),
        ("[[336, 672], [672, 336]]", [[672, 336], [336, 672]]),
        ("(1x1),...,(2x2)", [[10, 10], [20, 10], [10, 20], [20, 20]]),
    ],
)
def test_pinpoints_in_every_form(given: Any, expected: Any) -> None:
    assert runpy.run_path(str(SCRIPT))["pinpoints"](given, 10) == expected


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mm_projector_type": "linear"}, "transformers' classes have mlp2x_gelu only"),
        ({"mm_patch_merge_type": "spatial"}, "transformers' classes have spatial_unpad only"),
    ],
)
def test_what_no_class_has_is_refused(change: dict[str, Any], told: str) -> None:
    old = {
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "image_aspect_ratio": "anyres",
    }
    with pytest.raises(SystemExit, match=told):
        runpy.run_path(str(SCRIPT))["kind_of"](old | change)
