"""What enters a graph, wherever it lies: from the host by value, on a device by address.

Enters: tokens and features. Leaves: embeddings and features where the next graph wants them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue

from pumice.device_memory import DeviceArray, DeviceMemory, Rows
from pumice.interrupt import Cancellation, run, run_bound

Embeds: TypeAlias = "NDArray[np.float32] | OrtValue"


def bind_rows(binding: Any, name: str, rows: Rows) -> None:
    """Bind an input; a device's array must be kept until the run has ended."""
    if isinstance(rows, DeviceArray):
        binding.bind_ortvalue_input(name, rows.value)
    else:
        binding.bind_cpu_input(name, rows)


def embed(session: Any, memory: DeviceMemory | None, ids: Sequence[int], features: Rows) -> Embeds:
    """Embeddings of `ids` and of the pictures' rows in them, float32 [1, T, D], in `memory` or on the host.

    Raises:
        GenerationError: a failure in ONNX Runtime.
    """
    ids_1T = np.array([ids], np.int64)
    if memory is None:
        feeds: dict[str, Any] = {"input_ids": ids_1T, "image_features": features}
        embeds_1TD: NDArray[np.float32] = run(session, feeds, ["inputs_embeds"])[0]
        return embeds_1TD
    binding = session.io_binding()
    binding.bind_cpu_input("input_ids", ids_1T)
    bind_rows(binding, "image_features", features)
    binding.bind_output("inputs_embeds", memory.device)
    run_bound(session, binding)
    return binding.get_outputs()[0]


def bind_embeds(binding: Any, embeds: Embeds) -> None:
    """Bind `inputs_embeds`."""
    if isinstance(embeds, np.ndarray):
        binding.bind_cpu_input("inputs_embeds", embeds)
    else:
        binding.bind_ortvalue_input("inputs_embeds", embeds)


def picture_features(
    session: Any,
    memory: DeviceMemory,
    pixels_NCHW: NDArray[np.float32],
    width: int,
    cancellation: Cancellation,
) -> DeviceArray:
    """Features of pictures of one size, float32 [N, T, D], left in `memory`.

    Raises:
        RunCancelledError: the run was ended.
        GenerationError: a failure in ONNX Runtime.
    """
    binding = session.io_binding()
    binding.bind_cpu_input("pixel_values", pixels_NCHW)
    binding.bind_output("image_features", memory.device)
    cancellation.run_bound(session, binding)
    (value,) = binding.get_outputs()
    size = math.prod(value.shape())
    return memory.adopt(value, (len(pixels_NCHW), size // (len(pixels_NCHW) * width), width), np.float32)
