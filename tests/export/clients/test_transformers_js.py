"""Files for Transformers.js: complete, true to the manifest, and understood by Python's transformers alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoConfig

import pumice
from pumice.export.clients.json_files import read_object
from pumice.export.clients.transformers_js import refusal
from pumice.export.config.text_families import TEXT_FAMILIES
from pumice.export.pipeline import export_bundle
from pumice.export.processor.load import load_processor
from pumice.manifest import decode_manifest, load_manifest
from tests.export.clients.conftest import Bundles
from tests.factory import make_checkpoint
from tests.manifest_examples import FOLDER, NAMES

QUESTION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is shown?"}]}]
OWN = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")


def picture() -> Image.Image:
    y, x = np.mgrid[:30, :50]
    return Image.fromarray(np.stack([x * 5, y * 8, (x + y) * 3], -1).astype(np.uint8))


@pytest.mark.parametrize("family", ["llava-1.5", "llava-interleave", "pixtral"])
def test_python_reads_the_same_files_as_pumice_answers_by(bundles: Bundles, family: str) -> None:
    """Ids with as many image tokens, and pixels: transformers' processor made of the bundle alone."""
    bundle = bundles[family].bundle
    processor = load_processor(bundle, bundles[family].config)
    text = processor.apply_chat_template(QUESTION, add_generation_prompt=True)
    bos = processor.tokenizer.bos_token
    begun = bos is not None and text.startswith(bos)
    theirs = processor(images=[picture()], text=[text], return_tensors="np", add_special_tokens=not begun)
    ours = pumice.load(bundle, device="cpu").prepare(QUESTION, [picture()])
    assert theirs["input_ids"].tolist() == ours.input_ids.tolist()
    assert np.array_equal(theirs["pixel_values"], ours.pixel_values)
    assert processor.tokenizer.padding_side == "right"


@pytest.mark.parametrize("family", ["llava-1.5", "llava-interleave", "pixtral"])
def test_the_config_is_complete(bundles: Bundles, family: str) -> None:
    found, manifest = bundles[family].json("config.json"), bundles[family].manifest
    text, decoder = found["text_config"], manifest.decoder
    assert text["model_type"] == manifest.source.text_model_type
    assert (text["num_hidden_layers"], text["num_key_value_heads"]) == (decoder.layers, decoder.kv_heads)
    assert (text["head_dim"], text["hidden_size"]) == (decoder.head_dim, decoder.hidden_size)
    assert found["image_token_index"] == manifest.image_tokens.token_id
    assert AutoConfig.from_pretrained(bundles[family].bundle).model_type == "llava"


@pytest.mark.parametrize(
    ("family", "suffix", "dtype", "with_data"),
    [
        ("llava-1.5", "", "fp32", {"vision_encoder", "embed_tokens", "decoder_model_merged"}),
        ("llava-interleave", "_q4", "q4", {"vision_encoder", "decoder_model_merged"}),
        ("pixtral", "_fp16", "fp16", {"vision_encoder", "embed_tokens", "decoder_model_merged"}),
    ],
)
def test_names_of_files_and_dtype_belong_together(
    bundles: Bundles, family: str, suffix: str, dtype: str, with_data: set[str]
) -> None:
    """A tied table lies in the decoder's file, which `embed_tokens` shares."""
    found = bundles[family].json("config.json")["transformers.js_config"]
    assert found == {"dtype": dtype, "use_external_data_format": dict.fromkeys(with_data, 1)}
    folder = bundles[family].bundle / "onnx"
    for name in ("vision_encoder", "embed_tokens", "decoder_model_merged"):
        assert (folder / f"{name}{suffix}.onnx").is_file()
        assert (folder / f"{name}{suffix}.onnx_data").is_file() == (name in with_data)


def test_the_template_is_in_the_tokenizers_file(bundles: Bundles) -> None:
    found = bundles["llava-interleave"]
    assert found.manifest.chat.template_file is not None
    template = (found.bundle / found.manifest.chat.template_file).read_text()
    assert found.json("tokenizer_config.json")["chat_template"] == template


def test_everything_is_listed(bundles: Bundles) -> None:
    found = bundles["llava-1.5"]
    files = {path.relative_to(found.bundle).as_posix() for path in found.bundle.rglob("*") if path.is_file()}
    assert files == {*found.manifest.files, "manifest.json", "README.md"}
    assert pumice.load(found.bundle, device="cpu").generate("hi", max_new_tokens=1).token_ids


def test_a_model_that_it_knows_under_another_name() -> None:
    """ViP-LLaVA's graphs have LLaVA's inputs and outputs."""
    manifest = decode_manifest((FOLDER / "vip-llava.json").read_bytes(), "vip-llava")
    assert manifest.source.model_type == "vipllava"
    assert refusal(manifest) is None


@pytest.mark.parametrize("kind", TEXT_FAMILIES)
def test_which_text_models_it_takes(kind: str) -> None:
    """Those that its `getNormalizedConfig` has a case for; the others' caches it would not name."""
    manifest = decode_manifest((FOLDER / "llava-1.5.json").read_bytes(), "llava-1.5")
    told = refusal(replace(manifest, source=replace(manifest.source, text_model_type=kind)))
    assert (told is None) == (kind not in ("glm4", "seed_oss", "exaone4", "nemotron"))
    assert told is None or kind in told


@pytest.mark.parametrize("name", NAMES)
def test_which_models_it_takes(name: str) -> None:
    """By the manifests of docs/manifests."""
    told = refusal(decode_manifest((FOLDER / f"{name}.json").read_bytes(), name))
    assert (told is None) == (name not in ("llava-next", "llava-next-video", "llava-onevision"))
    assert told is None or "tiles" in told


@pytest.mark.parametrize("family", ["llava-next", "vip-llava"])
def test_what_it_cannot_take_is_left_as_it_was(bundles: Bundles, family: str) -> None:
    """Tiles, and bfloat16: the checkpoint's own files, and no graph for it."""
    found = bundles[family]
    assert not list((found.bundle / "onnx").glob("embed_tokens*.onnx"))
    for name in OWN:
        assert read_object(found.checkpoint / name) == read_object(found.bundle / name)
    assert "transformers.js_config" not in found.json("config.json")


def test_without_clients(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    export_bundle(checkpoint, tmp_path / "bundle", clients=False)
    names = set(load_manifest(tmp_path / "bundle").files)
    assert not names & {"genai_config.json", "genai_processor.json", "onnx/embed_tokens.onnx"}
    assert json.loads((tmp_path / "bundle" / "config.json").read_bytes()) == read_object(
        checkpoint / "config.json"
    )
