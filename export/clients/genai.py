"""What onnxruntime-genai reads: `genai_config.json`, and `genai_processor.json` for its image processor.

Enters: a bundle's folder, its manifest, the model's config. Leaves: the two files. genai has no type for LLaVA; the
graphs of its `gemma3` have the same inputs and outputs. docs/clients/onnxruntime-genai.md says how it is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pumice.export.clients.json_files import read_object, write_object
from pumice.manifest import Fixed, ImageProcessing, Manifest, Tiles
from pumice.manifest.tensors import (
    ATTENTION_MASK,
    IMAGE_FEATURES,
    INPUT_IDS,
    INPUTS_EMBEDS,
    LOGITS,
    PAST,
    PIXEL_VALUES,
    PRESENT,
)
from pumice.models.config import LlavaConfig

CONFIG_NAME, PROCESSOR_NAME = "genai_config.json", "genai_processor.json"
_FILTERS = {0: "NEAREST", 1: "LANCZOS", 2: "LINEAR", 3: "CUBIC"}
"""genai's names of PIL's filters."""
_EXACT = {"session.x64quantprecision": "1"}
"""What 8- and 4-bit products need where the processor has no VNNI, as `pumice` sets it itself."""


def refusal(manifest: Manifest) -> str | None:
    """Why the client cannot take the model; None where it can."""
    if isinstance(manifest.layout, Tiles):
        return "onnxruntime-genai joins the features of an image's tiles in no way that LLaVA has"
    if manifest.decoder.kv_dtype == "int8":
        return "onnxruntime-genai expects the past in every present, which int8 caches give for single tokens alone"
    return None


def write(folder: Path, manifest: Manifest, config: LlavaConfig) -> None:
    """Write the client's files."""
    operations = _operations(manifest.image) if isinstance(manifest.layout, Fixed) else None
    if operations is not None:
        steps = [
            {"operation": {"name": name, "type": kind, "attrs": attrs}} for name, kind, attrs in operations
        ]
        processor = {"processor": {"name": "image_processing", "transforms": steps}}
        write_object(folder / PROCESSOR_NAME, processor)
    bos = read_object(folder / "generation_config.json").get("bos_token_id")
    write_object(folder / CONFIG_NAME, _config(manifest, config, bos, with_processor=operations is not None))


def _config(
    manifest: Manifest, config: LlavaConfig, bos: int | None, *, with_processor: bool
) -> dict[str, Any]:
    decoder, graphs, tokens = manifest.decoder, manifest.graphs, manifest.tokens
    exact = _EXACT if manifest.precision.bits is not None else {}
    vision: dict[str, Any] = {
        "filename": graphs.vision_encoder.file,
        "inputs": {"pixel_values": PIXEL_VALUES},
        "outputs": {"image_features": IMAGE_FEATURES},
    }
    eos = list(tokens.eos_ids)
    pad = tokens.pad_id if tokens.pad_id is not None and tokens.pad_id < decoder.vocab_size else None
    model = {
        "type": "gemma3",
        "vocab_size": decoder.vocab_size,
        "context_length": decoder.context_length,
        "bos_token_id": bos if isinstance(bos, int) else 1,
        "eos_token_id": eos,
        "pad_token_id": pad if pad is not None else (eos or [0])[0],
        "image_token_id": manifest.image_tokens.token_id,
        "vision": vision | ({"config_filename": PROCESSOR_NAME} if with_processor else {}),
        "embedding": {
            "filename": graphs.embedding.file,
            "inputs": {"input_ids": INPUT_IDS, "image_features": IMAGE_FEATURES},
            "outputs": {"inputs_embeds": INPUTS_EMBEDS},
        },
        "decoder": {
            "filename": graphs.decoder.file,
            "hidden_size": decoder.hidden_size,
            "head_size": decoder.head_dim,
            "num_attention_heads": config.text.num_attention_heads,
            "num_key_value_heads": decoder.kv_heads,
            "num_hidden_layers": decoder.layers,
            "session_options": {"log_id": "pumice", "provider_options": []} | exact,
            "inputs": {
                "inputs_embeds": INPUTS_EMBEDS,
                "attention_mask": ATTENTION_MASK,
                "past_key_names": f"{PAST}.%d.key",
                "past_value_names": f"{PAST}.%d.value",
            },
            "outputs": {
                "logits": LOGITS,
                "present_key_names": f"{PRESENT}.%d.key",
                "present_value_names": f"{PRESENT}.%d.value",
            },
        },
    }
    search = {
        "do_sample": False,
        "max_length": decoder.context_length,
        "num_beams": 1,
        "past_present_share_buffer": False,
        "top_k": 1,
    }
    return {"model": model, "search": search}


def _operations(image: ImageProcessing) -> list[tuple[str, str, dict[str, Any]]] | None:
    """Its image processor's steps; None where it has none for a model's images.

    `keep_aspect_ratio` is asked for where the shortest edge counts; genai 0.18 passes it over, so that only square
    images are right then.
    """
    if image.resample not in _FILTERS:
        return None
    operations: list[tuple[str, str, dict[str, Any]]] = [
        ("decode_image", "DecodeImage", {"color_space": "RGB"})
    ]
    edge = image.resize_shortest_edge
    if edge is not None or image.resize_to is not None:
        height, width = image.resize_to or (edge, edge)
        keep = int(edge is not None)
        sides = {"height": height, "width": width, "keep_aspect_ratio": keep}
        operations.append(("resize", "Resize", {"interpolation": _FILTERS[image.resample], **sides}))
    if image.crop_to is not None:
        crop = {"height": image.crop_to[0], "width": image.crop_to[1]}
        operations.append(("crop", "CenterCrop", crop))
    if image.rescale_factor is not None:
        operations.append(("rescale", "Rescale", {"rescale_factor": image.rescale_factor}))
    if image.mean is not None:
        values = {"mean": image.mean, "std": image.std}
        operations.append(("normalize", "Normalize", values))
    operations.append(("to_channel_first", "Permute3D", {"dims": [2, 0, 1]}))
    return operations
