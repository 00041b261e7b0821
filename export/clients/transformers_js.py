"""What Transformers.js 4 reads: configuration in Hugging Face's layout, made complete, and `embed_tokens`.

Enters: a bundle's folder with the checkpoint's own files, its manifest, the model's config. Leaves: `config.json`,
`preprocessor_config.json`, `processor_config.json`, `generation_config.json` and `tokenizer_config.json` with what the
client needs, which Python's transformers understands alike, and the graph `embed_tokens`.
docs/clients/transformers-js.md says what for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pumice.export.bundle.layout import EMBED_TOKENS, GraphFiles, graph_files
from pumice.export.clients.embed_tokens import write_embed_tokens
from pumice.export.clients.json_files import read_object, update_object, write_object
from pumice.manifest import Fixed, Manifest, Rows, Tiles
from pumice.models.config import LlavaConfig

DTYPES = {"": "fp32", "_fp16": "fp16", "_quantized": "q8", "_q4": "q4", "_q4f16": "q4f16"}
"""Transformers.js' names of what pumice's file suffixes stand for; it has none for bfloat16."""
_ALIKE = {"vipllava": "llava"}
"""Models of Transformers.js for those that it does not know, with graphs that have the same inputs and outputs."""
_MODELS = ("llava", "mistral3")
_TEXT_MODELS = (
    *(
        "llama",
        "mistral",
        "ministral",
        "ministral3",
        "granite",
        "qwen2",
        "qwen3",
        "phi",
        "phi3",
        "gemma",
        "gemma2",
    ),
    *(
        "smollm3",
        "helium",
        "ernie4_5",
        "glm",
        "arcee",
        "olmo",
        "olmo2",
        "stablelm",
        "starcoder2",
        "cohere",
        "cohere2",
    ),
)
"""Those whose cache it names; it has no way to be told of others."""
_TOKENIZER = "PreTrainedTokenizerFast"
"""The class of a tokenizer of which nothing is known but its tokenizer.json."""


def refusal(manifest: Manifest) -> str | None:
    """Why the client cannot take the model; None where it can."""
    source, precision = manifest.source, manifest.precision
    if isinstance(manifest.layout, Tiles):
        return "Transformers.js has no processor that cuts images into tiles"
    if _model_type(manifest) not in _MODELS:
        return f"Transformers.js has no {source.model_type}"
    if source.text_model_type not in _TEXT_MODELS:
        return f"Transformers.js does not know the cache of {source.text_model_type}"
    if precision.float_type == "bf16":
        return "Transformers.js has no bfloat16"
    if manifest.decoder.kv_dtype == "int8":
        return "Transformers.js makes a cache in float32 or float16"
    return None


def write(folder: Path, manifest: Manifest, config: LlavaConfig) -> None:
    """Write the client's files."""
    files = graph_files(manifest.precision.name, str(manifest.precision.float_type))
    embed_tokens = files.graph(EMBED_TOKENS)
    write_embed_tokens(folder / manifest.graphs.embedding.file, folder / embed_tokens)
    _write_config(folder / "config.json", manifest, config, files)
    update_object(folder / "preprocessor_config.json", _image_processor(folder, manifest, config))
    update_object(folder / "processor_config.json", _processor(manifest, config))
    update_object(folder / "generation_config.json", _generation(manifest))
    _write_tokenizer(folder, manifest)


def _model_type(manifest: Manifest) -> str:
    return _ALIKE.get(manifest.source.model_type, manifest.source.model_type)


def _write_config(path: Path, manifest: Manifest, config: LlavaConfig, files: GraphFiles) -> None:
    """The checkpoint's, with all that its class leaves to defaults and Transformers.js does not have."""
    content, decoder = read_object(path), manifest.decoder
    own = content.get("text_config")
    text: dict[str, Any] = dict(own) if isinstance(own, dict) else {}
    text |= {
        "model_type": manifest.source.text_model_type,
        "hidden_size": decoder.hidden_size,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": config.text.num_attention_heads,
        "num_key_value_heads": decoder.kv_heads,
        "head_dim": decoder.head_dim,
        "vocab_size": decoder.vocab_size,
        "max_position_embeddings": decoder.context_length,
    }
    content |= {
        "model_type": _model_type(manifest),
        "image_token_index": manifest.image_tokens.token_id,
        "text_config": text,
        "transformers.js_config": {
            "dtype": DTYPES[files.suffix],
            "use_external_data_format": _data_files(manifest, files),
        },
    }
    write_object(path, content)


