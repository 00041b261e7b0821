from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import pumice
from bench.real.bundle import FLOAT, Row, all_rows, bundle_reader, chosen_rows, export, size
from bench.real.windows import CONTEXT, windows
from pumice.export.recipes.recipe import NAMES
from pumice.manifest import load_manifest
from pumice.sessions.runs import Cancellation

PEBBLE = Path(__file__).parents[3] / "pebble" / "checkpoint"
IDS = [int(token) for token in np.random.default_rng(0).integers(10, 200, 400)]
POSITIONS = CONTEXT + 40
"""More than one part."""


@pytest.fixture(scope="module", params=[FLOAT, "cpu-fast"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / request.param
    export(Row(label=request.param, recipe=request.param), PEBBLE, folder)
    return folder


def test_every_recipe_for_cpus_is_a_row() -> None:
    labels = [row.label for row in all_rows()]
    assert labels[0] == FLOAT
    assert {name for name in NAMES if name.startswith("cpu-")} < set(labels)
    assert len(set(labels)) == len(labels)


def test_rows_are_named_or_files() -> None:
    assert chosen_rows([]) == all_rows()
    named = chosen_rows(["cpu-int8", "some/mine.toml"])
    assert [(row.label, row.recipe) for row in named] == [
        ("cpu-int8", "cpu-int8"),
        ("mine", "some/mine.toml"),
    ]


def test_labels_make_folders() -> None:
    assert Row(label="cpu-int4, calibrated", recipe="cpu-int4").folder == "cpu-int4--calibrated"


def test_options_reach_the_export(tmp_path: Path) -> None:
    row = Row(label="blocks of 64", recipe="cpu-int4", options={"block_size": 64, "context_length": 256})
    export(row, PEBBLE, tmp_path / row.folder)
    manifest = load_manifest(tmp_path / row.folder)
    assert manifest.precision.block_size == 64
    assert manifest.decoder.context_length == 256


def test_sizes(bundle: Path) -> None:
    paths = [path for path in bundle.rglob("*") if path.is_file()]
    found, files = size(bundle), {file.name: file.stat().st_size for file in paths}
    tower = sum(count for name, count in files.items() if name.startswith("vision_encoder"))
    graphs = sum(count for name, count in files.items() if re.search(r"\.onnx(_data)?$", name))
    graphs -= sum(count for name, count in files.items() if re.fullmatch(r"embed_tokens.*\.onnx", name))
    assert found.whole == pytest.approx(sum(files.values()) / 1e6)
    assert found.language == pytest.approx((graphs - tower) / 1e6)


def test_logits_are_those_of_answers(bundle: Path) -> None:
    """The first of each part are what a prompt gives that ends there: of a decoder over the prefill graph's cache."""
    (window,) = windows(IDS, POSITIONS)
    found_NV = np.concatenate(list(bundle_reader(bundle)(window)))
    assert found_NV.shape[0] == POSITIONS
    decoder = pumice.load(bundle, device="cpu", prefix_cache_bytes=0).pipeline.decoder
    nothing_MD = np.zeros((0, decoder.shape.hidden_size), np.float32)
    alone_NV = decoder.all_logits(window.read, nothing_MD)[window.context :]
    for place in (0, CONTEXT):
        ids = list(window.read[: window.context + place + 1])
        cache = decoder.new_cache(len(ids))
        expected_V = decoder.prefill(ids, ids, nothing_MD, cache, 0, Cancellation(), ends=True)
        np.testing.assert_allclose(found_NV[place], expected_V, atol=1e-4)
        if decoder.sessions.prefill is not None:
            assert np.abs(alone_NV[place] - expected_V).max() > 0.1


def test_every_scored_position_has_its_own_logits(bundle: Path) -> None:
    """Whatever the length of the last part."""
    for positions in (1, CONTEXT - 1, CONTEXT, CONTEXT + 1):
        (window,) = windows(IDS, positions)
        assert sum(len(part) for part in bundle_reader(bundle)(window)) == positions
