"""Adapters over a base in 4-bit integers: what no adapter changes keeps the file's integers, the rest is rounded anew.

Oracle: the file's values, and the bundle of the checkpoint that PEFT merges in float32.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.torch import load_file

from pumice.errors import UsageError
from pumice.export.pipeline import export_bundle
from pumice.export.verify.comparison import verify_bundle
from tests.bundle_files import graph_file
from tests.export.adapters.test_adapted_export import graph_files, save_adapter, save_merged
from tests.export.test_quantised_checkpoints import INTEGERS, dequantized
from tests.factory import make_checkpoint
from tests.factory.parts import Text
from tests.factory.quantised import FOUR_BITS, quantise

pytestmark = pytest.mark.slow

TARGETS = r".*language_model\.layers\.(0\.self_attn\.q_proj|1\.mlp\.down_proj)"
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CHANGED = {"layers.0.self_attn.qkv", "layers.1.mlp.down"}
"""One of three parts of a matrix, and a whole one."""
ROUNDED = msgspec.structs.replace(
    INTEGERS, rotate=False, balance=False, decoder=msgspec.structs.replace(INTEGERS.decoder, search="k-quant")
)
"""How matrices are stored beside others that are left alone."""
TOLD = "2 matrices are int4 already and are quantised a second time"


@pytest.fixture(scope="module", params=["awq", "pack-quantized asymmetric"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A quantised base, its float32 twin, an adapter, and what PEFT makes of twin and adapter."""
    folder = tmp_path_factory.mktemp("packed")
    source = make_checkpoint(folder / "float", text=Text(mlp=96), dtype="bfloat16")
    quantised, plain = quantise(source, folder, FOUR_BITS[request.param])
    adapter = save_adapter(plain, folder / "adapter", target_modules=TARGETS)
    merged = save_merged(plain, folder / "merged", adapter)
    return {"quantised": quantised, "plain": plain, "adapter": adapter, "merged": merged}


def products(bundle: Path) -> tuple[dict[str, onnx.NodeProto], dict[str, np.ndarray]]:
    """The decoder's MatMulNBits by what they multiply with, and all that is stored."""
    model = onnx.load(graph_file(bundle, "decoder"))
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    return {node.input[1].partition(".weight.")[0].removesuffix("_proj"): node for node in nodes}, stored


def test_each_matrix_is_the_file_s_or_the_recipe_s(
    packed: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export_bundle(packed["quantised"], tmp_path / "bundle", recipe=INTEGERS, adapters=[packed["adapter"]])
    assert TOLD in caplog.text
    export_bundle(packed["merged"], tmp_path / "rounded", recipe=ROUNDED)
    values = load_file(packed["plain"] / "model.safetensors")
    ours, kept = products(tmp_path / "bundle")
    theirs, rounded = products(tmp_path / "rounded")
    assert len(ours) == 2 * 5
    for name, node in ours.items():
        if name in CHANGED:
            assert list(node.input[1:]) == list(theirs[name].input[1:])
            assert all(np.array_equal(kept[part], rounded[part]) for part in node.input[1:])
        else:
            start = f"language_model.model.{name}"
            parts = [f"{start[:-3]}{part}" for part in "qkv"] if name.endswith("qkv") else [start]
            expected = np.concatenate([values[f"{part}_proj.weight"].numpy() for part in parts])
            assert np.array_equal(dequantized(node, kept), expected)


@pytest.mark.parametrize("packed", ["awq"], indirect=True, scope="module")
def test_float_bundle_is_that_of_the_merged_checkpoint(packed: dict[str, Path], tmp_path: Path) -> None:
    """Nothing is rounded: (q − z) · s + B·A, byte by byte; verify reads the base and merges as well."""
    export_bundle(packed["quantised"], tmp_path / "ours", adapters=[packed["adapter"]])
    export_bundle(packed["merged"], tmp_path / "theirs")
    assert graph_files(tmp_path / "ours") == graph_files(tmp_path / "theirs")
    report = verify_bundle(
        tmp_path / "ours", packed["quantised"], adapters=[packed["adapter"]], max_new_tokens=4
    ).report
    assert report.summary.verdict == "exact"


@pytest.mark.parametrize("packed", ["awq"], indirect=True, scope="module")
def test_an_adapter_of_every_matrix_leaves_no_integers(packed: dict[str, Path], tmp_path: Path) -> None:
    """Then the recipe has its options again, for nothing is kept."""
    base, options = packed["quantised"], {"precision": "int4", "block_size": 16}
    with pytest.raises(UsageError, match="4-bit integers already, which are kept: leave it out"):
        export_bundle(base, tmp_path / "bundle", adapters=[packed["adapter"]], **options)
    every = save_adapter(packed["plain"], tmp_path / "every", target_modules=EVERY)
    manifest = export_bundle(base, tmp_path / "bundle", adapters=[every], **options)
    assert manifest.precision.block_size == 16
