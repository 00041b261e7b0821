import json
import tempfile
from pathlib import Path

import pytest

from pumice.benchmark.node_bytes import node_weights
from pumice.benchmark.profiler import Recording, record
from pumice.benchmark.report import recording_json, recording_table
from pumice.benchmark.workload import Workload, synthetic_image
from pumice.manifest import load_manifest

WORKLOAD = Workload(prompt=200, contexts=(100,), new=4, repeats=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture(scope="module")
def recording(pebble_bundle_int4: Path, folder: Path) -> Recording:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        return record(pebble_bundle_int4, synthetic_image(), WORKLOAD, device="cpu", threads=1)


def test_every_graph_in_its_phases(recording: Recording) -> None:
    runs = {phase.name: {graph.graph: graph.runs for graph in phase.graphs} for phase in recording.phases}
    assert runs == {
        "vision": {"vision_encoder": 2},
        "prefill, 200 tokens": {"embedding": 4, "decoder": 4},  # two chunks, twice
        "decode, 100 tokens of context": {"embedding": 10, "decoder": 10},
    }
    assert [phase.times for phase in recording.phases] == [2, 2, 10]


def test_the_past_is_not_copied(recording: Recording, pebble_bundle_int4: Path) -> None:
    shape = load_manifest(pebble_bundle_int4).decoder
    decode = recording.phases[-1]
    (decoder,) = (graph for graph in decode.graphs if graph.graph == "decoder")
    attention = [node for node in decoder.nodes if node.operator == "GroupQueryAttention"]
    assert len(attention) == shape.layers
    assert {node.place for node in attention} == {(f"layers.{i}", "self_attn") for i in range(shape.layers)}


def test_decoding_reads_every_matrix_once(recording: Recording, pebble_bundle_int4: Path) -> None:
    manifest = load_manifest(pebble_bundle_int4)
    decode = recording.phases[-1]
    (decoder,) = (graph for graph in decode.graphs if graph.graph == "decoder")
    weights = node_weights((pebble_bundle_int4 / manifest.graphs.decoder.file).read_bytes())
    for node in decoder.nodes:
        if node.operator == "MatMulNBits":
            assert node.weight_bytes == weights[node.name] * decode.times > 0
    stored = sum(manifest.files[name].size for name in manifest.graphs.decoder.external_data)
    read = sum(node.weight_bytes or 0 for node in decoder.nodes) / decode.times
    assert 0.5 * stored < read <= stored  # some are only looked up in


def test_nothing_is_left_of_the_profiles(recording: Recording, folder: Path) -> None:
    assert recording.phases
    assert list(folder.iterdir()) == []


def test_tables_and_values(recording: Recording) -> None:
    table = recording_table(recording)
    assert "vision_encoder: " in table
    assert "\nMatMulNBits " in table
    assert "\nlayers.0 " in table
    assert "\ntower/layers.0 " in table
    values = json.loads(json.dumps(recording_json(recording)))
    assert values["phases"][0]["graphs"][0]["nodes"][0]["operator"]
