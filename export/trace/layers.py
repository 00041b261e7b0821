"""A shallow model as traced → the deep one: of equal layers in a row one is traced, and repeated here.

Tracing takes time for every layer, while layers of a run differ in nothing but their number:

    layers    0   1 2 3   4 5   6       runs: [0] [1 2 3] [4 5] [6]
    traced    0   1       2     3

1. The traced layers take the numbers of their runs' first layers: 0 1 4 6.
2. The first layer of a run is the template. What a layer takes from the one before is found by comparing the template
   with the layer that follows it: an input is carried where the two read different values, and shared where they read
   the same.
3. The template is copied behind itself for every other layer of the run, each copy taking what the one before hands on;
   who read the template's results reads the last copy's.
4. Inputs and outputs of the graph that belong to a layer multiply with it, in the order of the layers.

What belongs to a layer is known by its name: one of the `prefixes`, the layer's number, and a dot or slash.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from itertools import groupby, pairwise

import onnx_ir as ir

from pumice.export.trace.tracing import Traced

Runs = Sequence[range]
"""Layers of the deep model, all of them in order; the shallow model has one layer for each run."""


def equal_runs(kinds: Sequence[Hashable]) -> list[range]:
    """Layers in a row of the same kind; the first and the last are alone, having other neighbours than the rest."""
    last = len(kinds) - 1
    keys = [(index == 0, index == last, kind) for index, kind in enumerate(kinds)]
    runs = [list(group) for _, group in groupby(range(len(kinds)), key=keys.__getitem__)]
    return [range(run[0], run[-1] + 1) for run in runs]


def repeat_layers(traced: Traced, runs: Runs, prefixes: Sequence[str]) -> Traced:
    """Make the model deep, in place: its i-th layer becomes the layers of `runs[i]`.

    Args:
        traced: the shallow model.
        runs: of the deep model's layers, the last of one layer (`equal_runs`).
        prefixes: what precedes a layer's number in the names of nodes, parameters, inputs and outputs.
    """
    layers, graph = LayerNames(prefixes), traced.model.graph
    inputs, outputs = (layers.expanded(map(_name, side), runs) for side in (graph.inputs, graph.outputs))
    _renumber(graph, runs, layers)
    interface = {_name(value): value for value in (*graph.inputs, *graph.outputs)}
    for run, following in pairwise(runs):
        if len(run) > 1:
            interface |= _repeat(graph, run, following.start, layers)
    for values, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        values.clear()
        values.extend(interface[name] for name in names)
    return Traced(
        model=traced.model,
        inputs=layers.expanded(traced.inputs, runs),
        parameters=layers.expanded(traced.parameters, runs),
    )


class LayerNames:
    """Reads and writes the layer's number in a name: `/layers.7/mlp/Mul`, `layers.7.mlp.weight`, `present.7.key`."""

    def __init__(self, prefixes: Sequence[str]) -> None:
        either = "|".join(re.escape(prefix) for prefix in prefixes)
        self._pattern = re.compile(rf"({either})(\d+)([./].+)")

    def layer(self, name: str) -> int | None:
        """The layer that a name belongs to, None outside of the layers."""
        found = self._pattern.fullmatch(name)
        return int(found[2]) if found else None

    def moved(self, name: str, layer: int) -> str:
        """The name of the same thing in another layer; names outside of the layers stay."""
        found = self._pattern.fullmatch(name)
        return f"{found[1]}{layer}{found[3]}" if found else name

    def expanded(self, names: Iterable[str], runs: Runs) -> tuple[str, ...]:
        """Names in the shallow model → names in the deep one, all of a layer before those of the next."""
        expanded: list[str] = []
        for layer, group in groupby(names, key=self.layer):
            parts = list(group)
            for number in (0,) if layer is None else runs[layer]:
                expanded += [self.moved(name, number) for name in parts]
        return tuple(expanded)


def _renumber(graph: ir.Graph, runs: Runs, layers: LayerNames) -> None:
    """Step 1."""
    named: list[ir.Node | ir.Value] = [*graph.inputs, *graph]
    named += [value for node in graph for value in node.outputs]
    for item in named:
        layer = layers.layer(_name(item))
        if layer is not None:
            item.name = layers.moved(_name(item), runs[layer].start)


def _repeat(graph: ir.Graph, run: range, following: int, layers: LayerNames) -> dict[str, ir.Value]:
    """Steps 2 and 3 for one run: the copies of the graph's inputs and outputs, by name."""
    template = [node for node in graph if layers.layer(_name(node)) == run.start]
    twins = {
        layers.moved(_name(node), run.start): node for node in graph if layers.layer(_name(node)) == following
    }
    carried = _carried(template, twins)
    readers = [
        (value, use.node, use.idx)
        for node in template
        for value in node.outputs
        for use in value.uses()
        if layers.layer(_name(use.node)) != run.start
    ]
    handed_on = {handed: handed for handed in carried.values()}
    assert all(value in handed_on for value, *_ in readers), "a layer hands on more than the next one takes"
    interface: dict[str, ir.Value] = {}
    last = template[-1]
    for number in run[1:]:
        values = {taken: handed_on[handed] for taken, handed in carried.items()}
        copies = [_copy(node, number, values, layers) for node in template]
        graph.insert_after(last, copies)
        last = copies[-1]
        handed_on = {handed: values[handed] for handed in handed_on}
        interface |= {
            _name(copy): copy
            for value, copy in values.items()
            if value.is_graph_input() or value.is_graph_output()
        }
    for value, node, index in readers:
        node.replace_input_with(index, handed_on[value])
    return interface


def _carried(template: list[ir.Node], twins: dict[str, ir.Node]) -> dict[ir.Value, ir.Value]:
    """Step 2: what the template takes from the layer before → what it hands on in its place.

    `twins` are the nodes of the layer that follows, by the names of the template's.
    """
    inner = {value for node in template for value in node.outputs}
    carried: dict[ir.Value, ir.Value] = {}
    for node in template:
        for index, value in enumerate(node.inputs):
            if value is None or value in inner or value.is_graph_input():
                continue
            handed = twins[_name(node)].inputs[index]
            assert handed is value or handed in inner, f"{node.name} and its twin read unlike things"
            if handed is not None and handed is not value:
                assert carried.setdefault(value, handed) is handed
    return carried


def _copy(node: ir.Node, layer: int, values: dict[ir.Value, ir.Value], layers: LayerNames) -> ir.Node:
    """A node of another layer. `values` maps the template's values to that layer's, and grows by the node's own."""
    for value in (*node.inputs, *node.outputs):
        belongs = value is not None and layers.layer(_name(value)) == layers.layer(_name(node))
        if value is not None and belongs and value not in values:
            values[value] = _copy_value(value, layers.moved(_name(value), layer))
    return ir.Node(
        node.domain,
        node.op_type,
        [values.get(value, value) if value is not None else None for value in node.inputs],
        node.attributes,
        overload=node.overload,
        outputs=[values[value] for value in node.outputs],
        version=node.version,
        name=layers.moved(_name(node), layer),
    )


def _copy_value(value: ir.Value, name: str) -> ir.Value:
    return ir.Value(name=name, shape=value.shape and value.shape.copy(), type=value.type)


def _name(item: ir.Node | ir.Value) -> str:
    return item.name or ""
