"""ONNX Runtime sessions of a bundle's graphs.

Enters: a checked bundle, a device, a thread count. Leaves: three or four sessions on that device. On the CPU the vision
encoder is opened last, by a thread, while text can be answered already: the first image waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import onnxruntime

from pumice.bundle.folder import Bundle, open_bundle
from pumice.bundle.optimized import Optimized
from pumice.errors import BundleError, DeviceError
from pumice.machine.cpu import saturates
from pumice.machine.heap import trim
from pumice.machine.pages import Range, mapped, releasable
from pumice.manifest import GraphSpec, TensorSpec
from pumice.sessions.arrays import DeviceMemory
from pumice.sessions.cuda import open_on_cuda, prepare
from pumice.sessions.device import CPU, choose_device, choose_threads, explain_fallback
from pumice.sessions.later import Later

logger = logging.getLogger("pumice")

Device = Literal["cpu", "cuda"]

_ONLY_FATAL = 4
"""ONNX Runtime's log level: errors arrive as exceptions."""
_MAPPING: dict[str, threading.Lock] = {}
"""A file of weights is mapped by one opening after another, so that each knows what it mapped."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A graph's session; `released`: where its weights are mapped, memory that may be given back while it rests."""

    session: onnxruntime.InferenceSession
    released: tuple[Range, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """The graphs, ready to run on `device`, but for the vision encoder, which may still be opened."""

    vision: Later[Opened]
    embedding: onnxruntime.InferenceSession
    decoder: onnxruntime.InferenceSession
    prefill: onnxruntime.InferenceSession | None
    """Where the bundle has it."""
    device: Device
    threads: int
    captures: bool = False
    """Whether the decoder's runs for single tokens are recorded as CUDA graphs."""
    released_prefill: tuple[Range, ...] = ()
    """Where the prefill graph's weights are mapped."""

    @property
    def vision_encoder(self) -> onnxruntime.InferenceSession:
        """The vision encoder, waited for. Raises BundleError where ONNX Runtime refuses it."""
        opened = self.vision.result()
        assert opened is not None
        return opened.session

    @property
    def memory(self) -> DeviceMemory | None:
        """Where arrays stay between the graphs; None where that is the host's memory."""
        return None if self.device == "cpu" else DeviceMemory(self.decoder, self.device)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """How graphs are opened on the CPU, and of which copy."""

    bundle: Bundle
    threads: int
    low_memory: bool
    profile: Path | None
    optimized: Optimized | None


def open_sessions(
    bundle: Bundle,
    *,
    device: str,
    threads: int | None,
    low_memory: bool = False,
    cuda_graph: bool = False,
    profile: Path | None = None,
    optimized: Optimized | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Sessions:
    """Create the sessions; `auto` falls back to the CPU and says so once.

    With `low_memory` weights stay in their files, mapped into memory, instead of being copied into the order that is
    quickest to compute with. With `cuda_graph` decoding is recorded where it is done on CUDA. ONNX Runtime's profiles
    go to the folder `profile`, if given. On the CPU graphs are taken from `optimized`, whose weights are mapped anyway.
    `meanwhile` is done by this thread while others open graphs, which do not need Python's lock; it must not raise.

    Raises:
        UsageError: an unknown device, or a thread count outside its interval.
        DeviceError: `cuda` was asked for and cannot be used.
        BundleError: ONNX Runtime refuses a graph, or its inputs and outputs are not the manifest's; of the vision
            encoder that is raised where it is waited for.
    """
    count = choose_threads(threads)
    chosen = choose_device(device)
    if chosen == "cuda":
        meanwhile, meant = (lambda: None), meanwhile
        try:
            with ThreadPoolExecutor(1) as pool:
                options = session_options(count, low_memory, profile)
                opening = pool.submit(_open_on_cuda, bundle, options, count, cuda_graph)
                meant()
                return opening.result()
        except DeviceError as error:
            if device == "cuda":
                raise
            explain_fallback(str(error), level=logging.WARNING)
    place = _Place(bundle=bundle, threads=count, low_memory=low_memory, profile=profile, optimized=optimized)
    return _open_on_cpu(place, meanwhile)


def _open_on_cuda(bundle: Bundle, options: Any, threads: int, captures: bool) -> Sessions:
    graphs = bundle.manifest.graphs
    prepare(bundle.manifest, options)
    return Sessions(
        vision=Later.of(Opened(session=open_session(bundle, graphs.vision_encoder, "cuda", options))),
        embedding=open_session(bundle, graphs.embedding, "cuda", options),
        decoder=open_session(bundle, graphs.decoder, "cuda", options, captures=captures),
        prefill=open_session(bundle, graphs.prefill, "cuda", options) if graphs.prefill else None,
        device="cuda",
        threads=threads,
        captures=captures,
    )


def _open_on_cpu(place: _Place, meanwhile: Callable[[], None]) -> Sessions:
    """Several graphs at once: packing weights takes one thread each. The vision encoder comes behind all else."""
    graphs = place.bundle.manifest.graphs
    others = threading.Event()
    vision = Later(partial(_vision_last, place, others))
    needed = [graph for graph in (graphs.decoder, graphs.prefill, graphs.embedding) if graph is not None]
    begun = threading.Semaphore(0)

    def opened(graph: GraphSpec) -> Opened:
        begun.release()
        return _opened(place, graph, rests=graph is graphs.prefill)

    workers = 1 if place.profile is not None else place.threads
    try:
        with ThreadPoolExecutor(workers) as pool:
            opening = {graph: pool.submit(opened, graph) for graph in needed}
            for _ in needed[:workers]:  # else none would begin: `meanwhile` keeps Python's lock
                begun.acquire()
            meanwhile()
            vision.start()
            found = {graph: future.result() for graph, future in opening.items()}
    except BaseException:
        others.set()
        vision.settle()  # no thread is left behind
        raise
    others.set()
    if place.profile is not None:
        vision.result()
    return Sessions(
        vision=vision,
        embedding=found[graphs.embedding].session,
        decoder=found[graphs.decoder].session,
        prefill=None if graphs.prefill is None else found[graphs.prefill].session,
        device="cpu",
        threads=place.threads,
        released_prefill=() if graphs.prefill is None else found[graphs.prefill].released,
    )


def _vision_last(place: _Place, others: threading.Event) -> Opened:
    """The vision encoder. Once all `others` are open too, what packing weights took goes back to the system."""
    opened = _vision(place)
    others.wait()
    trim()
    return opened


def _vision(place: _Place) -> Opened:
    """The vision encoder of the copy; of the bundle, digested whole, where ONNX Runtime refuses the copy."""
    try:
        return _opened(place, place.bundle.manifest.graphs.vision_encoder, rests=True)
    except BundleError as error:
        if place.optimized is None:
            raise
        tell_refused(place.optimized, error)
        return _vision(replace(place, bundle=open_bundle(place.bundle.folder), optimized=None))


def tell_refused(copy: Optimized, error: BundleError) -> None:
    """Say that a copy is passed over."""
    logger.warning("the copy in %s is not used: %s", copy.folder, error)


def _opened(place: _Place, graph: GraphSpec, *, rests: bool) -> Opened:
    """A graph on the CPU; where its weights are mapped, if that memory is to be given back while it `rests`."""
    copy = place.optimized
    path = None if copy is None else copy.path(graph)
    options = session_options(place.threads, place.low_memory and path is None, place.profile)
    if copy is None or path is None:
        return Opened(session=open_session(place.bundle, graph, "cpu", options))
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it was optimised
    if not rests:
        return Opened(session=open_session(place.bundle, graph, "cpu", options, path=path))
    data = copy.data(graph)
    with _mapping(data):  # what comes to be mapped is of this session
        before = mapped(data)
        session = open_session(place.bundle, graph, "cpu", options, path=path)
        return Opened(session=session, released=releasable(data, before))


def _mapping(path: str) -> threading.Lock:
    return _MAPPING.setdefault(path, threading.Lock())


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
