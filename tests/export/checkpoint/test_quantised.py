"""Weights that are quantised already: values as the formats define them, and refusals."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from pumice.errors import CheckpointError
from pumice.export.checkpoint.folder import open_checkpoint
from tests.factory import make_checkpoint
from tests.factory.parts import Text
from tests.factory.quantised import EIGHT_BITS, LAYER_MATRIX, quantise

WEIGHTS = "model.safetensors"
_TEXT = re.compile(r"language_model.*_proj\.weight$|(embed_tokens|lm_head)\.weight$")
MATRIX = "language_model.model.layers.0.mlp.up_proj"


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Of widths that 16 and 32 divide."""
    text = Text(width=64, heads=4, kv_heads=2, mlp=96)
    return make_checkpoint(tmp_path_factory.mktemp("float"), text=text, dtype="bfloat16")


@pytest.fixture(scope="session", params=EIGHT_BITS)
def eight_bits(request, source, tmp_path_factory):
    return quantise(source, tmp_path_factory.mktemp("eight"), EIGHT_BITS[request.param])


@pytest.fixture
def blocks(source, tmp_path):
    return quantise(source, tmp_path, EIGHT_BITS["fp8 blocks"])[0]


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


def change_tensors(folder, **changes):
    tensors = load_file(folder / WEIGHTS) | {f"{MATRIX}.{part}": tensor for part, tensor in changes.items()}
    save_file({n: t for n, t in tensors.items() if t is not None}, folder / WEIGHTS)


def refused(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_values_are_the_formats(eight_bits):
    quantised, plain = eight_bits
    read, expected = open_checkpoint(quantised), load_file(plain / WEIGHTS)
    assert set(read.tensors) == set(expected)
    for name, values in expected.items():
        assert read.read(name).dtype == values.dtype
        assert torch.equal(read.read(name), values)
        assert read.tensors[name].shape == values.shape
    assert any(LAYER_MATRIX.search(name) for name in read.quantised)
    assert read.nbytes(f"{MATRIX}.weight") == 4 * 96 * 64


def test_rows_are_the_matrix_in_any_cut(eight_bits):
    read = open_checkpoint(eight_bits[0])
    name = f"{MATRIX}.weight"
    whole = read.read(name)
    for start, stop in ((0, 1), (0, 0), (15, 17), (23, 49), (95, 96), (31, 96)):
        assert torch.equal(read.read_rows(name, start, stop), whole[start:stop])


@pytest.mark.parametrize("kind", ["fp8 per tensor", "fp8 blocks"])
def test_values_are_those_of_transformers(source, tmp_path, kind):
    folder, _ = quantise(source, tmp_path, EIGHT_BITS[kind])
    tensors, read = load_file(folder / WEIGHTS), open_checkpoint(folder)
    for name in read.quantised:
        parts = {"weight": tensors[name], "weight_scale_inv": tensors[f"{name}_scale_inv"]}
        dequantise = Fp8Dequantize(None)._dequantize_one
        expected = dequantise(parts["weight"], parts["weight_scale_inv"], output_dtype=torch.float32)
        assert torch.equal(read.read(name), expected)


def test_what_most_weights_are(source, tmp_path):
    assert open_checkpoint(source).dtype == "bfloat16"
    folder, _ = quantise(source, tmp_path, EIGHT_BITS["fp8 blocks"], matrices=_TEXT)
    assert open_checkpoint(folder).dtype == "float8_e4m3fn"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"quant_method": "quark"}, "quantised (quark): read are fp8, fbgemm_fp8"),
        ({"scale_fmt": "ue8m0"}, "quantised (fp8) with scales in 'ue8m0'"),
        ({"quant_method": "compressed-tensors"}, "in the format None"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "'nvfp4-pack-quantized'"),
        (
            {"quant_method": "compressed-tensors", "format": "float-quantized", "transform_config": {"a": 1}},
            "with a transform_config, which is not undone",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "float-quantized",
                "sparsity_config": {"format": "sparse-24-bitmask"},
            },
            "with a sparsity_config, which is not undone",
        ),
    ],
)
def test_other_methods(blocks, change, told):
    change_config(blocks, **change)
    message = refused(blocks)
    assert told in message
    assert "use the checkpoint with float weights" in message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weight_scale_inv": None}, "is F8_E4M3 and has no weight_scale beside it"),
        ({"weight_scale_inv": torch.ones(7, 2)}, "have shape [7, 2]"),
        ({"weight_scale_inv": torch.ones(6, 2, 1)}, "have shape [6, 2, 1]"),
        ({"weight_scale_inv": torch.ones(0, 2)}, "have shape [0, 2]"),
        ({"weight_scale_inv": torch.ones(6, 2, dtype=torch.uint8)}, "are U8"),
        ({"weight_zero_point": torch.zeros(6, 2)}, "has zero points"),
        ({"weight": torch.ones(96, 64)}, "block-wise float8"),
        ({"weight": torch.ones(96).to(torch.float8_e4m3fn)}, "and no matrix"),
    ],
)
def test_parts_that_do_not_fit(blocks, change, told):
    change_tensors(blocks, **change)
    assert told in refused(blocks)


def test_numbers_that_are_none(blocks):
    numbers = load_file(blocks / WEIGHTS)[f"{MATRIX}.weight"]
    numbers.view(torch.uint8)[3, 5] = 0x7F
    change_tensors(blocks, weight=numbers)
    with pytest.raises(CheckpointError, match="expected finite float32 numbers"):
        open_checkpoint(blocks).read(f"{MATRIX}.weight")


def test_float8_without_a_word_in_the_config(blocks):
    config = json.loads((blocks / "config.json").read_text())
    del config["quantization_config"]
    (blocks / "config.json").write_text(json.dumps(config))
    assert "block-wise float8" in refused(blocks)
