"""Where the graphs run: which execution provider, and how many threads.

Enters: `auto`, `cpu` or `cuda`, and the process's CPU set. Leaves: provider names for ONNX Runtime, a thread count.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import math
import os
import sys
from pathlib import Path
from typing import Literal

import onnxruntime

from pumice.control_groups import MEMBERSHIP, ROOT, control_groups
from pumice.errors import DeviceError, UsageError

DeviceName = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[DeviceName, ...] = ("auto", "cpu", "cuda")
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

    ONNX Runtime itself would tell it on stderr, and go on without CUDA; without cuDNN it fails at the first picture.
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


def usable_cpus() -> int:
    """CPUs of the process's CPU set, or fewer where its control group has a smaller quota of time."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(MEMBERSHIP, ROOT)
    return max(1, min(allowed, math.ceil(quota)) if quota is not None else allowed)


def _cgroup_quota(membership: Path, root: Path) -> float | None:
    """CPUs' worth of time that control groups (version 2, or 1) grant; None without a limit."""
    quotas = [
        _quota(folder / "cpu.max")
        if version == 2
        else _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
        for version, folder in control_groups("cpu", membership, root)
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(*files: Path) -> float | None:
    """`quota period` in microseconds, from one file or two; `max` and -1 mean no limit."""
    try:
        words = " ".join(file.read_text() for file in files).split()
        quota, period = float(words[0]), float(words[1])
    except (OSError, ValueError, IndexError):
        return None
    return quota / period if quota > 0 and period > 0 else None
