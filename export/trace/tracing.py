"""A torch module → an `onnx_ir.Model` without weights.

The module lives under `FakeTensorMode`: its parameters have shapes but no bytes, so tracing costs the same memory for
a billion parameters as for a thousand. Every parameter leaves as a graph *input* of the parameter's name, which lets
the graph passes treat the model as one without weights; `pumice.export.weights.stream` turns them into initializers.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

OPSET = 21


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A graph as it was traced: `inputs` are the caller's, all other graph inputs are `parameters`."""

    model: ir.Model
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Example:
    """What `torch.onnx.export` needs besides the module: arguments, their free dimensions, and the names."""

    args: tuple[Any, ...]
    dynamic_shapes: tuple[Any, ...]
    input_names: Sequence[str]
    output_names: Sequence[str]
    output_dims: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    """Names for outputs' dimensions where tracing leaves an expression."""


def trace(build: Callable[[], torch.nn.Module], example: Callable[[], Example]) -> Traced:
    """Trace the module that `build` makes on the arguments that `example` makes, both under fake tensors."""
    with FakeTensorMode(), torch.no_grad():
        module, call = build().eval(), example()
        with _quiet():
            program = torch.onnx.export(
                module,
                call.args,
                dynamo=True,
                dynamic_shapes=call.dynamic_shapes,
                input_names=list(call.input_names),
                output_names=list(call.output_names),
                opset_version=OPSET,
                optimize=False,
                verbose=False,
            )
    assert program is not None
    model = program.model
    for name, dims in call.output_dims.items():
        next(o for o in model.graph.outputs if o.name == name).shape = ir.Shape(dims)
    _name_by_path(model)
    return Traced(model=model, inputs=tuple(call.input_names), parameters=_lift_parameters(model))


def _lift_parameters(model: ir.Model) -> tuple[str, ...]:
    """Turn every initializer that stands for a parameter into a graph input."""
    used = [v for v in model.graph.initializers.values() if v.uses()]
    for value in used:
        value.const_value = None
        model.graph.inputs.append(value)
    model.graph.initializers.clear()
    return tuple(value.name for value in used if value.name)


def _name_by_path(model: ir.Model) -> None:
    """Name nodes by their module's path, `/layers.0/mlp/down_proj/MatMul`: a profile then reads like the model.

    What a node computes is named after it: `pumice.export.trace.layers` knows by that which layer it is of.
    """
    taken: dict[str, int] = {}
    kept = set(model.graph.outputs)
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['']"))
        module = next((scope for scope in reversed(scopes[:-1]) if not scope.startswith("_empty")), "")
        path = re.sub(r"\.(?!\d)", "/", f"/{module}/{node.op_type}").replace("//", "/")
        taken[path] = taken.get(path, 0) + 1
        node.name = path if taken[path] == 1 else f"{path}_{taken[path]}"
        node.metadata_props.clear()
        for index, output in enumerate(node.outputs):
            if output not in kept:
                output.name = f"{node.name}_output_{index}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter logs and warns about its own internals; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
