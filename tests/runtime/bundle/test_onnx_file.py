"""Oracle: the onnx package writes the models; what it refers to, the walker must find."""

import re
from collections.abc import Callable

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pumice.bundle.onnx_file import ExternalTensor, read_onnx
from pumice.errors import BundleError
from pumice.manifest.operators import Operator


def external_tensors(data: bytes) -> list[ExternalTensor]:
    return list(read_onnx(data).tensors)


def tensor(name: str = "w", **entries: str) -> TensorProto:
    """A tensor of 4 bytes in another file."""
    proto = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    if entries:
        proto.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        proto.external_data.add(key=key, value=value)
    return proto


OUTSIDE = tensor(location="../outside", offset="8", length="4")
FOUND = [ExternalTensor(location="../outside", offset=8, length=4)]


def graph(
    initializers: tuple[TensorProto, ...] = (), nodes: tuple[onnx.NodeProto, ...] = ()
) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], list(initializers))


def model(inner: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(inner)


def in_sparse() -> onnx.ModelProto:
    result = graph()
    result.sparse_initializer.add().values.CopyFrom(OUTSIDE)
    return model(result)


def in_sparse_indices() -> onnx.ModelProto:
    result = graph()
    result.sparse_initializer.add().indices.CopyFrom(OUTSIDE)
    return model(result)


def in_attribute() -> onnx.ModelProto:
    return model(graph(nodes=(helper.make_node("Constant", [], ["y"], value=OUTSIDE),)))


def in_attribute_list() -> onnx.ModelProto:
    return model(graph(nodes=(helper.make_node("Custom", [], ["y"], values=[tensor(), OUTSIDE]),)))


def in_sparse_attribute() -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["y"])
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.values.CopyFrom(OUTSIDE)
    node.attribute.add(name="more").sparse_tensors.add()
    return model(graph(nodes=(node,)))


def in_subgraph() -> onnx.ModelProto:
    inner = graph((OUTSIDE,))
    return model(graph(nodes=(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=graph()),)))


def in_subgraph_list() -> onnx.ModelProto:
    return model(graph(nodes=(helper.make_node("Custom", [], ["y"], branches=[graph(), graph((OUTSIDE,))]),)))


def in_function() -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["y"], value=OUTSIDE)
    function = helper.make_function("d", "f", [], ["y"], [node], [helper.make_opsetid("", 20)])
    return helper.make_model(graph(), functions=[function])


def in_function_default() -> onnx.ModelProto:
    function = helper.make_function("d", "f", [], ["y"], [], [helper.make_opsetid("", 20)])
    function.attribute_proto.append(helper.make_attribute("value", OUTSIDE))
    return helper.make_model(graph(), functions=[function])


def in_training() -> onnx.ModelProto:
    result = model(graph())
    result.training_info.add().algorithm.CopyFrom(graph((OUTSIDE,)))
    return result


def without_location_flag() -> onnx.ModelProto:
    proto = tensor(location="../outside", offset="8", length="4")
    proto.data_location = TensorProto.DEFAULT
    return model(graph((proto,)))


PLACES = [
    lambda: model(graph((tensor(), OUTSIDE))),
    in_sparse,
    in_sparse_indices,
    in_attribute,
    in_attribute_list,
    in_sparse_attribute,
    in_subgraph,
    in_subgraph_list,
    in_function,
    in_function_default,
    in_training,
    without_location_flag,
]


@pytest.mark.parametrize("make", PLACES)
def test_a_reference_is_found_wherever_it_is(make: Callable[[], onnx.ModelProto]) -> None:
    assert external_tensors(make().SerializeToString()) == FOUND


def test_a_model_without_references() -> None:
    assert external_tensors(model(graph((tensor(),))).SerializeToString()) == []


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": ""}, "no location"),
        ({"offset": "0"}, "no location"),
        ({"location": "x", "basepath": "/"}, "unknown or repeated key 'basepath'"),
        ({"location": "x", "offset": "-1"}, "offset or length '-1'"),
        ({"location": "x", "length": "0x10"}, "offset or length"),
        ({"location": "x", "length": "9" * 30}, "offset or length"),
        ({"location": "x", "length": "٣"}, "offset or length"),
    ],
)
def test_odd_entries_are_refused(entries: dict[str, str], message: str) -> None:
    with pytest.raises(BundleError, match=re.escape(message)):
        external_tensors(model(graph((tensor(**entries),))).SerializeToString())


