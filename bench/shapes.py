"""Random checkpoints of real shapes, in Hugging Face layout.

Enters: a shape's name and a folder. Leaves: the folder, as a release would be downloaded; made once, then reused.
Weights are the test factory's, drawn a slice at a time; the tokenizer is as large as a release's (`vocabulary.py`).
Shape `pebble` is pebble's own checkpoint, where it lies.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from bench.vocabulary import make_tokenizer
from tests.factory.configs import generation_config, model_config
from tests.factory.families import QWEN_WORDS
from tests.factory.parts import Dtype, Llava, Text, Vision
from tests.factory.processors import processor_files
from tests.factory.templates import CHATML
from tests.factory.tensors import all_tensors
from tests.factory.weights import write_weights

PEBBLE = Path(__file__).parent.parent / "pebble" / "checkpoint"
_SHARD_BYTES = 4 * 10**9

_SIGLIP_SO400M = Vision(
    tower="siglip",
    width=1152,
    layers=26,
    heads=16,
    mlp=4304,
    image_size=384,
    act="gelu_pytorch_tanh",
    eps=1e-6,
)
_CLIP_L_336 = Vision(tower="clip", width=1024, layers=24, heads=16, mlp=4096, image_size=336)

_QWEN_05B = Text(
    kind="qwen2",
    width=896,
    layers=24,
    heads=14,
    kv_heads=2,
    mlp=4864,
    vocab_size=152_000,
    spare_rows=353,
    context=32_768,
    rope_theta=1e6,
    eps=1e-6,
    tied=True,
)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A checkpoint to be made: `model` says its parts, `dtype` how its weights are stored."""

    model: Llava
    dtype: Dtype
    seed: int = 0


def _interleave(text: Text, vision: Vision = _SIGLIP_SO400M) -> Shape:
    model = Llava(
        vision=vision,
        text=text,
        vocabulary=QWEN_WORDS,
        template=CHATML,
        feature_layer=-1,
        strategy="full",
    )
    return Shape(model=model, dtype="bfloat16")


SHAPES: dict[str, Shape] = {
    # llava-interleave with the text model of Qwen2-0.5B, and with that of the release, Qwen1.5-0.5B
    "interleave-0.5b": _interleave(_QWEN_05B),
    "interleave-0.5b-released": _interleave(replace(_QWEN_05B, width=1024, heads=16, kv_heads=16, mlp=2816)),
    # the same tower with the text model of Qwen2.5-3B
    "llava-3b": _interleave(replace(_QWEN_05B, width=2048, layers=36, heads=16, kv_heads=2, mlp=11_008)),
    "llava-1.5-7b": Shape(
        model=Llava(
            vision=_CLIP_L_336,
            text=Text(
                width=4096,
                layers=32,
                heads=32,
                kv_heads=32,
                mlp=11_008,
                vocab_size=32_064,
                spare_rows=62,
                context=4096,
            ),
        ),
        dtype="float16",
    ),
    # a tenth of a billion parameters, for `make bench-quick`
    "quick-0.1b": _interleave(
        replace(
            _QWEN_05B, width=640, layers=12, heads=10, mlp=2048, vocab_size=32_000, spare_rows=0, context=4096
        ),
        Vision(
            tower="siglip", width=384, layers=12, heads=6, mlp=1536, image_size=224, act="gelu_pytorch_tanh"
        ),
    ),
}
NAMES = ("pebble", *SHAPES)


def checkpoint(name: str, root: Path) -> Path:
    """The folder of a shape's checkpoint: under `root`, made if it is not there whole."""
    if name == "pebble":
        return PEBBLE
    shape, folder = SHAPES[name], root / name
    if (folder / "config.json").is_file():  # written last
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write(shape, folder)
    return folder


def _write(shape: Shape, folder: Path) -> None:
    """All files, `config.json` last."""
    model, text = shape.model, shape.model.text
    tokenizer = make_tokenizer(model.vocabulary, text.vocab_size - text.spare_rows)
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {"generation_config.json": generation_config(model, tokenizer), **processor_files(model, True)}
    for name, content in files.items():
        _write_json(folder / name, content)
    size = sum(tensor.count for tensor in all_tensors(model, "released")) * 2
    shards = _SHARD_BYTES if size > _SHARD_BYTES else None
    write_weights(folder, all_tensors(model, "released"), shape.seed, shape.dtype, shards)
    _write_json(folder / "config.json", model_config(model, tokenizer, True, shape.dtype))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def parameters(name: str) -> int:
    """Number of a shape's weights; of pebble's, by its file."""
    if name == "pebble":
        return (PEBBLE / "model.safetensors").stat().st_size // 2
    return sum(tensor.count for tensor in all_tensors(SHAPES[name].model, "released"))
