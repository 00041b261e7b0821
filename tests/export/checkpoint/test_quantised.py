"""Weights that are quantised already: values as the formats define them, and refusals."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from pumice.errors import CheckpointError
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.pipeline import export_bundle
from tests.factory import make_checkpoint
from tests.factory.parts import Text
from tests.factory.quantised import BITSANDBYTES, EIGHT_BITS, FOUR_BITS, LAYER_MATRIX, ORDERED, quantise

EVERY = EIGHT_BITS | FOUR_BITS | ORDERED | BITSANDBYTES
WEIGHTS = "model.safetensors"
_TEXT = re.compile(r"language_model.*_proj\.weight$|(embed_tokens|lm_head)\.weight$")
MATRIX = "language_model.model.layers.0.mlp.up_proj"


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Of widths that 16 and 32 divide."""
    text = Text(width=64, heads=4, kv_heads=2, mlp=96)
    return make_checkpoint(tmp_path_factory.mktemp("float"), text=text, dtype="bfloat16")


@pytest.fixture(scope="session", params=EVERY)
def both(request, source, tmp_path_factory):
    packing = EVERY[request.param]
    return quantise(source, tmp_path_factory.mktemp("both"), packing)


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


def test_values_are_the_formats(both):
    quantised, plain = both
    read, expected = open_checkpoint(quantised), load_file(plain / WEIGHTS)
    assert set(read.tensors) == set(expected)
    for name, values in expected.items():
        assert read.read(name).dtype == values.dtype
        assert torch.equal(read.read(name), values)
        assert read.tensors[name].shape == values.shape
    assert any(LAYER_MATRIX.search(name) for name in read.quantised)
    assert read.nbytes(f"{MATRIX}.weight") == 4 * 96 * 64


def test_rows_are_the_matrix_in_any_cut(both):
    read = open_checkpoint(both[0])
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


@pytest.fixture
def packed(source, tmp_path):
    return lambda kind: quantise(source, tmp_path, FOUR_BITS[kind])[0]


INTS = torch.zeros(96, 8, dtype=torch.int32)


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("pack-quantized symmetric", {"weight_shape": None}, "has no weight_shape beside it"),
        ("pack-quantized symmetric", {"weight_scale": None}, "has no weight_scale beside it"),
        ("pack-quantized symmetric", {"weight_packed": torch.cat([INTS, INTS], 1)}, "expected [96, 8] words"),
        ("pack-quantized symmetric", {"weight_packed": INTS.float()}, "expected [96, 8] words"),
        ("pack-quantized symmetric", {"weight_g_idx": INTS[0]}, "in an order of their own (weight_g_idx)"),
        ("pack-quantized symmetric", {"weight_scale": torch.ones(96, 3)}, "one for each row and group"),
        ("pack-quantized symmetric", {"weight_scale": torch.ones(())}, "one for each row and group"),
        ("pack-quantized symmetric", {"weight_scale": INTS[:, :2].contiguous()}, "expected float scales"),
        ("pack-quantized asymmetric", {"weight_zero_point": INTS}, "expected [12, 4] words of zero points"),
        ("awq", {"qzeros": None}, "has no qzeros beside it"),
        ("awq", {"scales": torch.ones(2, 95)}, "one for each row and group"),
        ("awq", {"qzeros": torch.zeros(2, 12)}, "expected [2, 12] words of zero points"),
        ("awq", {"qweight": torch.zeros(64, 12)}, "expected words of a matrix"),
        ("awq", {"g_idx": torch.zeros(64)}, "not understood"),
        ("gptq symmetric", {"g_idx": torch.arange(64).int() // 16}, "names others than the 2 groups"),
        ("gptq symmetric", {"g_idx": torch.full((64,), -1).int()}, "names others than the 2 groups"),
        ("gptq symmetric", {"g_idx": torch.zeros(64)}, "expected g_idx with a group for each of 64 columns"),
        ("gptq symmetric", {"g_idx": torch.zeros(63).int()}, "a group for each of 64 columns"),
    ],
)
def test_integers_that_do_not_fit(packed, kind, change, told, tmp_path):
    folder = packed(kind)
    change_tensors(folder, **change)
    if told == "not understood":
        with pytest.raises(CheckpointError, match=told):
            export_bundle(folder, tmp_path / "bundle")
    else:
        assert told in refused(folder)


@pytest.mark.parametrize(
    ("kind", "points", "told"),
    [
        ("gptq symmetric", 5, "says that integers are symmetric, and zero points are not 8"),
        ("gptq asymmetric", 15, "a zero point is 16, which four bits do not hold"),
    ],
)
def test_zero_points_that_cannot_be(packed, kind, points, told):
    folder = packed(kind)
    zeros = load_file(folder / WEIGHTS)[f"{MATRIX}.qzeros"]
    zeros[1, 2] = zeros[1, 2] & ~0xF | points
    change_tensors(folder, qzeros=zeros)
    with pytest.raises(CheckpointError, match=told):
        open_checkpoint(folder).read(f"{MATRIX}.weight")


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("awq", {"bits": 8}, "quantised (awq) with bits 8"),
        ("awq", {"version": "gemv"}, "quantised (awq) with version 'gemv'"),
        ("awq", {"zero_point": False}, "quantised (awq) with zero_point False"),
        ("gptq symmetric", {"bits": 3}, "quantised (gptq) with bits 3"),
        ("gptq symmetric", {"checkpoint_format": "marlin"}, "with checkpoint_format 'marlin'"),
        ("gptq symmetric", {"dynamic": {"a": {}}}, "with dynamic {'a': {}}"),
    ],
)
def test_other_integers(packed, kind, change, told):
    folder = packed(kind)
    change_config(folder, **change)
    assert told in refused(folder)


@pytest.mark.parametrize("kind", ORDERED)
def test_columns_in_another_order_have_no_blocks(source, tmp_path, kind):
    folder, _ = quantise(source, tmp_path, ORDERED[kind])
    read = open_checkpoint(folder)
    assert {matrix.kind for matrix in read.quantised.values()} == {"int4"}
    assert not read.integers


def test_memory_of_columns_is_of_the_last_read(packed):
    """Words of a matrix are read once for all its rows, and two matrices at most are kept."""
    read = open_checkpoint(packed("awq"))
    recent = {id(matrix.recent) for matrix in read.quantised.values()}
    assert len(recent) == 1
    for name, matrix in read.quantised.items():
        for start in range(0, matrix.info.shape[0], 7):
            read.read_rows(name, start, min(start + 7, matrix.info.shape[0]))
        assert len(matrix.recent._kept) <= 6


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weight.absmax": torch.ones(95, dtype=torch.uint8)}, "expected 6,144 values in blocks of 64"),
        ({"weight.absmax": torch.ones(96)}, "and nested magnitudes in uint8"),
        ({"weight.quant_map": None}, "there is no quant_map beneath it"),
        ({"weight.quant_map": torch.ones(15)}, "expected 6,144 values in blocks of 64"),
        ({"weight.nested_absmax": torch.ones(2)}, "expected 96 magnitudes in blocks of 256"),
        ({"weight.quant_state.bitsandbytes__nf4": None}, "expected quant_state.bitsandbytes__nf4 or fp4"),
        ({"weight.quant_state.bitsandbytes__nf4": torch.zeros(3, dtype=torch.uint8)}, "is damaged"),
    ],
)
def test_tables_that_do_not_fit(source, tmp_path, change, told):
    folder, _ = quantise(source, tmp_path, BITSANDBYTES["nf4 nested"])
    change_tensors(folder, **change)
    assert told in refused(folder)
