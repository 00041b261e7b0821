"""A real language model as Hugging Face checkpoints, in three variants of the same model.

Enters: the GGUF file of `downloads.py`. Leaves, under the root folder, for each variant:

    VARIANT/llama    LlamaForCausalLM, tokenizer and chat template: what the file says, nothing added
    VARIANT/llava    LlavaForConditionalGeneration: the same behind pebble's CLIP tower (`llava.py`)

    plain       the file's weights in float16
    dithered    each weight moved at random inside its quantiser's step (`weights.py`)
    outliers    plain in float32, with six channels of every norm's output times 30 (`pebble.outliers`): the same
                function; the last norm's stay, as its only reader is the tied head

What is there is taken as it is, until the code that made it changes.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.real import downloads, llava, tokenizer, weights
from pebble import outliers
from pebble.outliers import scale_norms

ROOT = Path("build/real")
VARIANTS = ("plain", "dithered", "outliers")
OUTLIER_SCALE = 30.0
_DITHER_SEED = 0
_MARK = ".made"


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """A variant's two folders."""

    llama: Path
    llava: Path


def checkpoints(variant: str, root: Path = ROOT) -> Checkpoints:
    """A variant's checkpoints under `root`; made, and the weights downloaded, where they are not there.

    Raises:
        ValueError: there is no such variant.
        SystemExit: the weights cannot be downloaded.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}, expected one of {', '.join(VARIANTS)}")
    folder = root / variant
    found = Checkpoints(llama=folder / "llama", llava=folder / "llava")
    mark, made_by = folder / _MARK, _fingerprint()
    if not mark.is_file() or mark.read_text() != made_by:
        print(f"making {folder}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _make(variant, weights.read(downloads.download(root / "site")), found)
        mark.write_text(made_by)
    return found


def _fingerprint() -> str:
    """Of the code that makes a variant, and of the weights."""
    digest = hashlib.sha256(downloads.SHA256.encode())
    for module in (__file__, llava.__file__, tokenizer.__file__, weights.__file__, outliers.__file__):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()


def _make(variant: str, source: weights.Source, folders: Checkpoints) -> None:
    """Both folders of a variant."""
    state = weights.state(source, _DITHER_SEED if variant == "dithered" else None)
    state = {name: _half(name, tensor) for name, tensor in state.items()}
    if variant == "outliers":
        state = {name: tensor.float() for name, tensor in state.items()}
        scale_norms(state, OUTLIER_SCALE)
    model = make_llama(source.facts, state)
    words = tokenizer.make_tokenizer(source.facts)
    model.save_pretrained(folders.llama)
    words.save_pretrained(folders.llama)
    wrapped, processor = llava.make_llava(model, words)
    wrapped.save_pretrained(folders.llava)
    processor.save_pretrained(folders.llava)


def _half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    half = tensor.half()
    if not half.isfinite().all():
        raise ValueError(f"{name} is beyond float16's range")
    return half


def make_llama(facts: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> LlamaForCausalLM:
    """The language model, in the tensors' own dtype.

    Raises:
        ValueError: tensors are missing, or left over.
    """
    heads, width = facts["llama.attention.head_count"], facts["llama.embedding_length"]
    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=facts["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=facts["llama.attention.head_count_kv"],
        head_dim=width // heads,
        intermediate_size=facts["llama.feed_forward_length"],
        vocab_size=facts["llama.vocab_size"],
        max_position_embeddings=facts["llama.context_length"],
        rms_norm_eps=round(facts["llama.attention.layer_norm_rms_epsilon"], 9),
        rope_parameters={"rope_type": "default", "rope_theta": facts["llama.rope.freq_base"]},
        tie_word_embeddings="lm_head.weight" not in state,
        bos_token_id=facts["tokenizer.ggml.bos_token_id"],
        eos_token_id=facts["tokenizer.ggml.eos_token_id"],
        pad_token_id=facts["tokenizer.ggml.padding_token_id"],
    )
    model = LlamaForCausalLM(config).to(state["model.norm.weight"].dtype)
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        raise ValueError(f"the file's tensors are not a Llama's: missing {missing}, left over {unexpected}")
    model.tie_weights()
    return model
