"""Which checkpoints are exported, and what the others are: told before anything else is read.

Enters: a folder's file names, its parsed `config.json`, and its tensors' names. Leaves: nothing, or a `CheckpointError`
of one line.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pumice.errors import CheckpointError
from pumice.export.checkpoint.original import MODEL_TYPES, PAGE
from pumice.export.checkpoint.quantised import refuse_other_methods

SUPPORTED_MODEL_TYPES = {
    "llava": "LLaVA",
    "vipllava": "ViP-LLaVA",
    "llava_next": "LLaVA-NeXT",
    "llava_onevision": "LLaVA-OneVision",
    "llava_next_video": "LLaVA-NeXT-Video",
    "mistral3": "Mistral 3",
}
"""By `model_type`, what people call it. `architectures` is not asked: the first OneVisions have LLaVA-NeXT's there."""
FLOAT_INSTEAD = "use the checkpoint with float weights; pumice quantises it (--precision int4)"
SUPPORTED = "supported are " + ", ".join(f"{said} ({name})" for name, said in SUPPORTED_MODEL_TYPES.items())

_ADAPTER_CONFIG = "adapter_config.json"
_ORIGINAL_ADAPTER = "non_lora_trainables.bin"
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", _ORIGINAL_ADAPTER)
_MERGE = (
    "merge it into its base model first (peft: merge_and_unload(), then save_pretrained of model and processor), "
    "or export the base model with --adapter"
)
_QUANTISED_FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
}
_ADAPTER_TENSOR = re.compile(r"\.(lora_(A|B|embedding_A|embedding_B|magnitude_vector)|modules_to_save)\b")
_QUANTISED_TENSORS = {
    "absmax": "bitsandbytes",
    "quant_state": "bitsandbytes",
    "SCB": "bitsandbytes",
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "weight_packed": "compressed-tensors",
    "weight_scale": "compressed-tensors or ModelOpt",
    "weight_scale_inv": "block-wise float8",
}
"""Parts of the names of tensors that lie beside quantised weights, and whose they are."""
_RELATIVES = {
    "video_llava": "Video-LLaVA",
}


def refuse_other_kinds(path: Path, names: Collection[str], whole: bool) -> None:
    """Folders that their file names tell to be adapters or quantised; raises CheckpointError.

    `whole`: there are weights of a whole model too. An adapter's weights beside them, without its config, are left over
    from a merge: transformers does not look at them either.
    """
    adapters = _adapter_files(names)
    if adapters and not whole:
        original = (
            f"; the original LLaVA's ({_ORIGINAL_ADAPTER}) otherwise: {PAGE}"
            if _ORIGINAL_ADAPTER in names
            else ""
        )
        raise CheckpointError(
            f"{path} is an adapter ({adapters[0]}) without its base model's weights: {_MERGE}{original}"
        )
    if _ADAPTER_CONFIG in names:
        raise CheckpointError(
            f"{path} has an adapter ({', '.join(adapters)}) beside whole weights, which transformers would put on top: "
            f"{_MERGE}, or move the adapter's files away where that has been done"
        )
    if adapters:
        logging.getLogger("pumice").warning(
            "%s: %s of an adapter lies beside a whole model and is passed over; if it was not merged, merge it first",
            path,
            ", ".join(adapters),
        )


def refuse_other_quantisers(path: Path, names: Collection[str]) -> None:
    """Folders whose config says nothing of it, and that a quantiser's file lies in; raises CheckpointError."""
    for name, method in _QUANTISED_FILES.items():
        if name in names:
            raise CheckpointError(f"{path} has {method}-quantised weights ({name}): {FLOAT_INSTEAD}")


def adapter_hint(path: Path) -> str:
    """What to add where the tensors of the checkpoint in `path` are not all there: an adapter's weights lie beside."""
    adapters = _adapter_files([entry.name for entry in path.iterdir()])
    return f"; {adapters[0]} beside them is an adapter: {_MERGE}" if adapters else ""


def _adapter_files(names: Collection[str]) -> list[str]:
    return [name for name in (_ADAPTER_CONFIG, *_ADAPTER_WEIGHTS) if name in names]


def refuse_other_tensors(path: Path, names: Collection[str]) -> None:
    """Weights that their names tell to be an adapter's or quantised; raises CheckpointError."""
    for name in names:
        if _ADAPTER_TENSOR.search(name):
            raise CheckpointError(f"{path} holds an adapter's tensors ({name}): {_MERGE}")
        for part in name.split("."):
            if part in _QUANTISED_TENSORS:
                raise CheckpointError(
                    f"{path} has weights quantised by {_QUANTISED_TENSORS[part]} ({name}): {FLOAT_INSTEAD}"
                )


def refuse_other_architectures(where: Path, config: Mapping[str, Any]) -> None:
    """Code of its own, weights quantised as nobody here reads them, and models that are no LLaVA.

    Raises CheckpointError.
    """
    parts = [config]
    parts += [config[key] for key in ("text_config", "vision_config") if isinstance(config.get(key), dict)]
    for part in parts:
        if part.get("auto_map"):
            raise CheckpointError(
                f"{where} asks for code of its own (auto_map, trust_remote_code): pumice never runs a checkpoint's code"
            )
        quantised = part.get("quantization_config") or part.get("compression_config")
        if quantised:
            refuse_other_methods(where, part, FLOAT_INSTEAD, whole=part is config)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in SUPPORTED_MODEL_TYPES:
        raise CheckpointError(f"{where} has model_type {model_type!r}{_described(config)}: {SUPPORTED}")


def _described(config: Mapping[str, Any]) -> str:
    """What a model of another type is, as far as its config tells."""
    model_type = config.get("model_type")
    if model_type in MODEL_TYPES:
        return f", the original LLaVA's (convert it first: {PAGE})"
    if isinstance(model_type, str) and model_type in _RELATIVES:
        return f" ({_RELATIVES[model_type]})"
    if any(key in config for key in ("vision_config", "visual", "vision_tower", "mm_vision_tower")):
        return ", another vision-language architecture"
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else None
    if isinstance(named, str) and named.endswith("ForCausalLM"):
        return f", a text-only model ({named})"
    return f" ({named})" if isinstance(named, str) else ""
