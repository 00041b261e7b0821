"""Random LLaVA checkpoints (CLIP tower, two-layer projector, Llama text model) in Hugging Face layout.

Leaves: a folder that transformers' `AutoProcessor` and `LlavaForConditionalGeneration` load as it stands.
Values come from a generator per tensor, seeded by `seed` and the tensor's place in the model: neither layout
nor sharding changes them. Tensors are drawn and written a slice at a time, so memory does not grow with them.
Weights are scaled by their input width, so activations stay near 1 at every depth and the best logits stand
clear of the next ones: equality of greedy tokens means something.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

Layout = Literal["released", "new", "saved"]
Dtype = Literal["float32", "float16", "bfloat16", "float64"]

ALPHABET = 256
SPECIALS = ("<unk>", "<s>", "</s>")
SLICE_ELEMENTS = 1 << 22
SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}"
    "{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}"
    "{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CORPUS = (
    "USER: what is shown in the picture? ASSISTANT: a red circle is left of the blue square. "
    "how many shapes are there? there are three shapes, and one of them is a yellow octagon. "
    "The quick brown fox jumps over the lazy dog while 0123456789 numbers are counted."
)


@dataclass(frozen=True, kw_only=True)
class Vision:
    """A CLIP tower; sizes in pixels and channels."""

    width: int = 48
    layers: int = 3
    heads: int = 3
    mlp: int = 96
    image_size: int = 56
    patch_size: int = 14
    act: str = "quick_gelu"
    eps: float = 1e-5

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class Text:
    """A Llama text model; `head_dim` None is width / heads."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None
    mlp: int = 112
    vocab_size: int = 384
    context: int = 512
    rope_theta: float = 10000.0
    eps: float = 1e-5
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def head_size(self) -> int:
        return self.head_dim or self.width // self.heads


BILLION = Text(width=2048, layers=19, heads=16, kv_heads=8, mlp=5632, vocab_size=32064, context=4096)
"""1.03 billion parameters."""


@dataclass(frozen=True, kw_only=True)
class Llava:
    """The whole: what `config.json` says beside its two parts."""

    vision: Vision = Vision()
    text: Text = Text()
    feature_layer: int | tuple[int, ...] = -2
    strategy: Literal["default", "full"] = "default"
    projector_act: str = "gelu"
    projector_bias: bool = True

    @property
    def features(self) -> int:
        layers = self.feature_layer if isinstance(self.feature_layer, tuple) else (self.feature_layer,)
        return self.vision.width * len(layers)

    @property
    def tokens_per_image(self) -> int:
        return self.vision.patches + (1 if self.strategy == "full" else 0)


def make_checkpoint(
    folder: Path,
    *,
    vision: Vision | None = None,
    text: Text | None = None,
    seed: int = 0,
    layout: Layout = "released",
    dtype: Dtype = "float32",
    shard_bytes: int | None = None,
    **whole: Any,
) -> Path:
    """Write a random checkpoint to `folder` (made if missing) and return it.

    `whole` are fields of `Llava`: `feature_layer`, `strategy`, `projector_act`, `projector_bias`.
    `shard_bytes` splits the weights. Layouts of tensor names:

        released   language_model.model.…     vision_tower.vision_model.…     as on the hub since 2023
        saved      language_model.model.…     vision_tower.…                  as transformers 5 saves
        new        model.language_model.…     model.vision_tower.…            as modules are named today

    `released` has the older processor files and config keys, the other two the newer.
    """
    model = Llava(vision=vision or Vision(), text=text or Text(), **whole)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(model.text.vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in _json_files(model, tokenizer, layout, dtype).items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    if layout != "released":
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    _write_weights(folder, model, seed, layout, dtype, shard_bytes)
    return folder


def _tokenizer(vocab_size: int) -> Tokenizer:
    """Byte-level BPE: specials 0..2, 256 bytes, merges while there is room, `<image>`, `<pad>`."""
    if vocab_size < len(SPECIALS) + ALPHABET + 2:
        raise ValueError(
            f"vocab_size is {vocab_size}: byte-level needs at least {len(SPECIALS) + ALPHABET + 2}"
        )
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in ("<image>", "<pad>")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def _json_files(
    model: Llava, tokenizer: Tokenizer, layout: Layout, dtype: Dtype
) -> dict[str, dict[str, Any]]:
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    image_id, pad_id = added["<image>"], added["<pad>"]
    old = layout == "released"
    specials = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": model.vision.patch_size,
        "vision_feature_select_strategy": model.strategy,
        "num_additional_image_tokens": 1,
    }
    files = {
        "config.json": _config(model, image_id, pad_id, old, dtype),
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": pad_id},
        "tokenizer_config.json": {
            **specials,
            "model_max_length": model.text.context,
            "clean_up_tokenization_spaces": False,
            "padding_side": "left",
            "processor_class": "LlavaProcessor",
            "tokenizer_class": "PreTrainedTokenizerFast" if old else "TokenizersBackend",
        },
    }
    if old:
        files["special_tokens_map.json"] = dict(specials)
        files["preprocessor_config.json"] = {**_image_processor(model), "processor_class": "LlavaProcessor"}
        files["processor_config.json"] = processor
        files["chat_template.json"] = {"chat_template": CHAT_TEMPLATE}
        files["tokenizer_config.json"]["chat_template"] = CHAT_TEMPLATE
    else:
        files["processor_config.json"] = {**processor, "image_processor": _image_processor(model)}
    return files


