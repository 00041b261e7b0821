"""The graph pass for keys and values in 8 bits: a number of a channel is an integer times the channel's step.

Enters: a decoder or prefill graph in float32 whose parameters are inputs (`pumice.export.trace.tracing`). Leaves: the
same graph, with two parameters more a layer, `layers.N.self_attn.k_step` and `.v_step`, float32 [1, kv_heads, 1, K],
and with `past_key_values.*` and `present.*` in int8. Attention is one of two, by how many tokens T a run has:

    T = 1    GroupQueryAttention over integers, in place                        present [B, kv_heads, P + 1, K]
    T > 1    keys are turned; keys and values become integers round(x / step);  present [B, kv_heads, T, K]
             these, and the cached ones, times their steps are what the float
             kernel attends to

ONNX Runtime's kernel over integers takes less time than its float one for one token, and three times as much for many.
Both attend to what integers say, of new tokens too, so that a prompt may be cut anywhere. Of several tokens `present`
has the new ones alone: who runs the graph puts them behind the past.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from pumice.export.passes.constants import Constants
from pumice.manifest.tensors import ATTENTION_MASK, INPUTS_EMBEDS, PAST

PRESENT_LENGTH = "total_or_new_sequence_length"
"""The axis of `present.*`."""
_INTEGERS = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
_QUERY, _KEY, _VALUE, _PAST_KEY, _PAST_VALUE, _COS, _SIN, _K_STEP = 0, 1, 2, 3, 4, 7, 8, 12
"""Inputs of GroupQueryAttention."""


def step_names(layer: int) -> tuple[str, str]:
    """The parameters that have the steps of a layer's keys and values."""
    return f"layers.{layer}.self_attn.k_step", f"layers.{layer}.self_attn.v_step"


def quantize_cache(model: ir.Model) -> None:
    """Make the cache int8."""
    graph = model.graph
    attentions = [node for node in graph if node.op_type == "GroupQueryAttention"]
    run = _Run(graph)
    for node in attentions:
        _replace(graph, node, run)


