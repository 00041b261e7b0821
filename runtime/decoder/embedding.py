"""What enters a graph, wherever it lies: from the host by value, on a device by address.

Enters: tokens and features. Leaves: embeddings and features where the next graph wants them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue

from pumice.manifest.tensors import IMAGE_FEATURES, INPUT_IDS, INPUTS_EMBEDS
from pumice.sessions.arrays import DeviceMemory, Rows, bind_rows
from pumice.sessions.runs import run, run_bound

Embeds: TypeAlias = "NDArray[np.float32] | OrtValue"


def embed(session: Any, memory: DeviceMemory | None, ids: Sequence[int], features: Rows) -> Embeds:
    """Embeddings of `ids` and of the images' rows in them, float32 [1, T, D], in `memory` or on the host.

    Raises:
        GenerationError: a failure in ONNX Runtime.
    """
    ids_1T = np.array([ids], np.int64)
    if memory is None:
        feeds: dict[str, Any] = {INPUT_IDS: ids_1T, IMAGE_FEATURES: features}
        embeds_1TD: NDArray[np.float32] = run(session, feeds, [INPUTS_EMBEDS])[0]
        return embeds_1TD
    binding = session.io_binding()
    binding.bind_cpu_input(INPUT_IDS, ids_1T)
    bind_rows(binding, IMAGE_FEATURES, features)
    binding.bind_output(INPUTS_EMBEDS, memory.device)
    run_bound(session, binding)
    return binding.get_outputs()[0]


def bind_embeds(binding: Any, embeds: Embeds) -> None:
    """Bind `inputs_embeds`."""
    if isinstance(embeds, np.ndarray):
        binding.bind_cpu_input(INPUTS_EMBEDS, embeds)
    else:
        binding.bind_ortvalue_input(INPUTS_EMBEDS, embeds)