def test_a_repeated_key_is_refused() -> None:
    proto = tensor(location="inside")
    proto.external_data.add(key="location", value="../outside")
    with pytest.raises(BundleError, match="unknown or repeated key 'location'"):
        external_tensors(model(graph((proto,))).SerializeToString())


def test_an_external_tensor_without_entries_is_refused() -> None:
    with pytest.raises(BundleError, match="no location"):
        external_tensors(model(graph((TensorProto(data_location=TensorProto.EXTERNAL),))).SerializeToString())


def test_a_second_graph_which_protobuf_would_merge_is_refused() -> None:
    data = model(graph()).SerializeToString() + model(graph((OUTSIDE,))).SerializeToString()
    with pytest.raises(BundleError, match=r"Model\.7"):
        external_tensors(data)


def test_deep_nesting_is_refused_and_not_followed() -> None:
    inner = graph((OUTSIDE,))
    for _ in range(20):
        inner = graph(nodes=(helper.make_node("If", ["c"], ["y"], then_branch=inner),))
    with pytest.raises(BundleError, match="nested more than"):
        external_tensors(model(inner).SerializeToString())


def test_endless_small_fields_are_refused() -> None:
    with pytest.raises(BundleError, match="fields"):
        external_tensors(b"\x08\x01" * 2_000_001)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x0b", b"\x3a\xff\x01", b"\xff" * 20, b"\x3d\x00", b"{}", b"\x3a\x05"]
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        external_tensors(data)


WHOLE = in_subgraph().SerializeToString() + in_function().SerializeToString()[-60:]


@settings(max_examples=1500)
@given(
    flips=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, len(WHOLE)),
)
def test_damaged_models_are_read_or_refused(flips: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(WHOLE)
    for position, value in flips:
        data[position] = value
    try:
        found = external_tensors(bytes(data[:cut]))
    except BundleError:
        return
    assert all(isinstance(tensor, ExternalTensor) for tensor in found)


@settings(max_examples=300)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        external_tensors(data)
    except BundleError:
        return


@settings(max_examples=1500)
@given(flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_what_the_onnx_package_sees_in_a_damaged_model_is_seen_or_refused(
    flips: list[tuple[int, int]],
) -> None:
    data = bytearray(in_subgraph().SerializeToString())
    for position, value in flips:
        data[position % len(data)] = value
    try:
        found = {tensor.location for tensor in external_tensors(bytes(data))}
    except BundleError:
        return
    parsed = onnx.ModelProto()
    try:
        parsed.ParseFromString(bytes(data))
    except Exception:  # protobuf is stricter here, about text for instance
        return
    assert locations(parsed.graph) <= found


def locations(graph: onnx.GraphProto) -> set[str]:
    """Every external location in a graph, by the onnx package's classes."""
    result = {e.value for t in graph.initializer for e in t.external_data if e.key == "location"}
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                result |= locations(inner)
    return result


def test_operators_are_found_wherever_a_node_can_be() -> None:
    product = helper.make_node(
        "MatMulIntegerToFloat", ["a", "b", "s", "t", "z"], ["y"], domain="com.microsoft"
    )
    with_zero = helper.make_node("MatMulInteger", ["a", "b", "", "z"], ["y"])
    without = helper.make_node("MatMulInteger", ["a", "b", "", ""], ["y"])
    inner = graph(nodes=(product, product))
    branching = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=graph(nodes=(without,)))
    called = helper.make_function("own", "F", [], [], [with_zero], [helper.make_opsetid("", 21)])
    found = read_onnx(
        helper.make_model(graph(nodes=(branching,)), functions=[called]).SerializeToString()
    ).operators
    assert found == {
        Operator(domain="", name="If", inputs=1, attributes=frozenset({"then_branch", "else_branch"})),
        Operator(domain="com.microsoft", name="MatMulIntegerToFloat", inputs=5),
        Operator(domain="", name="MatMulInteger", inputs=4),
        Operator(domain="", name="MatMulInteger", inputs=2),
    }


def test_the_names_of_a_nodes_attributes_are_found() -> None:
    node = helper.make_node(
        "GroupQueryAttention", ["q"], ["y"], domain="com.microsoft", num_heads=4, scale=0.5
    )
    found = read_onnx(model(graph(nodes=(node,))).SerializeToString()).operators
    assert [held.attributes for held in found] == [{"num_heads", "scale"}]
