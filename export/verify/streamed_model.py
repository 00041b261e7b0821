"""transformers' own model, with weights that are read when a module runs and forgotten when it has run.

Enters: a checkpoint's folder. Leaves: a model in float32 whose `forward` computes what `from_pretrained` would, in the
memory of its largest matrix. Modules run first stay in memory up to a limit, so that small models are read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pumice.errors import CheckpointError
from pumice.export.verify.tensors import FloatTensors

KEPT_BYTES = 1 << 28
"""Weights that may stay in memory between runs."""


def build_without_weights(path: Path) -> Any:
    """transformers' model as the folder's `config.json` makes it: parameters on the meta device, buffers real.

    Raises:
        CheckpointError: transformers does not take the config.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    except Exception as error:  # transformers raises whatever it raises
        raise CheckpointError(f"transformers cannot load {path}: {' '.join(str(error).split())}") from None
    _fill_buffers(model)
    return model.eval()


def _fill_buffers(model: nn.Module) -> None:
    """Buffers that no checkpoint has (rotary frequencies, position ids), by the code that `from_pretrained` runs."""
    from transformers import PreTrainedModel

    for name, module in model.named_modules():
        own = dict(module.named_buffers(recurse=False))
        if not own:
            continue
        for key, buffer in own.items():
            setattr(module, key, torch.empty_like(buffer, device="cpu"))
        owner = max(
            (n for n, m in model.named_modules() if isinstance(m, PreTrainedModel) and _within(name, n)),
            key=len,
        )
        model.get_submodule(owner)._init_weights(module)  # type: ignore[operator]


def _within(name: str, parent: str) -> bool:
    return not parent or name == parent or name.startswith(f"{parent}.")


def stream_weights(model: nn.Module, tensors: FloatTensors, *, kept_bytes: int = KEPT_BYTES) -> None:
    """Let every module of `model` but the head read its parameters from `tensors` when it runs."""
    budget = _Budget(kept_bytes)
    for name, module in model.named_modules():
        if _holds_models(module):  # a LLaVA-NeXT's newline stands beside its two models
            for key, value in module.named_parameters(recurse=False):
                whole = tensors.read(f"{name}.{key}", value.shape)
                setattr(module, key, nn.Parameter(whole, requires_grad=False))
    for name, module in _units(model):
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # says which row learns nothing; a table of a few rows may lack it
            module.register_forward_pre_hook(_RowsLoader(name, tensors))
        elif name != "lm_head":
            unit = _Unit(name, module, tensors, budget)
            module.register_forward_pre_hook(unit.load)
            module.register_forward_hook(unit.forget)


def _units(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The topmost modules with parameters of their own; what they hold beneath them may be read past its `forward`."""
    if next(module.parameters(recurse=False), None) is not None and not _holds_models(module):
        yield name, module
        return
    for key, child in module.named_children():
        yield from _units(child, f"{name}.{key}" if name else key)


def _holds_models(module: nn.Module) -> bool:
    """Whether a whole model lies beneath it, which is not read at once."""
    from transformers import PreTrainedModel

    return any(isinstance(child, PreTrainedModel) for child in module.children())


class _Budget:
    """Bytes that may still stay in memory."""

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes

    def take(self, nbytes: int) -> bool:
        """Whether so many may stay too."""
        if nbytes > self._left:
            return False
        self._left -= nbytes
        return True


class _Unit:
    """A module's parameters, and those beneath it."""

    def __init__(self, name: str, module: nn.Module, tensors: FloatTensors, budget: _Budget) -> None:
        self._module, self._tensors, self._budget = module, tensors, budget
        self._shapes = {key: value.shape for key, value in module.named_parameters()}
        self._names = {key: f"{name}.{key}" for key in self._shapes}
        self._nbytes = 4 * sum(shape.numel() for shape in self._shapes.values())
        self._loaded = False

    def load(self, _module: nn.Module, _arguments: object) -> None:
        """Before the module runs."""
        if not self._loaded:
            for key, shape in self._shapes.items():
                self._set(key, self._tensors.read(self._names[key], shape))
            self._loaded = True

    def forget(self, _module: nn.Module, _arguments: object, _result: object) -> None:
        """After the module has run."""
        if self._budget.take(self._nbytes):
            self._nbytes = 0
        elif self._nbytes:
            for key, shape in self._shapes.items():
                self._set(key, torch.empty(shape, device="meta"))
            self._loaded = False

    def _set(self, key: str, value: torch.Tensor) -> None:
        owner, _, leaf = key.rpartition(".")
        setattr(self._module.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))


class _RowsLoader:
    """Lets an embedding look up in a table of the rows that it is asked for."""

    def __init__(self, name: str, tensors: FloatTensors) -> None:
        self._name, self._tensors = f"{name}.weight", tensors
        self._shape: torch.Size | None = None

    def __call__(self, module: nn.Embedding, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        """Before the module runs."""
        self._shape = self._shape or module.weight.shape
        rows, places = arguments[0].unique(return_inverse=True)
        table = self._tensors.read_rows(self._name, self._shape, rows)
        module.weight = nn.Parameter(table, requires_grad=False)
        return (places,)
