"""Checkpoints that are quantised already, exported: the bundle that their float values make, and the same answers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file

import pumice
from pumice.errors import CheckpointError, UsageError
from pumice.export.calibration.drawn import drawn_image
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from pumice.export.processor.load import load_processor
from pumice.export.recipes.recipe import Override, Recipe, Storage
from pumice.export.verify.comparison import verify_bundle
from tests import oracle
from tests.bundle_files import data_file, graph_file
from tests.factory import FAMILIES, make_checkpoint
from tests.factory.parts import Text
from tests.factory.quantised import BITSANDBYTES, EIGHT_BITS, FOUR_BITS, ORDERED, Packing, quantise

pytestmark = pytest.mark.slow

TOLERANCE = 2e-4
NEW_TOKENS = 32
GRANITE = {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.25}
IMAGE = drawn_image(0, (60, 40))
MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is shown?"}]}]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("float"), text=Text(mlp=96), dtype="bfloat16")


def check_answers(bundle: Path, plain: Path, tolerance: float = TOLERANCE) -> None:
    """Logits and greedy tokens against transformers' model of the float values."""
    processor = load_processor(plain, read_config(open_checkpoint(plain).config))
    theirs = oracle.theirs(plain)
    shown = [{"role": "user", "content": [{"type": "image", "image": IMAGE}, MESSAGES[0]["content"][1]]}]
    inputs = processor.apply_chat_template(
        shown, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = theirs(**inputs).logits[0].numpy()
        tokens = theirs.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0]
    model = pumice.load(bundle, device="cpu", threads=1)
    assert expected.std() > 1  # or equality would mean little
    assert np.abs(model.logits(MESSAGES, [IMAGE]) - expected).max() <= tolerance
    result = model.generate(MESSAGES, [IMAGE], max_new_tokens=NEW_TOKENS)
    assert list(result.token_ids) == tokens[inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("kind", ["fp8 per tensor", "fp8 blocks", "float-quantized channel"])
def test_eight_bits_in_float32(source: Path, tmp_path: Path, kind: str) -> None:
    """The weights are bit for bit those of the float checkpoint; verify and transformers agree."""
    quantised, plain = quantise(source, tmp_path, EIGHT_BITS[kind])
    export_bundle(quantised, tmp_path / "bundle")
    export_bundle(plain, tmp_path / "expected")
    for name in ("decoder", "embedding", "vision_encoder"):
        found, expected = (data_file(tmp_path / folder, name) for folder in ("bundle", "expected"))
        assert found.read_bytes() == expected.read_bytes()
    report = verify_bundle(tmp_path / "bundle", quantised).report
    assert report.summary.passed
    assert report.summary.verdict == "exact"
    check_answers(tmp_path / "bundle", plain)


def test_ministral_as_released(tmp_path: Path) -> None:
    """float8 with a scale a matrix; tower, projector and head are none; scales of activations are left out.

    transformers reads the same values of it, without a graphics card.
    """
    scheme = EIGHT_BITS["fp8 per tensor"]
    kept = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
    scheme = replace(scheme, config={**scheme.config, "modules_to_not_convert": kept, "dequantize": False})
    quantised, plain = quantise(FAMILIES["ministral-3"](tmp_path / "float"), tmp_path, scheme)
    names = load_file(quantised / "model.safetensors").keys()
    assert {name.rpartition(".")[2] for name in names} == {"weight", "weight_scale_inv", "activation_scale"}
    theirs, values = oracle.theirs(quantised).state_dict(), oracle.theirs(plain).state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in values.items())
    export_bundle(quantised, tmp_path / "bundle")
    check_answers(tmp_path / "bundle", plain)
    assert verify_bundle(tmp_path / "bundle", quantised).report.summary.verdict == "exact"


def test_eight_bits_by_another_recipe(source: Path, tmp_path: Path) -> None:
    """Any recipe goes, rotation and balance too: rows are ordinary rows."""
    quantised, plain = quantise(source, tmp_path, EIGHT_BITS["float-quantized blocks"])
    for recipe, suffix in (("cpu-int4", "_q4"), ("cpu-w8a8", "_quantized")):
        files = [
            export_bundle(folder, tmp_path / recipe / folder.name, recipe=recipe).files
            for folder in (quantised, plain)
        ]
        name = f"onnx/decoder_model_merged{suffix}.onnx_data"
        assert files[0][name] == files[1][name]


INTEGERS = Recipe(
    name="integers",
    decoder=Storage(weights="int4", accuracy_level=0, search="activations"),
    rotate=True,
    balance=True,
    override=(Override(match="decoder/lm_head.weight", weights="float"),),
)
"""4-bit layers, computed as exactly as they can be; what would change matrices is left out for those of the file."""


