"""Bundles in float16 and bfloat16: near the checkpoint, float32 at the interface, a float16 cache.

ONNX Runtime's CPU provider computes float16 graphs (by casting where it has no kernel). It has no bfloat16 kernels, so
those graphs are run with every bfloat16 made float32, which shows that what is wired is right, not how it rounds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

import pumice
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from pumice.export.recipes.recipe import PrecisionName
from pumice.export.trace.decoder import cache_names
from pumice.manifest import Manifest, load_manifest
from tests import oracle
from tests.bundle_files import graph_file
from tests.factory import Text, Vision, make_checkpoint

GRAPHS = ("vision_encoder", "embedding", "decoder")
TEXT = Text(width=64, layers=3, heads=4, kv_heads=2, mlp=96)
VARIANTS: dict[str, dict[str, Any]] = {
    "clip": {"text": TEXT},
    "siglip, tied, biases": {
        "vision": Vision(tower="siglip"),
        "text": Text(kind="qwen2", width=64, layers=3, heads=4, kv_heads=2, mlp=96, tied=True),
        "strategy": "full",
    },
}


def sessions(bundle: Path, precision: PrecisionName) -> dict[str, onnxruntime.InferenceSession]:
    opened = {}
    for name in GRAPHS:
        model: Any = graph_file(bundle, name)
        if precision == "bf16":
            model = widened(ir.load(model))
        opened[name] = onnxruntime.InferenceSession(model)
    return opened


def widened(model: ir.Model) -> bytes:
    """The graph with float32 for bfloat16."""
    for name, value in list(model.graph.initializers.items()):
        assert value.const_value is not None
        array = value.const_value.numpy()
        if value.const_value.dtype == ir.DataType.BFLOAT16:
            array = array.astype(np.float32)
        value.const_value = ir.tensor(array, name=name)
        value.type = ir.TensorType(value.const_value.dtype)
    for node in model.graph:
        for key, attribute in list(node.attributes.items()):
            if key in ("to", "dtype") and attribute.value == ir.DataType.BFLOAT16:
                node.attributes[key] = ir.AttrInt64(key, int(ir.DataType.FLOAT))
            if key == "value" and attribute.as_tensor().dtype == ir.DataType.BFLOAT16:
                wide = attribute.as_tensor().numpy().astype(np.float32)
                node.attributes[key] = ir.AttrTensor(key, ir.tensor(wide))
        for output in node.outputs:
            if output.dtype == ir.DataType.BFLOAT16:
                output.type = ir.TensorType(ir.DataType.FLOAT)
    return ir.to_proto(model).SerializeToString()


def logits(
    opened: dict[str, onnxruntime.InferenceSession],
    manifest: Manifest,
    ids: torch.Tensor,
    pixels: torch.Tensor,
) -> np.ndarray:
    features = opened["vision_encoder"].run(None, {"pixel_values": pixels.numpy()})[0]
    assert features.dtype == np.float32
    feeds = {"input_ids": ids.numpy(), "image_features": features}
    embeds = opened["embedding"].run(None, feeds)[0]
    assert embeds.dtype == np.float32
    shape = manifest.decoder
    past = np.zeros((1, shape.kv_heads, 0, shape.head_dim), shape.kv_dtype)
    feeds = dict.fromkeys(cache_names("past_key_values", shape.layers), past)
    feeds |= {"inputs_embeds": embeds, "attention_mask": np.ones(embeds.shape[:2], np.int64)}
    feeds["num_logits_to_keep"] = np.array(0)
    names = [output.name for output in opened["decoder"].get_outputs()]
    found = dict(zip(names, opened["decoder"].run(None, feeds), strict=True))
    given = np.asarray(found["logits"])
    assert given.dtype == np.float32
    presents = {value.dtype for name, value in found.items() if name.startswith("present.")}
    assert presents == {np.dtype(np.float16)}
    if "greedy_token" in found:
        np.testing.assert_array_equal(found["greedy_token"], given[:, -1].argmax(-1))
    return given


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.01), ("bf16", 0.06)])
def test_near_the_checkpoint(
    precision: PrecisionName, tolerance: float, variant: str, tmp_path: Path
) -> None:
    """The tolerance is for the mean error, in standard deviations; bfloat16 weights have 8 bits."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", **VARIANTS[variant])
    manifest = export_bundle(checkpoint, tmp_path / "bundle", precision=precision)
    assert manifest == load_manifest(tmp_path / "bundle")
    assert manifest.decoder.kv_dtype == "float16"
    assert manifest.precision.float_type == precision
    assert not manifest.precision.quantized
    ids, pixels = oracle.prompt(read_config(open_checkpoint(checkpoint).config))
    with torch.no_grad():
        expected = oracle.theirs(checkpoint)(input_ids=ids, pixel_values=pixels).logits.numpy()
    found = logits(sessions(tmp_path / "bundle", precision), manifest, ids, pixels)
    assert np.abs(found - expected).mean() < tolerance * expected.std()


def test_float_parameters_are_narrow(tmp_path: Path) -> None:
    """All but the patch convolution's; so a bundle is about half of float32's."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text=TEXT)
    export_bundle(checkpoint, tmp_path / "bundle", precision="bf16")
    wide = set()
    for name in GRAPHS:
        model = ir.load(graph_file(tmp_path / "bundle", name))
        for key, value in model.graph.initializers.items():
            assert value.const_value is not None
            if value.const_value.dtype == ir.DataType.FLOAT and not key.startswith("/"):
                wide.add(key)
    assert wide == {"tower.embeddings.patch_embedding"}


@pytest.mark.slow
def test_float16_generates(pebble_checkpoint: Path, pebble_bundle: Path, tmp_path: Path) -> None:
    """Through the runtime, whose cache is of the manifest's type: the words of float32."""
    export_bundle(pebble_checkpoint, tmp_path / "bundle", precision="fp16")
    image = pebble_checkpoint.parent / "heldout" / "stop-sign.png"
    answers = [
        pumice.load(bundle, device="cpu").generate("What is this?", images=[image], max_new_tokens=24).text
        for bundle in (pebble_bundle, tmp_path / "bundle")
    ]
    assert answers[0] == answers[1]
