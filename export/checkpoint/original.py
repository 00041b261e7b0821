"""Checkpoints in the original LLaVA's layout: recognised, and told what they lack before they can be converted.

Enters: a folder, its file names and its parsed `config.json`. Leaves: nothing, or a `CheckpointError` of one line. What
to do is in docs/original-checkpoints.md.

    llava_llama  LlavaLlamaForCausalLM     1.5 (its tower lies elsewhere) and 1.6; `llava` and `llava_next`, too
    llava_qwen   LlavaQwenForCausalLM      interleave, LLaVA-OneVision
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pumice.errors import CheckpointError
from pumice.export.checkpoint.tensor_file import read_header
from pumice.manifest.regular_file import read_regular

PAGE = "docs/original-checkpoints.md"
MODEL_TYPES = (
    "llava_llama", "llava_mistral", "llava_mixtral", "llava_qwen", "llava_qwen2", "llava_qwen_moe", "llava_mpt",
    "llava_phi", "llava_gemma",
)  # fmt: skip
_ARCHITECTURE = re.compile(r"Llava[A-Za-z0-9]*ForCausalLM")
"""transformers' own are called Llava…ForConditionalGeneration."""
_SECTIONS = ("text_config", "vision_config")
_PROJECTOR = "mlp2x_gelu"
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PICKLES = (".bin", ".pt", ".pth")
_MOST_INDEX_BYTES = 64 << 20


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether `config.json` is of the original's layout, in which the parts have no sections of their own."""
    if any(isinstance(config.get(section), dict) for section in _SECTIONS):
        return False
    named = config.get("architectures")
    architectures = named if isinstance(named, list) else []
    return config.get("model_type") in MODEL_TYPES or any(
        isinstance(name, str) and _ARCHITECTURE.fullmatch(name) for name in architectures
    )


def refuse_original(path: Path, config: Mapping[str, Any], names: Collection[str]) -> None:
    """Raises CheckpointError for a checkpoint of the original's; `names` are the folder's files."""
    if not is_original(config):
        return
    raise CheckpointError(
        f"{path / 'config.json'} has model_type {config.get('model_type')!r} in the original LLaVA's layout, which "
        f"neither transformers nor pumice reads: take the converted release (llava-hf/…), or convert it ({PAGE})"
        f"{_lacks(path, config, names)}"
    )


def _lacks(path: Path, config: Mapping[str, Any], names: Collection[str]) -> str:
    """What is not in the folder, as the end of a sentence."""
    tower, held = config.get("mm_vision_tower"), _has_tower(path, names)
    said = f" {tower}" if isinstance(tower, str) else ""
    lacking = []
    if not held:
        unless = " (unless its weights hold it)" if held is None else ""
        lacking.append(f"its vision tower{said}{unless}")
    if not _has_template(path, names):
        lacking.append("a chat template")
    if pickles := _pickles(names):
        lacking.append(f"safetensors (its weights are pickled: {pickles[0]})")
    projector = config.get("mm_projector_type", "linear")
    other = (
        "" if projector == _PROJECTOR else f"; no class of transformers has its projector, {projector!r:.80}"
    )
    *first, last = lacking or [""]
    return (f"; it lacks {', '.join(first)}{' and ' if first else ''}{last}" if lacking else "") + other


def _has_tower(path: Path, names: Collection[str]) -> bool | None:
    """Whether the weights hold the vision tower; None where nothing tells."""
    tensors: set[str] = set()
    try:
        for index in _INDEXES:
            if index in names:
                tensors |= set(json.loads(read_regular(path / index, _MOST_INDEX_BYTES))["weight_map"])
        for name in names:
            if name.endswith(".safetensors"):
                tensors |= set(read_header(path / name))
    except (CheckpointError, OSError, ValueError, RecursionError, TypeError, KeyError):
        return None
    return any("vision_tower." in name for name in tensors) if tensors else None


def _has_template(path: Path, names: Collection[str]) -> bool:
    if "chat_template.jinja" in names or "chat_template.json" in names:
        return True
    try:
        settings = json.loads(read_regular(path / "tokenizer_config.json", _MOST_INDEX_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def _pickles(names: Collection[str]) -> list[str]:
    """Pickled weights that there is nothing instead of."""
    if any(name.endswith(".safetensors") or name == _INDEXES[0] for name in names):
        return []
    return sorted(name for name in names if name.endswith(_PICKLES) or name == _INDEXES[1])
