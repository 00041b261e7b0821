"""pumice: LLaVA-style vision-language models on ONNX Runtime, without PyTorch.

model = pumice.load("bundles/pebble")
print(model.generate("What is this?", images=["image.png"]).text)
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than all that is here
if TYPE_CHECKING:
    from typing import Any

    from pumice.chat import Chat
    from pumice.engine import AsyncEngineStream, Engine, EngineCounters, EngineStream, Histogram
    from pumice.errors import (
        BatchError,
        BundleError,
        CheckpointError,
        ContextLengthError,
        DeadlineError,
        DeviceError,
        EngineClosedError,
        ExportError,
        GenerationError,
        HubError,
        ImageError,
        InsufficientMemoryError,
        PromptError,
        PumiceError,
        QueueFullError,
        SchemaVersionError,
        UsageError,
        VideoError,
    )
    from pumice.images.prepared import ImageFeatures
    from pumice.images.videos import Video
    from pumice.loading import load
    from pumice.model import Model
    from pumice.prompt.prepared import Prepared
    from pumice.prompt.template import ChatTemplate
    from pumice.prompt.texts import TextTokenizer
    from pumice.result import Generation, Timings, TokenLogprob, TokenLogprobs, Usage
    from pumice.stream import TextStream

__all__ = [
    "AsyncEngineStream",
    "BatchError",
    "BundleError",
    "Chat",
    "ChatTemplate",
    "CheckpointError",
    "ContextLengthError",
    "DeadlineError",
    "DeviceError",
    "Engine",
    "EngineClosedError",
    "EngineCounters",
    "EngineStream",
    "ExportError",
    "Generation",
    "GenerationError",
    "Histogram",
    "HubError",
    "ImageError",
    "ImageFeatures",
    "InsufficientMemoryError",
    "Model",
    "Prepared",
    "PromptError",
    "PumiceError",
    "QueueFullError",
    "SchemaVersionError",
    "TextStream",
    "TextTokenizer",
    "Timings",
    "TokenLogprob",
    "TokenLogprobs",
    "Usage",
    "UsageError",
    "Video",
    "VideoError",
    "load",
]

# onnxruntime 1.30 and newer reads this when it is imported, by this process or its children: else it keeps a database
# in ~/.cache/Microsoft and sends what is in it. Who wants that sets the variable, to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULES = {
    "AsyncEngineStream": "engine",
    "Chat": "chat",
    "ChatTemplate": "prompt.template",
    "Engine": "engine",
    "EngineCounters": "engine",
    "EngineStream": "engine",
    "Generation": "result",
    "Histogram": "engine",
    "ImageFeatures": "images.prepared",
    "Model": "model",
    "Prepared": "prompt.prepared",
    "TextStream": "stream",
    "TextTokenizer": "prompt.texts",
    "Timings": "result",
    "TokenLogprob": "result",
    "TokenLogprobs": "result",
    "Usage": "result",
    "Video": "images.videos",
    "load": "loading",
}
"""Where a public name is defined, if not in `errors`: imported at its first use, so that `import pumice` is quick."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pumice")
    if name not in __all__:
        raise AttributeError(f"module 'pumice' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"pumice.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
