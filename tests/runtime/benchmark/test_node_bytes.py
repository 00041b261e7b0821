"""Oracle: the onnx package, which writes the models."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pumice.benchmark.node_bytes import node_weights
from pumice.manifest import load_manifest


def outside(name: str, length: int) -> TensorProto:
    proto = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[length // 4])
    proto.data_location = TensorProto.EXTERNAL
    proto.external_data.add(key="location", value="data")
    proto.external_data.add(key="length", value=str(length))
    return proto


def test_bytes_inside_and_outside_of_the_file_tables_left_out() -> None:
    nodes = [
        helper.make_node("Gather", ["w", "ids"], ["a"], name="/embed/Gather"),
        helper.make_node("Mul", ["a", "inner"], ["b"], name="/norm/Mul"),
        helper.make_node("MatMulNBits", ["b", "w", "s"], ["c"], name="/layers.0/MatMulNBits"),
        helper.make_node("Gelu", ["c"], ["d"], name="/layers.0/Gelu"),
    ]
    inner = numpy_helper.from_array(np.zeros(6, np.float32), "inner")
    graph = helper.make_graph(nodes, "g", [], [], [outside("w", 400), outside("s", 40), inner])
    found = node_weights(helper.make_model(graph).SerializeToString())
    assert found == {"/norm/Mul": 24, "/layers.0/MatMulNBits": 440, "/layers.0/Gelu": 0}


def test_all_of_a_decoders_matrices(pebble_bundle_int4: Path) -> None:
    manifest = load_manifest(pebble_bundle_int4)
    file = pebble_bundle_int4 / manifest.graphs.decoder.file
    found = node_weights(file.read_bytes())
    proto = onnx.load(file, load_external_data=False)
    sizes = {
        tensor.name: int(entry.value)
        for tensor in proto.graph.initializer
        for entry in tensor.external_data
        if entry.key == "length"
    }
    matrices = [node for node in proto.graph.node if node.op_type == "MatMulNBits"]
    assert matrices
    for node in matrices:
        assert found[node.name] == sum(sizes.get(name, 0) for name in node.input) > 0