def _image_processor(model: Llava) -> dict[str, Any]:
    size = model.vision.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


def _config(model: Llava, image_id: int, pad_id: int, old: bool, dtype: Dtype) -> dict[str, Any]:
    v, t = model.vision, model.text
    dtype_key = "torch_dtype" if old else "dtype"
    text: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": t.width,
        "num_hidden_layers": t.layers,
        "intermediate_size": t.mlp,
        "num_attention_heads": t.heads,
        "num_key_value_heads": t.kv_heads,
        "vocab_size": t.vocab_size,
        "max_position_embeddings": t.context,
        "rms_norm_eps": t.eps,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": t.tied,
        "attention_bias": t.attention_bias,
        "mlp_bias": t.mlp_bias,
        dtype_key: dtype,
    }
    text |= (
        {"rope_theta": t.rope_theta}
        if old
        else {"rope_parameters": {"rope_type": "default", "rope_theta": t.rope_theta}}
    )
    if t.head_dim is not None or not old:
        text["head_dim"] = t.head_size
    layer = model.feature_layer
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index" if old else "image_token_id": image_id,
        "image_seq_length": model.tokens_per_image,
        "pad_token_id": pad_id,
        "projector_hidden_act": model.projector_act,
        "multimodal_projector_bias": model.projector_bias,
        "vision_feature_layer": list(layer) if isinstance(layer, tuple) else layer,
        "vision_feature_select_strategy": model.strategy,
        "tie_word_embeddings": t.tied,
        dtype_key: dtype,
        "text_config": text,
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": v.width,
            "num_hidden_layers": v.layers,
            "intermediate_size": v.mlp,
            "num_attention_heads": v.heads,
            "image_size": v.image_size,
            "patch_size": v.patch_size,
            "hidden_act": v.act,
            "layer_norm_eps": v.eps,
            "projection_dim": v.width,
        },
    }


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """One tensor: values are `mean` + `std` × normal."""

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> Iterator[_Tensor]:
    yield _Tensor(name=f"{name}.weight", shape=(outputs, inputs), std=inputs**-0.5)
    if bias:
        yield _Tensor(name=f"{name}.bias", shape=(outputs,), std=0.1)


def _norm(name: str, width: int, bias: bool) -> Iterator[_Tensor]:
    yield _Tensor(name=f"{name}.weight", shape=(width,), std=0.1, mean=1.0)
    if bias:
        yield _Tensor(name=f"{name}.bias", shape=(width,), std=0.1)


def _vision_tensors(v: Vision, at: str) -> Iterator[_Tensor]:
    patch_shape = (v.width, 3, v.patch_size, v.patch_size)
    yield _Tensor(name=f"{at}.embeddings.class_embedding", shape=(v.width,), std=1.0)
    yield _Tensor(
        name=f"{at}.embeddings.patch_embedding.weight", shape=patch_shape, std=(3 * v.patch_size**2) ** -0.5
    )
    yield _Tensor(name=f"{at}.embeddings.position_embedding.weight", shape=(v.patches + 1, v.width), std=0.5)
    yield from _norm(f"{at}.pre_layrnorm", v.width, True)
    for i in range(v.layers):
        layer = f"{at}.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{part}", v.width, v.width, True)
        yield from _norm(f"{layer}.layer_norm1", v.width, True)
        yield from _norm(f"{layer}.layer_norm2", v.width, True)
        yield from _linear(f"{layer}.mlp.fc1", v.mlp, v.width, True)
        yield from _linear(f"{layer}.mlp.fc2", v.width, v.mlp, True)
    yield from _norm(f"{at}.post_layernorm", v.width, True)


