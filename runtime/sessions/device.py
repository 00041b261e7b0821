"""Where the graphs run: which execution provider, and how many threads.

Enters: `auto`, `cpu` or `cuda`, and the process's CPU set. Leaves: provider names for ONNX Runtime, a thread count.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import sys
from pathlib import Path
from typing import Literal

import onnxruntime

from pumice.errors import DeviceError, UsageError
from pumice.machine.cpu import usable_cpus
from pumice.machine.devices import DEVICES

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
MAX_THREADS = 1024

logger = logging.getLogger("pumice")
_said: set[str] = set()


def choose_device(name: str) -> Literal["cpu", "cuda"]:
    """The device to try; `auto` is `cuda` where it seems usable.

    Raises:
        UsageError: not one of `DEVICES`.
        DeviceError: `cuda` was asked for and cannot be used; the message says why.
    """
    if name not in DEVICES:
        raise UsageError(f"device is {name!r}, expected one of {', '.join(DEVICES)}")
    if name == "cpu":
        return "cpu"
    obstacle = cuda_obstacle()
    if obstacle is None:
        return "cuda"
    if name == "cuda":
        raise DeviceError(f"device 'cuda' cannot be used: {obstacle}")
    explain_fallback(obstacle, level=logging.INFO)
    return "cpu"


def explain_fallback(obstacle: str, *, level: int) -> None:
    """Say once in this process that `auto` means the CPU, and why."""
    if obstacle not in _said:
        _said.add(obstacle)
        logger.log(level, "running on the CPU: %s", obstacle)


def cuda_obstacle() -> str | None:
    """Why CUDA cannot be used, as far as can be told without creating a session; None if nothing speaks against it."""
    if CUDA not in onnxruntime.get_available_providers():
        return (
            f"the installed onnxruntime {onnxruntime.__version__} has no CUDA provider "
            "(pip install 'pumice[cuda]' in place of pumice[cpu])"
        )
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver shows no device (is CUDA_VISIBLE_DEVICES set?)"
    return _missing_library()


def _missing_library() -> str | None:
    """What ONNX Runtime's CUDA provider needs and the system's loader does not find; None if it finds everything.

    ONNX Runtime itself would tell it on stderr, and go on without CUDA; without cuDNN it fails at the first image.
    """
    windows = sys.platform == "win32"
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        onnxruntime.preload_dlls()  # those that came by pip
    package = Path(onnxruntime.__file__).parent / "capi"
    provider = package / ("onnxruntime_providers_cuda.dll" if windows else "libonnxruntime_providers_cuda.so")
    for library in (str(provider), "cudnn64_9.dll" if windows else "libcudnn.so.9"):
        try:
            ctypes.CDLL(library)
        except OSError as error:
            return (
                f"onnxruntime {onnxruntime.__version__} needs the libraries of CUDA {onnxruntime.cuda_version or ''} "
                f"and cuDNN 9, and one cannot be loaded ({error}): pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
    return None


def choose_threads(threads: int | None) -> int:
    """Threads of a session: as asked, or as many as the process may use CPUs.

    Raises:
        UsageError: outside 1 … `MAX_THREADS`.
    """
    if threads is None:
        return usable_cpus()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads is {threads!r}, expected 1 to {MAX_THREADS}")
    return threads