class _Nodes:
    """New nodes under one path, in their order."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.nodes: list[ir.Node] = []

    def add(
        self,
        name: str,
        *inputs: ir.Value | None,
        domain: str = "",
        outputs: int = 1,
        attributes: dict[str, Any] | None = None,
    ) -> tuple[ir.Value, ...]:
        """A node's outputs; `name` is the operator, and after a dot what tells it from others."""
        operator = name.partition(".")[0]
        path = f"{self._path}/{name}"
        node = ir.node(operator, inputs, attributes, domain=domain, num_outputs=outputs, name=path)
        for number, value in enumerate(node.outputs):
            value.name = f"{path}_output_{number}"
        self.nodes.append(node)
        return tuple(node.outputs)

    def one(self, name: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """The output of a node that has one."""
        return self.add(name, *inputs, domain=domain, attributes=attributes)[0]


class _Run:
    """What all layers ask: whether a run has several tokens, and behind how many they come, int64 [1]."""

    def __init__(self, graph: ir.Graph) -> None:
        self._constants = Constants(graph, "/kv_cache/")
        inputs = {value.name: value for value in graph.inputs}
        made = _Nodes("/kv_cache")
        tokens = made.one("Shape.tokens", inputs[INPUTS_EMBEDS], start=1, end=2)
        total = made.one("Shape.total", inputs[ATTENTION_MASK], start=1, end=2)
        self.past = made.one("Sub", total, tokens)
        self.several = made.one("Greater", tokens, self.integers("one", [1]))
        graph.insert_before(graph[0], made.nodes)

    def integers(self, name: str, numbers: list[int]) -> ir.Value:
        """A constant int64."""
        return self.constant(name, np.array(numbers, np.int64))

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """An initializer of the graph, made once."""
        return self._constants.get(name, array)


def _replace(graph: ir.Graph, node: ir.Node, run: _Run) -> None:
    """Put the choice between both in an attention's place."""
    past_key, past_value = node.inputs[_PAST_KEY], node.inputs[_PAST_VALUE]
    assert past_key is not None
    assert past_value is not None
    assert past_key.shape is not None
    _, kv_heads, _, width = past_key.shape
    assert isinstance(kv_heads, int)
    assert isinstance(width, int)
    layer = int((past_key.name or "").removeprefix(f"{PAST}.").partition(".")[0])
    steps = [_step(graph, name, kv_heads, width) for name in step_names(layer)]
    for value in (past_key, past_value):
        value.dtype = ir.DataType.INT8
    path = (node.name or "").rpartition("/")[0]
    chosen = ir.node(
        "If",
        [run.several],
        {
            "then_branch": _several_tokens(node, steps, run, f"{path}/several"),
            "else_branch": _one_token(node, steps, f"{path}/one"),
        },
        num_outputs=3,
        name=f"{path}/If",
    )
    for old, new in zip(node.outputs, chosen.outputs, strict=True):
        new.shape, new.type, name = old.shape, old.type, old.name
        old.name, new.name = f"{path}/replaced_{name}", name
    for value in chosen.outputs[1:]:
        assert value.shape is not None
        value.dtype = ir.DataType.INT8
        value.shape = ir.Shape([value.shape[0], kv_heads, PRESENT_LENGTH, width])
    graph.insert_before(node, chosen)
    ir.convenience.replace_all_uses_with(node.outputs, chosen.outputs, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _step(graph: ir.Graph, name: str, kv_heads: int, width: int) -> ir.Value:
    """A parameter, which is an input until it is written."""
    shape = ir.Shape((1, kv_heads, 1, width))
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(value)
    return value


def _one_token(node: ir.Node, steps: list[ir.Value], path: str) -> ir.Graph:
    made = _Nodes(path)
    inputs = [*node.inputs, *[None] * (_K_STEP - len(node.inputs)), *steps]
    attributes: dict[str, Any] = dict(node.attributes) | _INTEGERS
    outputs = made.add(
        "GroupQueryAttention", *inputs, domain="com.microsoft", outputs=3, attributes=attributes
    )
    return _branch(made, outputs)


def _several_tokens(node: ir.Node, steps: list[ir.Value], run: _Run, path: str) -> ir.Graph:
    made = _Nodes(path)
    query, *new = _turned(made, node, run)
    presents, floats, pasts = [], [], []
    for kind, x, past, step in zip(("key", "value"), new, node.inputs[_PAST_KEY:], steps, strict=False):
        present, seen = _rounded(made, kind, x, step, run)
        presents.append(present)
        floats.append(seen)
        filled = made.one(
            f"Slice.{kind}", past, run.integers("start", [0]), run.past, run.integers("positions", [2])
        )
        pasts.append(made.one(f"Mul.past_{kind}", made.one(f"Cast.past_{kind}", filled, to=1), step))
    lengths = node.inputs[_PAST_VALUE + 1 : _COS]
    attention, _, _ = made.add(
        "GroupQueryAttention",
        *(query, *floats, *pasts, *lengths),
        domain="com.microsoft",
        outputs=3,
        attributes=dict(node.attributes) | {"do_rotary": 0},
    )
    return _branch(made, (attention, *presents))


def _turned(made: _Nodes, node: ir.Node, run: _Run) -> list[ir.Value]:
    """Query, key and value [B, T, heads·K], the first two turned where the layer turns them."""
    query, key, value = node.inputs[_QUERY : _VALUE + 1]
    assert query is not None
    if key is None or value is None:
        past_key = node.inputs[_PAST_KEY]
        assert past_key is not None
        assert past_key.shape is not None
        heads, kv_heads = (node.attributes[name].as_int() for name in ("num_heads", "kv_num_heads"))
        width = past_key.shape[3]
        assert isinstance(width, int)
        widths = run.integers("widths", [heads * width, kv_heads * width, kv_heads * width])
        query, key, value = made.add("Split", query, widths, outputs=3, attributes={"axis": -1})
    if not node.attributes["do_rotary"].as_int():
        return [query, key, value]
    angles = node.inputs[_COS : _SIN + 1]
    turned = [
        made.one(f"RotaryEmbedding.{kind}", x, run.past, *angles, domain="com.microsoft")
        for kind, x in (("query", query), ("key", key))
    ]
    return [*turned, value]


def _rounded(made: _Nodes, kind: str, x: ir.Value, step: ir.Value, run: _Run) -> tuple[ir.Value, ir.Value]:
    """x [B, T, kv_heads·K] → what the cache gets of it, int8 [B, kv_heads, T, K], and what that says, as x.

    By the same arithmetic as the operator's own, so that both write the same integers.
    """
    assert step.shape is not None
    _, kv_heads, _, width = step.shape.numpy()
    flat = made.one(f"Reshape.{kind}_step", step, run.integers("flat", [-1]))
    scaled = made.one(f"Mul.{kind}_scaled", x, made.one(f"Reciprocal.{kind}", flat))
    lowest, highest = (run.constant(f"{n}", np.array(n, np.float32)) for n in (-128, 127))
    whole = made.one(f"Clip.{kind}", made.one(f"Round.{kind}", scaled), lowest, highest)
    heads = run.integers("heads", [0, 0, kv_heads, width])
    split = made.one(f"Reshape.{kind}", made.one(f"Cast.{kind}", whole, to=3), heads)
    present = made.one(f"Transpose.{kind}", split, perm=[0, 2, 1, 3])
    return present, made.one(f"Mul.{kind}", whole, flat)


def _branch(made: _Nodes, outputs: tuple[ir.Value, ...]) -> ir.Graph:
    """A branch of the choice; what it reads beside its own is the graph's."""
    for value, kind in zip(outputs, (ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.INT8), strict=True):
        value.type = ir.TensorType(kind)
    name = (made.nodes[-1].name or "").rpartition("/")[0]
    return ir.Graph((), outputs, nodes=made.nodes, name=name)