def _data_files(manifest: Manifest, files: GraphFiles) -> dict[str, int]:
    """How many data files each graph has by its own name, which a browser must know beforehand."""
    graphs = manifest.graphs
    opened = {
        "vision_encoder": graphs.vision_encoder,
        EMBED_TOKENS: graphs.embedding,
        "decoder": graphs.decoder,
    }
    return {
        Path(files.graph(name)).stem.removesuffix(files.suffix): 1
        for name, graph in opened.items()
        if files.data(name) in graph.external_data
    }


def _image_processor(folder: Path, manifest: Manifest, config: LlavaConfig) -> dict[str, Any]:
    """The manifest's steps under transformers' names, so that no default of a class is needed."""
    image, layout = manifest.image, manifest.layout
    # newer releases have it in the other file
    given = read_object(folder / "processor_config.json").get("image_processor")
    kind = "PixtralImageProcessor" if isinstance(layout, Rows) else "CLIPImageProcessor"
    known = read_object(folder / "preprocessor_config.json")
    content: dict[str, Any] = {"image_processor_type": known.get("image_processor_type", kind)}
    content |= given if isinstance(given, dict) else {}
    size: dict[str, int] | None = None
    if image.resize_shortest_edge is not None:
        size = {"shortest_edge": image.resize_shortest_edge}
    elif image.resize_longest_edge is not None:
        size = {"longest_edge": image.resize_longest_edge}
    elif image.resize_to is not None:
        size = {"height": image.resize_to[0], "width": image.resize_to[1]}
    crop = image.crop_to
    content |= {
        "processor_class": _processor_class(manifest),
        "do_convert_rgb": True,
        "do_resize": size is not None,
        "resample": image.resample,
        "do_center_crop": crop is not None,
        "do_rescale": image.rescale_factor is not None,
        "rescale_factor": image.rescale_factor,
        "do_normalize": image.mean is not None,
        "image_mean": image.mean,
        "image_std": image.std,
    }
    content |= {} if size is None else {"size": size}
    content |= {} if crop is None else {"crop_size": {"height": crop[0], "width": crop[1]}}
    if isinstance(layout, Rows):  # Transformers.js wants numbers here
        content |= {"patch_size": config.vision.patch_size, "spatial_merge_size": layout.merge}
    return content


def _processor_class(manifest: Manifest) -> str:
    return "PixtralProcessor" if isinstance(manifest.layout, Rows) else "LlavaProcessor"


def _processor(manifest: Manifest, config: LlavaConfig) -> dict[str, Any]:
    """How many image tokens an image becomes, such that both Transformers.js and Python count alike.

    Python takes one off again where the strategy is `default`, Transformers.js never does.
    """
    layout, patch = manifest.layout, config.vision.patch_size
    content = {
        "processor_class": _processor_class(manifest),
        "image_token": manifest.image_tokens.token,
        "patch_size": patch,
    }
    if isinstance(layout, Rows):
        return content | {
            "spatial_merge_size": layout.merge,
            "image_break_token": layout.break_token,
            "image_end_token": layout.end_token,
        }
    assert isinstance(layout, Fixed)  # tiles are refused
    height, width = layout.size
    return content | {
        "num_additional_image_tokens": layout.tokens - (height // patch) * (width // patch),
        "vision_feature_select_strategy": "full",
    }


def _generation(manifest: Manifest) -> dict[str, Any]:
    """Where an answer ends, and what fills shorter rows."""
    tokens = manifest.tokens
    pad = {} if tokens.pad_id is None else {"pad_token_id": tokens.pad_id}
    return {"eos_token_id": list(tokens.eos_ids), **pad} if tokens.eos_ids else pad


def _write_tokenizer(folder: Path, manifest: Manifest) -> None:
    """With the template in it, which Transformers.js looks for nowhere else, and padded on the right.

    The decoder counts positions from a row's first token: padded on the left, shorter rows answer otherwise.
    """
    path = folder / "tokenizer_config.json"
    content, tokens = read_object(path), manifest.tokens
    texts = {name: getattr(tokens, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    defaults = {name: text for name, text in texts.items() if text is not None}
    content = {"tokenizer_class": _TOKENIZER} | defaults | content | {"padding_side": "right"}
    if manifest.chat.template_file is not None:
        content["chat_template"] = (folder / manifest.chat.template_file).read_text(encoding="utf-8")
    write_object(path, content)
