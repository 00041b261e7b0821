"""Sessions on the CUDA provider, and proof that all of a graph that computes is there.

Enters: a graph's file. Leaves: a session, whose operators all run on the GPU but those that compute shapes.

ONNX Runtime gives an operator to the CPU where CUDA has no kernel for its types, says nothing, and copies what it reads
and writes at every run. So it is asked where everything went. Its own switch against this,
`session.disable_cpu_ep_fallback`, also refuses what it puts on the CPU on purpose: arithmetic with shapes, which a GPU
would have to be waited for (docs/decisions/cuda.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnxruntime

from pumice.errors import DeviceError
from pumice.manifest import Manifest
from pumice.sessions.device import CPU, CUDA

_PROVIDER_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",  # the other one doubles what it holds
    "cudnn_conv_algo_search": "HEURISTIC",  # one convolution, of patches: trying all ways takes longer than it
    "use_tf32": "0",  # what is float32 is so because range or precision demand it
}
_SHAPES = ("Shape", "Size", "Concat", "Gather", "Slice", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Range")
_NUMBERS = ("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Cast", "Identity", "ConstantOfShape")
_CHOICES = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not", "Where")
_SHAPE_OPERATORS = frozenset((*_SHAPES, *_NUMBERS, *_CHOICES))
"""What ONNX Runtime may compute on the CPU, outside layers: there no tensor that it prefers to have there is large."""
_FAILURE = re.compile(r"\w+ failure \d+: [^;]*|cuDNN is unavailable.*")
_LAYER = re.compile(r"/layers\.\d+/")


def prepare(manifest: Manifest, options: Any) -> None:
    """Make session options for `open_on_cuda`; refuse a bundle whose attention has no kernel, before it is read.

    Raises:
        DeviceError: it keeps keys and values in float32, or in int8.
    """
    kv_dtype = manifest.decoder.kv_dtype
    if kv_dtype != "float16":
        raise DeviceError(
            f"device 'cuda' cannot be used: this bundle was made for CPUs, its keys and values are {kv_dtype} and "
            "attention on CUDA takes float16: export with --recipe cuda-fp16 or cuda-int4"
        )
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")


def open_on_cuda(path: Path, options: Any, *, captures: bool = False) -> Any:
    """A session of the graph at `path`, with options that were prepared; with `captures` its runs are recorded as CUDA
    graphs, but those whose `gpu_graph_id` is -1.

    Raises:
        DeviceError: CUDA cannot be used, or not for all of the graph.
        Exception: ONNX Runtime's, for a graph that it refuses.
    """
    provider = (CUDA, _PROVIDER_OPTIONS | {"enable_cuda_graph": str(int(captures))})
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=[provider, CPU], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime has no public root of its exceptions
        if "CUDA" in str(error):
            raise DeviceError(f"device 'cuda' cannot be used: {_reason(error)}") from None
        raise
    if CUDA not in session.get_providers():
        raise DeviceError("device 'cuda' cannot be used: ONNX Runtime could not load its CUDA provider")
    strays = stray_operators(
        (node.op_type, node.name)
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != CUDA
        for node in part.get_nodes()
    )
    if strays:
        listed = ", ".join(f"{operator} ({count} ×)" for operator, count in strays.items())
        raise DeviceError(
            f"device 'cuda' cannot be used: onnxruntime {onnxruntime.__version__} has no CUDA kernels for {listed} as "
            f"{path.name} has them, and would run them on the CPU: export with --recipe cuda-fp16 or cuda-int4"
        )
    return session


def stray_operators(nodes: Iterable[tuple[str, str]]) -> Counter[str]:
    """Of `nodes` (operator, name) that are not on the GPU those that should be, counted by operator."""
    return Counter(
        operator for operator, name in nodes if operator not in _SHAPE_OPERATORS or _LAYER.search(name)
    )


def _reason(error: Exception) -> str:
    """What an error of CUDA's says, behind the names of the functions that ONNX Runtime passed it through."""
    text = " ".join(str(error).split())
    found = _FAILURE.search(text)
    return (found[0] if found else text).strip()[:300]
