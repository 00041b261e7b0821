"""pumice: LLaVA-style vision-language models on ONNX Runtime, without PyTorch.

model = pumice.load("bundles/pebble")
print(model.generate("What is this?", images=["picture.png"]).text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pumice.chat import Chat
    from pumice.errors import (
        BundleError,
        CheckpointError,
        ContextLengthError,
        DeviceError,
        ExportError,
        GenerationError,
        ImageError,
        PromptError,
        PumiceError,
        SchemaVersionError,
        UsageError,
    )
    from pumice.model import Model, load
    from pumice.prompt import Prepared
    from pumice.result import Generation, Timings, Usage
    from pumice.stream import TextStream

__all__ = [
    "BundleError",
    "Chat",
    "CheckpointError",
    "ContextLengthError",
    "DeviceError",
    "ExportError",
    "Generation",
    "GenerationError",
    "ImageError",
    "Model",
    "Prepared",
    "PromptError",
    "PumiceError",
    "SchemaVersionError",
    "TextStream",
    "Timings",
    "Usage",
    "UsageError",
    "load",
]

_MODULES = {
    "Chat": "chat",
    "Generation": "result",
    "Model": "model",
    "Prepared": "prompt",
    "TextStream": "stream",
    "Timings": "result",
    "Usage": "result",
    "load": "model",
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
