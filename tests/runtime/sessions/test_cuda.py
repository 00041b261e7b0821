"""What runs where. The placements are those that ONNX Runtime 1.31's CUDA provider gave pebble's graphs."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

import pumice
from pumice.errors import BundleError, DeviceError
from pumice.sessions import cuda as cuda_sessions
from pumice.sessions.cuda import open_on_cuda, stray_operators
from pumice.sessions.device import CPU, CUDA

ON_PURPOSE = [
    ("Concat", "/tower/embeddings/Concat"),
    ("Squeeze", "/Squeeze_2"),
    ("Min", "/Min"),
    ("Equal", "/Equal"),
    ("Where", "/Where_2"),
    ("Gather", "/Gather_2"),
]
ATTENTION = ("GroupQueryAttention", "/layers.0/self_attn/GroupQueryAttention")


def test_arithmetic_with_shapes_may_stay_on_the_cpu() -> None:
    assert not stray_operators(ON_PURPOSE)


@pytest.mark.parametrize(
    "stray",
    [ATTENTION, ("MatMulNBits", "/lm_head/MatMulNBits"), ("Mul", "/layers.3/mlp/Mul"), ("ArgMax", "/ArgMax")],
)
def test_what_computes_may_not(stray: tuple[str, str]) -> None:
    assert stray_operators([*ON_PURPOSE, stray, stray]) == {stray[0]: 2}


class Session:
    """A session that was given these providers and put nodes on the CPU."""

    def __init__(self, providers: list[str], on_cpu: list[tuple[str, str]]) -> None:
        self.get_providers = lambda: providers
        self._on_cpu = on_cpu

    def get_provider_graph_assignment_info(self) -> list[Any]:
        def part(provider: str, nodes: list[tuple[str, str]]) -> SimpleNamespace:
            found = [SimpleNamespace(op_type=operator, name=name) for operator, name in nodes]
            return SimpleNamespace(ep_name=provider, get_nodes=lambda: found)

        return [part(CUDA, [("MatMul", "/layers.0/mlp/MatMul")]), part(CPU, self._on_cpu)]


def opening(monkeypatch: pytest.MonkeyPatch, session: Session | Exception) -> dict[str, Any]:
    """What `InferenceSession` is called with when it gives that session, or fails."""
    called: dict[str, Any] = {}

    def inference_session(path: str, options: Any, **kwargs: Any) -> Session:
        called.update(kwargs)
        if isinstance(session, Exception):
            raise session
        return session

    monkeypatch.setattr(cuda_sessions.onnxruntime, "InferenceSession", inference_session)
    return called


def test_cuda_is_asked_for_without_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session([CUDA, CPU], ON_PURPOSE)
    called = opening(monkeypatch, session)
    for captures in (False, True):
        assert open_on_cuda(Path("decoder.onnx"), None, captures=captures) is session
        (name, options), cpu = called["providers"]
        assert (name, cpu, called["enable_fallback"]) == (CUDA, CPU, 0)
        assert options["enable_cuda_graph"] == str(int(captures))


def test_operators_on_the_cpu_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    opening(monkeypatch, Session([CUDA, CPU], [*ON_PURPOSE, ATTENTION, ATTENTION]))
    with pytest.raises(
        DeviceError,
        match=r"no CUDA kernels for GroupQueryAttention \(2 ×\) as decoder.onnx .*--recipe cuda-fp16",
    ) as info:
        open_on_cuda(Path("decoder.onnx"), None)
    assert info.value.exit_code == 3


def test_a_session_without_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    opening(monkeypatch, Session([CPU], []))
    with pytest.raises(DeviceError, match="could not load its CUDA provider"):
        open_on_cuda(Path("decoder.onnx"), None)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "/onnxruntime_src/cuda_call.cc:154 std::conditional_t<THRW> onnxruntime::CudaCall(ERRTYPE) [with ERRTYPE = "
            "cudaError] CUDA failure 2: out of memory ; GPU=0 ; hostname=vm ; expr=cudaMalloc((void**)&p, size);\n\n",
            "device 'cuda' cannot be used: CUDA failure 2: out of memory",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : cuda_call.cc:105 CudaCall() cuDNN is unavailable for CUDA Execution "
            "Provider: dlsym failed for cudnnCreate\n",
            "device 'cuda' cannot be used: cuDNN is unavailable for CUDA Execution Provider: dlsym failed for "
            "cudnnCreate",
        ),
        ("CUDA is having\na bad day", "device 'cuda' cannot be used: CUDA is having a bad day"),
    ],
)
def test_errors_of_cuda_are_one_line(monkeypatch: pytest.MonkeyPatch, said: str, expected: str) -> None:
    opening(monkeypatch, RuntimeError(said))
    with pytest.raises(DeviceError) as info:
        open_on_cuda(Path("decoder.onnx"), None)
    assert str(info.value) == expected


def test_other_errors_are_the_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    opening(monkeypatch, ValueError("a damaged graph"))
    with pytest.raises(ValueError, match="a damaged graph"):
        open_on_cuda(Path("decoder.onnx"), None)


def test_a_bundle_for_cpus_is_refused_or_runs_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, pebble_bundle: Path
) -> None:
    monkeypatch.setattr("pumice.sessions.device.cuda_obstacle", lambda: None)
    monkeypatch.setattr("pumice.sessions.device._said", set())
    with pytest.raises(DeviceError, match=r"keys and values are float32 .*--recipe cuda-fp16 or cuda-int4"):
        pumice.load(pebble_bundle, device="cuda")
    with caplog.at_level(logging.WARNING, "pumice"):
        assert pumice.load(pebble_bundle, device="auto").device == "cpu"
    assert any("keys and values are float32" in message for message in caplog.messages)


def test_a_damaged_graph_is_the_bundles_fault(
    monkeypatch: pytest.MonkeyPatch, pebble_bundle_cuda: Path
) -> None:
    monkeypatch.setattr("pumice.sessions.device.cuda_obstacle", lambda: None)
    opening(monkeypatch, ValueError("a damaged graph"))
    with pytest.raises(
        BundleError, match=f"ONNX Runtime {onnxruntime.__version__} refuses .*a damaged graph"
    ):
        pumice.load(pebble_bundle_cuda, device="cuda")
