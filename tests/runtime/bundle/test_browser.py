"""What a browser needs of a bundle: which files, how much at once, and why it would not do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pumice.bundle.browser import MOST_IN_A_FILE, PAGE, TABS, BrowserPlan, browser_plan
from pumice.cli.main import main
from pumice.errors import UsageError
from pumice.manifest import DecoderShape, FileEntry, Manifest, Precision, decode_manifest
from tests.manifest_examples import FOLDER

MIB = 2**20
SHAPE = DecoderShape(
    layers=8,
    kv_heads=4,
    head_dim=64,
    hidden_size=512,
    vocab_size=1000,
    context_length=4096,
    kv_dtype="float32",
)
"""16 KiB a position."""
VISION, TABLE, DECODER = 100 * MIB, 20 * MIB, 300 * MIB


def manifest(**sizes: int) -> Manifest:
    """A LLaVA-1.5's with graphs of these sizes, in float32."""
    found = decode_manifest((FOLDER / "llava-1.5.json").read_bytes(), "example")
    graphs, files = found.graphs, dict(found.files)
    given = {"vision_encoder": VISION, "embedding": TABLE, "decoder": DECODER} | sizes
    for name, size in given.items():
        graph = graphs.named[name]
        (data,) = graph.external_data
        files[data] = replace(files[data], size=size)
        files[graph.file] = replace(files[graph.file], size=0)
    return replace(found, decoder=SHAPE, files=files)


def planned(found: Manifest, **options: Any) -> BrowserPlan:
    plan = browser_plan(found, **options)
    assert plan is not None
    return plan


def test_float32_by_webassembly() -> None:
    """Floats are copied into another order within WebAssembly; the table is only looked up in."""
    found = manifest()
    plan = planned(found, context=1024)
    weights = round(1.65 * (VISION + DECODER)) + TABLE
    assert plan.processor == "wasm"
    assert plan.loading == {"page": PAGE, "fetched files": round(1.25 * plan.download), "weights": weights}
    assert plan.answering["weights"] == weights
    assert plan.answering["KV cache"] == 5 * 16 * MIB  # past and present, and three copies outside
    assert plan.answering["unpacked matrix"] == 0
    assert plan.computing == sum(plan.answering.values()) - PAGE - 3 * 16 * MIB
    assert plan.total == max(sum(plan.loading.values()), sum(plan.answering.values()))
    assert plan.obstacle is None


def test_what_is_fetched_is_what_a_page_opens() -> None:
    """The merged embedding's graph, genai's files and templates beside the tokenizer's own are not."""
    found = manifest()
    extra = FileEntry(size=7, sha256="0" * 64)
    found = replace(found, files={**found.files, "genai_config.json": extra, "processor_config.json": extra})
    plan = planned(found)
    assert {"onnx/embed_tokens.onnx", "processor_config.json", "tokenizer.json"} <= set(plan.files)
    assert not {"onnx/embedding.onnx", "genai_config.json", "chat_template.jinja"} & set(plan.files)
    assert plan.download == sum(found.files[name].size for name in plan.files)


def test_quantised_matrices_stay_as_they_are_but_the_head() -> None:
    names = ("vision_encoder/projector.linear_1.weight", "decoder/layers.0.mlp.up_proj.weight")
    precision = Precision(
        name="int4", float_type="fp32", bits=4, block_size=32, quantized=(*names, "decoder/lm_head.weight")
    )
    plan = planned(replace(manifest(), precision=precision))
    assert plan.loading["weights"] == VISION + DECODER + TABLE
    assert plan.answering["unpacked matrix"] == 4 * 1000 * 512


def test_float16_is_for_the_gpu() -> None:
    precision = Precision(name="fp16", float_type="fp16")
    found = replace(manifest(), precision=precision, decoder=replace(SHAPE, kv_dtype="float16"))
    gpu, wasm = planned(found, context=64), planned(found, context=64, processor="wasm")
    assert (gpu.processor, wasm.processor) == ("webgpu", "wasm")
    assert gpu.loading["weights"] == 0
    assert gpu.answering == {"page": PAGE}
    assert gpu.computing > gpu.download  # there instead
    assert wasm.loading["weights"] == round(2.75 * (VISION + DECODER)) + TABLE


def test_what_fits() -> None:
    little, much = TABS
    assert planned(manifest()).fits(little)
    large = planned(manifest(decoder=600 * MIB))
    assert (large.fits(little), large.fits(much)) == (False, True)
    assert large.obstacle is None
    huge = planned(manifest(decoder=1500 * MIB))
    assert (huge.fits(much), huge.obstacle) == (False, None)


def test_a_file_that_no_array_holds() -> None:
    at_most = planned(manifest(decoder=MOST_IN_A_FILE), processor="webgpu")
    assert at_most.obstacle is None
    above = planned(manifest(decoder=MOST_IN_A_FILE + 1), processor="webgpu")
    assert above.obstacle is not None
    assert above.obstacle.endswith("has 2,145 MB, a page fetches 2,145 MB at most")
    assert not above.fits(2**50)


def test_more_than_webassembly_has() -> None:
    many = planned(manifest(vision_encoder=1500 * MIB, decoder=1500 * MIB))
    assert many.obstacle is not None
    assert many.obstacle.endswith("are more than the 4,096 MiB that WebAssembly has")


def test_a_table_in_the_decoders_file_and_a_head_in_halves() -> None:
    found = manifest()
    decoder = found.graphs.decoder
    tied = replace(found.graphs.embedding, external_data=decoder.external_data)
    plan = planned(replace(found, graphs=replace(found.graphs, embedding=tied)))
    assert plan.obstacle is not None
    assert "web recipe" in plan.obstacle
    halves = Precision(name="int4", float_type="fp32", bits=4, quantized=("decoder/lm_head.residual",))
    plan = planned(replace(found, precision=halves))
    assert plan.obstacle is not None
    assert "GatherBlockQuantized" in plan.obstacle


def test_a_bundle_without_files_for_it() -> None:
    found = manifest()
    kept = {name: entry for name, entry in found.files.items() if "embed_tokens.onnx" not in name.split("/")}
    assert browser_plan(replace(found, files=kept)) is None
    tiles = decode_manifest((FOLDER / "llava-next.json").read_bytes(), "example")
    assert browser_plan(tiles) is None


@pytest.mark.parametrize("context", [0, 4097, True])
def test_a_context_outside_its_interval(context: int) -> None:
    with pytest.raises(UsageError, match="expected 1 to 4,096"):
        browser_plan(manifest(), context=context)


def test_the_command(pebble_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["info", str(pebble_bundle), "--plan", "--browser"]
    assert main(command) == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert rows["for"].strip().startswith("a page that computes by WebAssembly, 548 tokens")
    assert rows["fits"].strip() == "into a tab of 2 GiB"
    assert main([*command, "--context-length", "1000", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["context"], told["fits"]) == (1000, {"2 GiB": True, "4 GiB": True})
    assert told["download"] == sum(told["files"].values())
    assert main(["info", str(pebble_bundle)]) == 0
    assert "fits into a tab of 2 GiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--browser"], "--browser is for --plan"),
        (["--plan", "--browser", "--slots", "2"], "--slots is for pumice, not for a --browser"),
        (["--plan", "--browser", "--low-memory"], "--low-memory is for pumice"),
        (["--plan", "--browser", "--context-length", "0"], "context is 0, expected 1 to 2,048"),
    ],
)
def test_what_does_not_go_together(
    arguments: list[str], message: str, pebble_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(pebble_bundle), *arguments]) != 0
    assert message in capsys.readouterr().err
