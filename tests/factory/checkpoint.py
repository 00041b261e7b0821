"""A checkpoint folder: all its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.factory.configs import generation_config, model_config
from tests.factory.parts import Dtype, Layout, Llava, Text, Vision
from tests.factory.processors import processor_files
from tests.factory.tensors import all_tensors
from tests.factory.vocabulary import make_tokenizer
from tests.factory.weights import write_weights


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

    `whole` are fields of `Llava`: `feature_layer`, `strategy`, `projector_act`, `projector_bias`, …
    `shard_bytes` splits the weights. Layouts of tensor names:

        released   language_model.model.…     vision_tower.vision_model.…     as on the hub since 2023
        saved      language_model.model.…     vision_tower.…                  as transformers 5 saves
        new        model.language_model.…     model.vision_tower.…            as modules are named today

    `released` has the older processor files and config keys, the other two the newer. A Pixtral tower never has a
    `vision_model`.
    """
    model = Llava(vision=vision or Vision(), text=text or Text(), **whole)
    old = layout == "released"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(model.vocabulary, model.text.vocab_size - model.text.spare_rows)
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {
        "config.json": model_config(model, tokenizer, old, dtype),
        "generation_config.json": generation_config(model, tokenizer),
        **processor_files(model, old),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    if not old:
        (folder / "chat_template.jinja").write_text(model.template)
    write_weights(folder, all_tensors(model, layout), seed, dtype, shard_bytes)
    return folder
