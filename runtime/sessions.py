"""ONNX Runtime sessions of a bundle's graphs.

Enters: a checked bundle, a device, a thread count. Leaves: three sessions on that device.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import onnxruntime

from pumice.bundle import Bundle
from pumice.device import CPU, CUDA, choose_device, choose_threads, explain_fallback
from pumice.errors import BundleError, DeviceError
from pumice.manifest import GraphSpec, TensorSpec

Device = Literal["cpu", "cuda"]

_ONLY_FATAL = 4
"""ONNX Runtime's log level: errors arrive as exceptions."""


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """The three graphs, ready to run on `device`."""

    vision_encoder: onnxruntime.InferenceSession
    embedding: onnxruntime.InferenceSession
    decoder: onnxruntime.InferenceSession
    device: Device
    threads: int


def open_sessions(bundle: Bundle, *, device: str, threads: int | None, low_memory: bool = False) -> Sessions:
    """Create the sessions; `auto` falls back to the CPU and says so once.

    With `low_memory` weights stay in their files, mapped into memory, instead of being copied into the order that is
    quickest to compute with.

    Raises:
        UsageError: an unknown device, or a thread count outside its interval.
        DeviceError: `cuda` was asked for and cannot be used.
        BundleError: ONNX Runtime refuses a graph, or its inputs and outputs are not the manifest's.
    """
    count = choose_threads(threads)
    chosen = choose_device(device)
    try:
        return _open_all(bundle, chosen, _options(count, low_memory), count)
    except DeviceError as error:
        if device == "cuda":
            raise
        explain_fallback(str(error), level=logging.WARNING)
        return _open_all(bundle, "cpu", _options(count, low_memory), count)


def _open_all(bundle: Bundle, device: Device, options: Any, threads: int) -> Sessions:
    graphs = bundle.manifest.graphs
    return Sessions(
        vision_encoder=_open(bundle, graphs.vision_encoder, device, options),
        embedding=_open(bundle, graphs.embedding, device, options),
        decoder=_open(bundle, graphs.decoder, device, options),
        device=device,
        threads=threads,
    )


def _open(bundle: Bundle, graph: GraphSpec, device: Device, options: Any) -> onnxruntime.InferenceSession:
    providers = [CUDA, CPU] if device == "cuda" else [CPU]
    path = bundle.path(graph.file)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime has no public root of its exceptions
        if device == "cuda" and "CUDA" in str(error):
            raise DeviceError(f"device 'cuda' cannot be used: {_first_line(error)}") from None
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} refuses {path}: {_first_line(error)}"
        ) from None
    if device == "cuda" and CUDA not in session.get_providers():
        raise DeviceError(
            "device 'cuda' cannot be used: ONNX Runtime could not load its CUDA provider; "
            "it needs the CUDA and cuDNN libraries of its version"
        )
    inputs = [*session.get_inputs(), *session.get_overridable_initializers()]
    _check_tensors(path.name, graph.inputs, inputs)
    _check_tensors(path.name, graph.outputs, session.get_outputs())
    return session


def _options(threads: int, low_memory: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Memory patterns are kept for every combination of input shapes: one more for every token of an answer.
    options.enable_mem_pattern = False
    # Initializers get memory of their own: an arena would round it up and never give it back.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    # Three graphs take turns: the threads of one should not spin while another computes.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if low_memory:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _check_tensors(file: str, expected: tuple[TensorSpec, ...], actual: list[Any]) -> None:
    missing = {tensor.name for tensor in expected} - {tensor.name for tensor in actual}
    if missing:
        raise BundleError(
            f"{file} has no {', '.join(sorted(missing))}, which its manifest promises: export it again"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