def _text_tensors(t: Text, at: str, head: str) -> Iterator[_Tensor]:
    table_std = 3 * t.width**-0.5  # logits spread by about 3
    yield _Tensor(name=f"{at}.embed_tokens.weight", shape=(t.vocab_size, t.width), std=table_std)
    for i in range(t.layers):
        layer = f"{at}.layers.{i}"
        for part, heads in (("q_proj", t.heads), ("k_proj", t.kv_heads), ("v_proj", t.kv_heads)):
            yield from _linear(f"{layer}.self_attn.{part}", heads * t.head_size, t.width, t.attention_bias)
        yield from _linear(f"{layer}.self_attn.o_proj", t.width, t.heads * t.head_size, t.attention_bias)
        yield from _linear(f"{layer}.mlp.gate_proj", t.mlp, t.width, t.mlp_bias)
        yield from _linear(f"{layer}.mlp.up_proj", t.mlp, t.width, t.mlp_bias)
        yield from _linear(f"{layer}.mlp.down_proj", t.width, t.mlp, t.mlp_bias)
        yield from _norm(f"{layer}.input_layernorm", t.width, False)
        yield from _norm(f"{layer}.post_attention_layernorm", t.width, False)
    yield from _norm(f"{at}.norm", t.width, False)
    if not t.tied:
        yield _Tensor(name=f"{head}.weight", shape=(t.vocab_size, t.width), std=table_std)


def _tensors(model: Llava, layout: Layout) -> Iterator[_Tensor]:
    top = "model." if layout == "new" else ""
    projector = f"{top}multi_modal_projector"
    text, head = {
        "released": ("language_model.model", "language_model.lm_head"),
        "saved": ("language_model.model", "language_model.lm_head"),
        "new": ("model.language_model", "lm_head"),
    }[layout]
    yield from _vision_tensors(
        model.vision, f"{top}vision_tower" + (".vision_model" if layout == "released" else "")
    )
    yield from _linear(f"{projector}.linear_1", model.text.width, model.features, model.projector_bias)
    yield from _linear(f"{projector}.linear_2", model.text.width, model.text.width, model.projector_bias)
    yield from _text_tensors(model.text, text, head)


def _write_weights(
    folder: Path, model: Llava, seed: int, layout: Layout, dtype: Dtype, shard_bytes: int | None
) -> None:
    tensors = list(enumerate(_tensors(model, layout)))
    itemsize = getattr(torch, dtype).itemsize
    shards: list[list[tuple[int, _Tensor]]] = [[]]
    filled = 0
    for place, tensor in tensors:
        size = tensor.count * itemsize
        if shard_bytes is not None and shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((place, tensor))
        filled += size
    if shard_bytes is None:
        _write_safetensors(folder / "model.safetensors", shards[0], seed, dtype)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_safetensors(folder / name, shard, seed, dtype)
        weight_map |= {tensor.name: name for _, tensor in shard}
    total = sum(tensor.count for _, tensor in tensors) * itemsize
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_safetensors(path: Path, tensors: list[tuple[int, _Tensor]], seed: int, dtype: Dtype) -> None:
    """Header first (its offsets follow from the shapes), then the tensors one by one."""
    itemsize = getattr(torch, dtype).itemsize
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for _, tensor in tensors:
        start, end = end, end + tensor.count * itemsize
        entry = {
            "dtype": SAFETENSORS_DTYPES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        header[tensor.name] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for place, tensor in tensors:
            _write_values(file, tensor, zlib.crc32(f"{seed}/{place}".encode()), getattr(torch, dtype))


def _write_values(file: BinaryIO, tensor: _Tensor, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, tensor.count, SLICE_ELEMENTS):
        values = torch.empty(min(SLICE_ELEMENTS, tensor.count - start), dtype=torch.float32)
        values.normal_(tensor.mean, tensor.std, generator=generator)
        file.write(values.to(dtype).view(torch.uint8).numpy().tobytes())
