import logging
from pathlib import Path

import pytest

import pumice
from pumice.errors import DeviceError, UsageError
from pumice.machine.cpu import usable_cpus
from pumice.sessions import device
from pumice.sessions.device import CUDA, choose_device, choose_threads


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_said", set())


def with_providers(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(
        device.onnxruntime, "get_available_providers", lambda: [*names, "CPUExecutionProvider"]
    )


class Driver:
    """libcuda with so many devices."""

    def __init__(self, devices: int, status: int = 0) -> None:
        self.devices, self.status = devices, status

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.status

    def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
        count._obj.value = self.devices  # type: ignore[attr-defined]
        return 0


def with_libraries(monkeypatch: pytest.MonkeyPatch, missing: str = "nothing") -> None:
    """A machine whose loader finds every library but one."""

    def load(name: str) -> Driver:
        if missing in name:
            raise OSError(f"{missing}: cannot open shared object file: No such file or directory")
        return Driver(1)

    monkeypatch.setattr(device.onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas.so.13"))
    monkeypatch.setattr(device.ctypes, "CDLL", load)


def test_the_cpu_needs_nothing() -> None:
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["gpu", "", "CPU", None])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="expected one of auto, cpu, cuda"):
        choose_device(name)


def test_cuda_says_that_the_build_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with_providers(monkeypatch)
    with pytest.raises(DeviceError, match=r"has no CUDA provider.*pumice\[cuda\]"):
        choose_device("cuda")


def test_cuda_says_that_there_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    with_providers(monkeypatch, CUDA)
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        choose_device("cuda")


@pytest.mark.parametrize("driver", [Driver(0), Driver(1, status=100)])
def test_cuda_says_that_there_is_no_device(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    with_providers(monkeypatch, CUDA)
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: driver)
    with pytest.raises(DeviceError, match="shows no device"):
        choose_device("cuda")


def test_auto_takes_cuda_where_nothing_speaks_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with_providers(monkeypatch, CUDA)
    with_libraries(monkeypatch)
    assert choose_device("auto") == choose_device("cuda") == "cuda"


@pytest.mark.parametrize("missing", ["onnxruntime_providers_cuda", "cudnn"])
def test_cuda_says_which_library_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    with_providers(monkeypatch, CUDA)
    with_libraries(monkeypatch, missing)
    with pytest.raises(
        DeviceError, match=rf"cuDNN 9, and one .*{missing}.*: pip install 'onnxruntime-gpu"
    ) as info:
        choose_device("cuda")
    assert info.value.exit_code == 3
    assert capsys.readouterr() == ("", "")  # what ONNX Runtime prints is not for standard output
    assert choose_device("auto") == "cpu"


def test_auto_falls_back_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_providers(monkeypatch)
    with caplog.at_level(logging.INFO, "pumice"):
        assert [choose_device("auto") for _ in range(3)] == ["cpu"] * 3
    assert len(caplog.messages) == 1
    assert "running on the CPU" in caplog.messages[0]


def test_a_provider_that_does_not_load_is_an_error_or_a_fallback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, pebble_bundle_cuda: Path
) -> None:
    with_providers(monkeypatch, CUDA)
    with_libraries(monkeypatch)
    monkeypatch.setattr(
        "warnings.warn", lambda *args, **kwargs: None
    )  # ONNX Runtime warns of what it cannot load
    with pytest.raises(DeviceError, match="could not load its CUDA provider"):
        pumice.load(pebble_bundle_cuda, device="cuda")
    with caplog.at_level(logging.WARNING, "pumice"):
        assert pumice.load(pebble_bundle_cuda, device="auto").device == "cpu"
        assert pumice.load(pebble_bundle_cuda, device="auto").device == "cpu"
    assert [message for message in caplog.messages if "running on the CPU" in message] == caplog.messages[:1]


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.5, "2", True])
def test_threads_outside_their_interval_are_refused(threads: int) -> None:
    with pytest.raises(UsageError, match="expected 1 to 1024"):
        choose_threads(threads)


def test_threads_as_asked_or_as_many_as_cpus(pebble_bundle: Path) -> None:
    assert choose_threads(3) == 3
    assert choose_threads(None) == usable_cpus() >= 1
    assert pumice.load(pebble_bundle, device="cpu", threads=1).threads == 1
