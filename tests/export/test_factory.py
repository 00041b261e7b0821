import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoProcessor
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.processor.load import load_processor
from tests import oracle
from tests.factory import FAMILIES, Layout, Text, Vision, make_checkpoint

MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is shown?"}]}]
PLAIN: dict[str, object] = {}
ODD: dict[str, object] = {
    "vision": Vision(width=40, layers=2, heads=5, mlp=72, image_size=42),
    "text": Text(width=60, heads=6, kv_heads=3, head_dim=24, tied=True, attention_bias=True, mlp_bias=True),
    "feature_layer": (-2, -1),
    "strategy": "full",
    "projector_bias": False,
    "shard_bytes": 100_000,
}


def last_logits(checkpoint: Path) -> tuple[torch.Tensor, int]:
    model, report = LlavaForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    processor = AutoProcessor.from_pretrained(checkpoint)
    image = Image.fromarray(np.arange(90 * 70 * 3, dtype=np.uint32).astype(np.uint8).reshape(70, 90, 3))
    prompt = processor.apply_chat_template(MESSAGES, add_generation_prompt=True)
    inputs = processor(images=image, text=prompt, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    return logits, int((inputs["input_ids"] == model.config.image_token_id).sum())


@pytest.mark.parametrize("options", [PLAIN, ODD], ids=["plain", "odd"])
def test_every_layout_loads_in_transformers_with_the_same_values(tmp_path, options):
    layouts: tuple[Layout, ...] = ("released", "saved", "new")
    found = [last_logits(make_checkpoint(tmp_path / layout, layout=layout, **options)) for layout in layouts]
    assert all(torch.equal(found[0][0], logits) for logits, _ in found)
    assert {tokens for _, tokens in found} == {16 if options is PLAIN else 10}
    assert found[0][0].std() > 1


def test_weights_depend_on_the_seed_alone(tmp_path):
    one = make_checkpoint(tmp_path / "one", seed=3)
    two = make_checkpoint(tmp_path / "two", seed=3)
    other = make_checkpoint(tmp_path / "other", seed=4)
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_shards_cover_every_tensor_once(tmp_path):
    folder = make_checkpoint(tmp_path / "c", shard_bytes=50_000, dtype="bfloat16")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    sizes = [path.stat().st_size for path in folder.glob("model-*.safetensors")]
    assert len(sizes) > 2
    assert set(index["weight_map"].values()) == {path.name for path in folder.glob("model-*.safetensors")}
    assert sum(sizes) > index["metadata"]["total_size"]


@pytest.mark.parametrize("layout", ["released", "saved", "new"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_in_transformers(family, layout, tmp_path):
    """No tensor is missing or left over, and the tokenizer's ids lie inside of the embedding table."""
    folder = FAMILIES[family](tmp_path, layout=layout)
    model = oracle.theirs(folder)
    processor = load_processor(folder, read_config(open_checkpoint(folder).config))
    assert len(processor.tokenizer) <= model.config.text_config.vocab_size
    assert processor.image_token_id == model.config.image_token_id
    text = processor.apply_chat_template(MESSAGES, add_generation_prompt=True)
    assert processor.image_token in text


def test_families_have_the_released_names(tmp_path):
    """Some names of the public checkpoints, by family."""
    names = {}
    for family in ("llava-1.5", "llava-interleave", "vip-llava", "pixtral", "mistral-small"):
        with safe_open(FAMILIES[family](tmp_path / family) / "model.safetensors", "pt") as file:
            names[family] = set(file.keys())
    vit = "vision_tower.vision_model.encoder.layers.0.self_attn.out_proj.bias"
    assert {vit, "vision_tower.vision_model.pre_layrnorm.weight"} <= names["llava-1.5"]
    assert {vit, "vision_tower.vision_model.embeddings.patch_embedding.bias"} <= names["llava-interleave"]
    assert "language_model.model.layers.0.self_attn.k_proj.bias" in names["llava-interleave"]
    assert "multi_modal_projector.projector_layernorm.bias" in names["vip-llava"]
    assert {
        "vision_tower.patch_conv.weight",
        "vision_tower.ln_pre.weight",
        "vision_tower.transformer.layers.0.attention.o_proj.weight",
        "vision_tower.transformer.layers.0.attention_norm.weight",
        "vision_tower.transformer.layers.0.feed_forward.gate_proj.weight",
        "vision_tower.transformer.layers.0.ffn_norm.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
    } <= names["pixtral"]
    assert not any(name.startswith("vision_tower.vision_model") for name in names["pixtral"])
    merging = {"multi_modal_projector.norm.weight", "multi_modal_projector.patch_merger.merging_layer.weight"}
    assert names["mistral-small"] - names["pixtral"] == merging
