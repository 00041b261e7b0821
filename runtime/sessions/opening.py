"""ONNX Runtime sessions of a bundle's graphs.

Enters: a checked bundle, a device, a thread count. Leaves: three sessions on that device.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime

from pumice.bundle.folder import Bundle
from pumice.bundle.optimized import Optimized
from pumice.errors import BundleError, DeviceError
from pumice.machine.cpu import saturates
from pumice.machine.pages import Range, mapped, releasable
from pumice.manifest import GraphSpec, TensorSpec
from pumice.sessions.arrays import DeviceMemory
from pumice.sessions.cuda import open_on_cuda, prepare
from pumice.sessions.device import CPU, choose_device, choose_threads, explain_fallback

Device = Literal["cpu", "cuda"]

_ONLY_FATAL = 4
"""ONNX Runtime's log level: errors arrive as exceptions."""
_MAPPING = threading.Lock()
"""Copies are opened one after another, so that each knows what it mapped."""


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """The graphs, ready to run on `device`; `prefill` where the bundle has it."""

    vision_encoder: onnxruntime.InferenceSession
    embedding: onnxruntime.InferenceSession
    decoder: onnxruntime.InferenceSession
    prefill: onnxruntime.InferenceSession | None
    device: Device
    threads: int
    captures: bool = False
    """Whether the decoder's runs for single tokens are recorded as CUDA graphs."""
    released_vision: tuple[Range, ...] = ()
    """Where the vision encoder's weights are mapped: memory that may be given back once images are encoded."""
    released_prefill: tuple[Range, ...] = ()
    """Those of the prefill graph."""

    @property
    def memory(self) -> DeviceMemory | None:
        """Where arrays stay between the graphs; None where that is the host's memory."""
        return None if self.device == "cpu" else DeviceMemory(self.decoder, self.device)


def open_sessions(
    bundle: Bundle,
    *,
    device: str,
    threads: int | None,
    low_memory: bool = False,
    cuda_graph: bool = False,
    profile: Path | None = None,
    optimized: Optimized | None = None,
) -> Sessions:
    """Create the sessions; `auto` falls back to the CPU and says so once.

    With `low_memory` weights stay in their files, mapped into memory, instead of being copied into the order that is
    quickest to compute with. With `cuda_graph` decoding is recorded where it is done on CUDA. ONNX Runtime's profiles
    go to the folder `profile`, if given. On the CPU graphs are taken from `optimized`, whose weights are mapped anyway.

    Raises:
        UsageError: an unknown device, or a thread count outside its interval.
        DeviceError: `cuda` was asked for and cannot be used.
        BundleError: ONNX Runtime refuses a graph, or its inputs and outputs are not the manifest's.
    """
    count = choose_threads(threads)
    chosen = choose_device(device)
    if chosen == "cuda":
        try:
            return _open_on_cuda(bundle, session_options(count, low_memory, profile), count, cuda_graph)
        except DeviceError as error:
            if device == "cuda":
                raise
            explain_fallback(str(error), level=logging.WARNING)
    return _open_on_cpu(bundle, count, low_memory, profile, optimized)


def _open_on_cuda(bundle: Bundle, options: Any, threads: int, captures: bool) -> Sessions:
    graphs = bundle.manifest.graphs
    prepare(bundle.manifest, options)
    return Sessions(
        vision_encoder=open_session(bundle, graphs.vision_encoder, "cuda", options),
        embedding=open_session(bundle, graphs.embedding, "cuda", options),
        decoder=open_session(bundle, graphs.decoder, "cuda", options, captures=captures),
        prefill=open_session(bundle, graphs.prefill, "cuda", options) if graphs.prefill else None,
        device="cuda",
        threads=threads,
        captures=captures,
    )


def _open_on_cpu(
    bundle: Bundle, threads: int, low_memory: bool, profile: Path | None, optimized: Optimized | None
) -> Sessions:
    graphs = bundle.manifest.graphs
    copied = () if optimized is None else (graphs.vision_encoder, graphs.prefill)
    resting = {graph: optimized.data(graph) for graph in copied if optimized and graph}
    with _MAPPING if resting else contextlib.nullcontext():  # what comes to be mapped is of these sessions
        before = {path: mapped(path) for path in resting.values()}
        sessions = _open_all(bundle, threads, low_memory, profile, optimized)
        released = {graph: releasable(path, before[path]) for graph, path in resting.items()}
    return Sessions(
        vision_encoder=sessions[graphs.vision_encoder],
        embedding=sessions[graphs.embedding],
        decoder=sessions[graphs.decoder],
        prefill=None if graphs.prefill is None else sessions[graphs.prefill],
        device="cpu",
        threads=threads,
        released_vision=released.get(graphs.vision_encoder, ()),
        released_prefill=() if graphs.prefill is None else released.get(graphs.prefill, ()),
    )


def _open_all(
    bundle: Bundle, threads: int, low_memory: bool, profile: Path | None, optimized: Optimized | None
) -> dict[GraphSpec, onnxruntime.InferenceSession]:
    """All graphs at once: packing weights takes one thread each."""
    graphs = bundle.manifest.graphs.all
    copied = {} if optimized is None else {graph.file: optimized.path(graph) for graph in graphs}

    def opened(graph: GraphSpec) -> onnxruntime.InferenceSession:
        path = copied.get(graph.file)
        options = session_options(threads, low_memory and path is None, profile)
        if path is not None:  # it is optimised already
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return open_session(bundle, graph, "cpu", options, path=path)

    with ThreadPoolExecutor(1 if profile is not None else threads) as pool:
        return dict(zip(graphs, pool.map(opened, graphs), strict=True))


def open_session(
    bundle: Bundle,
    graph: GraphSpec,
    device: Device,
    options: Any,
    *,
    captures: bool = False,
    path: Path | None = None,
) -> onnxruntime.InferenceSession:
    """A session of the bundle's graph, or of the optimised one at `path`."""
    path = path or bundle.path(graph.file)
    if options.enable_profiling:  # a file for each graph
        options.profile_file_prefix = str(Path(options.profile_file_prefix).with_name(path.stem))
    try:
        if device == "cuda":
            session = open_on_cuda(path, options, captures=captures)
        else:
            session = onnxruntime.InferenceSession(str(path), options, providers=[CPU])
    except DeviceError:
        raise
    except Exception as error:  # ONNX Runtime has no public root of its exceptions
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} refuses {path}: {_first_line(error)}"
        ) from None
    inputs = [*session.get_inputs(), *session.get_overridable_initializers()]
    _check_tensors(path.name, graph.inputs, inputs)
    _check_tensors(path.name, graph.outputs, session.get_outputs())
    return session


def session_options(threads: int, low_memory: bool, profile: Path | None) -> Any:
    """What every session is opened with."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Memory patterns are kept for every combination of input shapes: one more for every token of an answer.
    options.enable_mem_pattern = False
    # Initializers get memory of their own: an arena would round it up and never give it back.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if saturates():  # weights are made unsigned, whose products are slower and exact
        options.add_session_config_entry("session.x64quantprecision", "1")
    # Three graphs take turns: the threads of one should not spin while another computes.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if low_memory:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile / "graph")
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