@pytest.mark.parametrize("kind", FOUR_BITS)
def test_integers_are_the_files(source: Path, tmp_path: Path, kind: str) -> None:
    """What MatMulNBits has stands for the file's values exactly, and answers as transformers does with them."""
    quantised, plain = quantise(source, tmp_path, FOUR_BITS[kind])
    export_bundle(quantised, tmp_path / "bundle", recipe=INTEGERS)
    values = load_file(plain / "model.safetensors")
    file = graph_file(tmp_path / "bundle", "decoder")
    model = onnx.load(file)
    stored = {i.name: numpy_helper.to_array(i, str(file.parent)) for i in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == 2 * 5
    for node in products:
        at = re.match(r"layers\.(\d)\.(.*)\.weight\.int4", node.input[1])
        assert at is not None
        parts = (
            ["self_attn.q", "self_attn.k", "self_attn.v"] if "qkv" in at[2] else [at[2].removesuffix("_proj")]
        )
        names = [f"language_model.model.layers.{at[1]}.{part}_proj.weight" for part in parts]
        expected = torch.cat([values[name] for name in names])
        assert np.array_equal(dequantized(node, stored), expected.numpy())
    check_answers(tmp_path / "bundle", plain)


def dequantized(node: onnx.NodeProto, stored: dict[str, np.ndarray]) -> np.ndarray:
    """The matrix of a MatMulNBits, float32 [N, K]."""
    said = {a.name: a.i for a in node.attribute}
    packed, scales, *points = (stored[name] for name in node.input[1:])
    q = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*scales.shape, said["block_size"])
    zeros = np.full(scales.shape, 8, np.uint8)
    if points:
        zeros = np.stack([points[0] & 15, points[0] >> 4], axis=-1).reshape(len(scales), -1)
        zeros = zeros[:, : scales.shape[1]]
    made = (q.astype(np.float32) - zeros[:, :, None]) * scales.astype(np.float32)[:, :, None]
    return made.reshape(said["N"], -1)[:, : said["K"]]


@pytest.fixture(scope="module")
def awq(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return quantise(source, tmp_path_factory.mktemp("awq"), FOUR_BITS["awq"])


@pytest.mark.parametrize(
    "options",
    [{"block_size": 32}, {"symmetric": False}, {"search": "k-quant"}, {"calibrate": "text"}],
    ids=str,
)
def test_options_about_rounding_what_is_not_rounded(
    awq: tuple[Path, Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=r"4-bit integers already, which are kept: leave it out"):
        export_bundle(awq[0], tmp_path / "bundle", precision="int4", **options)


@pytest.mark.parametrize("change", [{"heads": 8, "kv_heads": 8}, {"kind": "granite", "multipliers": GRANITE}])
def test_models_that_change_their_matrices(tmp_path: Path, change: dict[str, Any]) -> None:
    """Heads of 8 are padded to 16, a Granite's multipliers are folded: in integers neither can be."""
    folder = make_checkpoint(tmp_path / "float", text=Text(mlp=96, **change))
    quantised, plain = quantise(folder, tmp_path, FOUR_BITS["awq"])
    with pytest.raises(CheckpointError, match=r"the weights of this model are changed at export"):
        export_bundle(quantised, tmp_path / "bundle", precision="int4")
    files = [export_bundle(path, tmp_path / f"b-{path.name}").files for path in (quantised, plain)]
    name = "onnx/decoder_model_merged.onnx_data"
    assert files[0][name] == files[1][name]


def test_scales_that_would_be_rounded(awq: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(INTEGERS, float_type="bf16")
    with pytest.raises(CheckpointError, match=r"float16 scales, which bfloat16 would round"):
        export_bundle(awq[0], tmp_path / "bundle", recipe=recipe)


def test_second_rounding_is_told(
    awq: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = "matrices are int4 already and are quantised a second time"
    export_bundle(awq[0], tmp_path / "int4", precision="int4")
    export_bundle(awq[0], tmp_path / "fp32")
    assert told not in caplog.text
    export_bundle(awq[0], tmp_path / "int8", precision="int8")
    assert f"10 {told}" in caplog.text


def test_usual_recipe_is_verified(awq: tuple[Path, Path], tmp_path: Path) -> None:
    """`int4` as users ask for it: the file's blocks, and a head and table of the recipe's own."""
    manifest = export_bundle(awq[0], tmp_path / "bundle", precision="int4", verify=True)
    assert (manifest.precision.block_size, manifest.precision.symmetric) == (32, False)
    assert manifest.parity is not None
    assert manifest.parity["same_input_ids"] == manifest.parity["cases"]


@pytest.mark.parametrize(
    ("packing", "kind"), [(BITSANDBYTES["nf4 nested"], "nf4"), (ORDERED["gptq in another order"], "int4")]
)
def test_what_has_no_blocks_is_rounded_a_second_time(
    packing: Packing, kind: str, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """float32 keeps what nf4 and GPTQ's `desc_act` stand for; 4-bit blocks do not, which is told."""
    quantised, plain = quantise(source, tmp_path, packing)
    export_bundle(quantised, tmp_path / "fp32")
    assert "a second time" not in caplog.text
    check_answers(tmp_path / "fp32", plain)
    export_bundle(quantised, tmp_path / "int4", precision="int4")
    assert f"10 matrices are {kind} already and are quantised a second time" in caplog.text
