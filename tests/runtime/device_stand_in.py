"""The device path without a device: everything that on CUDA stays in its memory stays in the host's, by address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import pumice
from pumice.model import Model
from pumice.sessions import opening as sessions
from pumice.sessions.arrays import DeviceMemory
from pumice.sessions.opening import Sessions

ARRAYS_ON_DEVICES = (1, 31)
"""Onnxruntime's version from which arrays on a device can be written by address: the bound of the extra `cuda`."""
needs_arrays_on_devices = pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < ARRAYS_ON_DEVICES,
    reason="of the extra cuda, whose onnxruntime-gpu is 1.31 at least",
)


class OnStandIn(Sessions):
    """Sessions that compute on the CPU, whose memory the runtime takes for a device's."""

    @property
    def memory(self) -> DeviceMemory | None:
        return DeviceMemory(self.decoder, "cpu")


def load_on_stand_in(bundle: Path) -> Model:
    def open_sessions(*args: Any, **kwargs: Any) -> Sessions:
        return OnStandIn(**vars(sessions.open_sessions(*args, **kwargs)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pumice.loading.open_sessions", open_sessions)
        return pumice.load(bundle, device="cpu", threads=1)
