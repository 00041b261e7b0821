"""The three graphs of a bundle: their structures, quantised where the recipe asks for it, and written.

Enters: a `LlavaConfig` and a `WeightStorage`, and whether structures may be those that were traced before (`cached`).
Leaves: `Graph`s, which know how many bytes they need and write themselves, and the `GraphSpec`s of what was written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor

from pumice.export.bundle.layout import FOLDER, GraphFiles
from pumice.export.calibration.cache_ranges import CacheRanges, steps_of
from pumice.export.passes.counts import NodeCounts
from pumice.export.passes.kv_int8 import quantize_cache, step_names
from pumice.export.passes.matmul_integer import make_integer_products
from pumice.export.passes.matmul_nbits import quantize_products, quantize_table
from pumice.export.passes.residual_head import refine_head, refine_table, residual_names, residual_parameter
from pumice.export.recipes.recipe import Storage
from pumice.export.recipes.storage import HEAD, RESIDUAL, RESIDUAL_HEAD, TABLE, WeightStorage, weight_tables
from pumice.export.structure.structure import Structure, structure_of
from pumice.export.structure.wanted import wanted
from pumice.export.weights.parameters import (
    KnownInputs,
    Parameter,
    Piece,
    constant_parameter,
    float_parameter,
    integer_parameter,
    quantized_parameter,
)
from pumice.export.weights.quantization import quantized_names
from pumice.export.weights.stored_blocks import stored_parameter
from pumice.export.weights.stream import parameter_bytes, share_weights, write_weights
from pumice.manifest import GraphSpec, TensorSpec
from pumice.manifest.operators import Operator, lowest_version
from pumice.manifest.tensors import LOGITS, NUM_LOGITS_TO_KEEP
from pumice.models.config import LlavaConfig
from pumice.models.decoder import rotary_caches
from pumice.models.text_weights import decoder_weights
from pumice.models.weights import Read

_TORCH_TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
}


class LayerInputs(Protocol):
    """What is known of the inputs of the decoder's layers, by parameter; layers are reached in their order."""

    def reach(self, name: str) -> None:
        """Make known what reading the layer of a parameter needs."""

    def moments(self, name: str) -> Tensor:
        """The second moments of a matrix's input; see `pumice.export.calibration.moments`."""

    def cache_ranges(self, layer: int) -> CacheRanges:
        """How large a layer's keys and values are."""


@dataclass(kw_only=True)
class Graph:
    """One graph on its way into a bundle."""

    name: str
    model: ir.Model
    inputs: tuple[str, ...]
    counts: NodeCounts
    parameters: list[Parameter]
    found: bool
    """Its structure was in the user's cache."""
    shared: dict[str, str] = field(default_factory=dict)
    """Parameters whose bytes the decoder holds: name here → name there."""

    @property
    def nbytes(self) -> int:
        """Bytes of weights that it is going to write."""
        return parameter_bytes(self.model, self.parameters)


def vision_encoder_graph(
    config: LlavaConfig, read: Read, form: WeightStorage, *, cached: bool = True
) -> Graph:
    """The vision encoder."""
    structure = structure_of(wanted("vision_encoder", config, form.dtype), cached=cached)
    return _graph("vision_encoder", structure, config, read, form)


def embedding_graph(config: LlavaConfig, read: Read, form: WeightStorage, *, cached: bool = True) -> Graph:
    """The embedding merge; with a tied head its table lies in the decoder's file, but where it is to have its own."""
    structure = structure_of(wanted("embedding", config, form.dtype), cached=cached)
    graph = _graph("embedding", structure, config, read, form)
    if form.own_table or not config.tie_word_embeddings:
        return graph
    storage = form.quantized.get(TABLE)
    ours, heads = (_stored_names(name.partition("/")[2], storage) for name in (TABLE, HEAD))
    if storage is not None and RESIDUAL_HEAD in form.quantized:
        refine_table(graph.model)
        ours = residual_names("weight", "weight.residual", storage)
        heads = residual_names("lm_head.weight", RESIDUAL, storage)
    graph.shared, graph.parameters = dict(zip(ours, heads, strict=True)), []
    return graph


def decoder_graph(
    config: LlavaConfig,
    read: Read,
    form: WeightStorage,
    inputs: LayerInputs | None = None,
    *,
    cached: bool = True,
) -> Graph:
    """The decoder, with its rotary caches computed; `inputs` is what is known of its matrices' inputs."""
    structure = structure_of(wanted("decoder", config, form.dtype, greedy=form.greedy_token), cached=cached)
    graph = _graph("decoder", structure, config, read, form, inputs)
    if RESIDUAL_HEAD in form.quantized:
        refine_head(graph.model, config.text.vocab_size)
        head = decoder_weights(config)["lm_head.weight"]
        place = next(i for i, p in enumerate(graph.parameters) if p.names[0].startswith("lm_head.weight."))
        graph.parameters[place] = residual_parameter(head, read, form.quantized[HEAD], form.dtype)
    for name, cache in zip(("cos_cache", "sin_cache"), rotary_caches(config.text), strict=True):
        graph.parameters.append(constant_parameter(name, cache.to(form.angle_dtype)))
    if form.kv_cache == "int8":
        assert inputs is not None
        quantize_cache(graph.model)
        graph.parameters += [_steps(config, inputs, layer) for layer in range(config.text.num_hidden_layers)]
    return graph


def _steps(config: LlavaConfig, inputs: LayerInputs, layer: int) -> Parameter:
    """Of a layer's keys and values; last of all parameters, as layers are run when their matrices are written."""

    def prepare() -> None:
        inputs.cache_ranges(layer)

    def make() -> tuple[Tensor, ...]:
        return steps_of(inputs.cache_ranges(layer))

    nbytes = 8 * config.text.num_key_value_heads * config.text.head_dim
    return Parameter(names=step_names(layer), pieces=(Piece(nbytes=nbytes, make=make),), prepare=prepare)


def prefill_graph(config: LlavaConfig, read: Read, form: WeightStorage, *, cached: bool = True) -> Graph:
    """The decoder's twin for reading prompts; the rotary caches lie in the decoder's file."""
    structure = structure_of(wanted("prefill", config, form.dtype), cached=cached)
    graph = _graph("prefill", structure, config, read, form)
    names = ["cos_cache", "sin_cache"]
    if form.kv_cache == "int8":
        quantize_cache(graph.model)
        names += [name for layer in range(config.text.num_hidden_layers) for name in step_names(layer)]
    graph.shared = {name: name for name in names}
    return graph


def write_graph(
    graph: Graph, folder: Path, files: GraphFiles, decoder: Graph | None, advance: Callable[[int], None]
) -> GraphSpec:
    """Write the graph's weights and then its file; `decoder` has been written where weights are shared."""
    model, file, data = graph.model, folder / files.graph(graph.name), folder / files.data(graph.name)
    file.parent.mkdir(exist_ok=True)
    inputs = tuple(_tensor_spec(v) for v in model.graph.inputs if v.name in graph.inputs)
    outputs = tuple(_tensor_spec(v) for v in model.graph.outputs)
    write_weights(model, graph.parameters, data.parent, data.name, advance)
    if graph.shared:
        assert decoder is not None
        share_weights(model, decoder.model, graph.shared)
    for value in model.graph.inputs:
        if value.name == NUM_LOGITS_TO_KEEP:  # an input with an initializer is optional to callers
            value.const_value = ir.tensor(np.array(1, dtype=np.int64), name=NUM_LOGITS_TO_KEEP)
            model.graph.register_initializer(value)
    _declare_one_row(model)
    model.producer_name = "pumice"
    ir.save(model, file)
    external = {f"{FOLDER}/{t.location}" for t in _stored(model) if isinstance(t, ir.ExternalTensor)}
    return GraphSpec(
        file=files.graph(graph.name),
        external_data=tuple(sorted(external)),
        inputs=inputs,
        outputs=outputs,
        nodes=len(model.graph),
    )


def _declare_one_row(model: ir.Model) -> None:
    """Logits of one position, as `num_logits_to_keep` is by default: clients that know no other allocate so many.

    ONNX Runtime computes as many as are asked for, whatever is declared.
    """
    for value in model.graph.outputs:
        if value.name == LOGITS:
            assert value.shape is not None
            value.shape = ir.Shape([value.shape[0], 1, value.shape[2]])


def _graph(
    name: str,
    structure: Structure,
    config: LlavaConfig,
    read: Read,
    form: WeightStorage,
    inputs: LayerInputs | None = None,
) -> Graph:
    model = structure.model
    floats = {value.name: value.dtype for value in model.graph.inputs}
    quantized = form.of(name)
    make_integer_products(model, quantized)
    quantize_products(model, quantized)
    quantize_table(model, quantized)
    parameters = []
    for key, weight in weight_tables(config, prefill=form.prefill)[name].items():
        dtype = floats[key]
        assert dtype is not None
        if f"{name}/{key}" in form.kept:
            made = stored_parameter(key, weight, form.integers, quantized[key], _TORCH_TYPES[dtype])
        elif key in quantized and quantized[key].by_column:
            made = integer_parameter(key, weight, read)
        elif key in quantized:
            known = _known(key, quantized[key], inputs)
            made = quantized_parameter(key, weight, read, quantized[key], _TORCH_TYPES[dtype], known)
        else:
            made = float_parameter(key, weight, read, _TORCH_TYPES[dtype])
        if inputs is not None and key.startswith("layers."):
            made = replace(made, prepare=_both(partial(inputs.reach, key), made.prepare))
        parameters.append(made)
    return Graph(
        name=name,
        model=model,
        inputs=structure.inputs,
        counts=structure.counts,
        parameters=parameters,
        found=structure.found,
    )


def _known(key: str, storage: Storage, inputs: LayerInputs | None) -> KnownInputs | None:
    if inputs is None or storage.search != "activations" or not key.startswith("layers."):
        return None
    return KnownInputs(partial(inputs.moments, key))


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call


def _stored_names(name: str, storage: Storage | None) -> tuple[str, ...]:
    return (name,) if storage is None else quantized_names(name, storage)


def _stored(model: ir.Model) -> list[ir.TensorProtocol]:
    return [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]


def _tensor_spec(value: ir.Value) -> TensorSpec:
    assert value.name is not None
    assert value.shape is not None
    assert value.dtype is not None
    dims = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
    return TensorSpec(name=value.name, dtype=str(value.dtype.numpy()), shape=dims)


def lowest_onnxruntime(graphs: Sequence[Graph]) -> str:
    """The oldest version that opens them on any machine, by what they hold."""
    operators = {
        Operator(
            domain=node.domain,
            name=node.op_type,
            inputs=max((at for at, value in enumerate(node.inputs, 1) if value is not None), default=0),
            attributes=frozenset(node.attributes),
        )
        for graph in graphs
        for node in graph.model.graph.all_nodes()
    }
    return lowest_version(operators, makes_unsigned=True, untried=onnxruntime.__version__)
