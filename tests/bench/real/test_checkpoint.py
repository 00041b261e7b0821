"""Checkpoints of a small model, by facts and tensors such as a GGUF file has."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel

from bench.real.checkpoint import checkpoints, make_llama
from bench.real.downloads import checked
from bench.real.llava import make_llava
from bench.real.tokenizer import IMAGE, make_tokenizer, with_images

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = [*SPECIALS, *sorted(ByteLevel.alphabet()), "he", "ll", "hell", "12"]
TEMPLATE = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
FACTS: dict[str, Any] = {
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.embedding_length": 32,
    "llama.block_count": 2,
    "llama.feed_forward_length": 48,
    "llama.vocab_size": len(WORDS),
    "llama.context_length": 512,
    "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
    "llama.rope.freq_base": 10_000.0,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": WORDS,
    "tokenizer.ggml.token_type": [3] * len(SPECIALS) + [1] * (len(WORDS) - len(SPECIALS)),
    "tokenizer.ggml.merges": ["h e", "l l", "he ll", "1 2"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.chat_template": TEMPLATE,
}


def state(*, tied: bool = True) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32)}
    found = {f"self_attn.{name}": shape for name, shape in shapes.items()}
    found |= {"mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48)}
    tensors = {
        f"model.layers.{layer}.{name}.weight": torch.randn(shape, generator=generator) / 6
        for layer in range(2)
        for name, shape in found.items()
    }
    for layer in range(2):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = torch.rand(32, generator=generator) + 0.5
    tensors["model.norm.weight"] = torch.rand(32, generator=generator) + 0.5
    tensors["model.embed_tokens.weight"] = torch.randn(len(WORDS), 32, generator=generator)
    if not tied:
        tensors["lm_head.weight"] = torch.randn(len(WORDS), 32, generator=generator)
    return tensors


@pytest.mark.parametrize("tied", [True, False])
def test_a_llava_speaks_as_its_language_model_does(tied: bool) -> None:
    llama = make_llama(FACTS, state(tied=tied)).eval()
    assert llama.config.tie_word_embeddings is tied
    llava, processor = make_llava(llama, make_tokenizer(FACTS))
    ids_BT = torch.arange(5, 100)[None]
    with torch.no_grad():
        theirs_BTV, ours_BTV = llama(input_ids=ids_BT).logits, llava.eval()(input_ids=ids_BT).logits
    torch.testing.assert_close(ours_BTV[..., : len(WORDS)], theirs_BTV, atol=1e-5, rtol=1e-5)
    assert ours_BTV.shape[-1] % 64 == 0
    assert (ours_BTV.argmax(-1) < len(WORDS)).all()
    assert processor.tokenizer.convert_tokens_to_ids(IMAGE) == llava.config.image_token_index == len(WORDS)


def test_missing_tensors_are_refused() -> None:
    tensors = state()
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(ValueError, match=r"missing.*layers\.1\.mlp\.up_proj"):
        make_llama(FACTS, tensors)


def test_the_tokenizer_merges_takes_digits_apart_and_keeps_special_words() -> None:
    tokenizer = make_tokenizer(FACTS)
    ids = tokenizer("hello<|im_end|>12", add_special_tokens=False)["input_ids"]
    assert [tokenizer.convert_ids_to_tokens(token) for token in ids] == ["hell", "o", "<|im_end|>", "1", "2"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == tuple(
        SPECIALS[i] for i in (1, 2, 2)
    )


def test_another_kind_of_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \('gpt2', 'smollm'\)"):
        make_tokenizer(FACTS | {"tokenizer.ggml.pre": "llama-bpe"})


def test_templates_take_texts_and_images() -> None:
    template = jinja2.Template(with_images(TEMPLATE))
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    assert template.render(messages=[{"role": "user", "content": "What?"}]) == "user: What?\n"
    assert template.render(messages=[{"role": "user", "content": parts}]) == "user: <image>\nWhat?\n"
    with pytest.raises(ValueError, match="never says"):
        with_images("{{ messages[0].content }}")


def test_unknown_variants_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of plain, dithered, outliers"):
        checkpoints("dotted", tmp_path)


def test_another_file_of_weights_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    with pytest.raises(SystemExit, match="is missing"):
        checked(file)
    file.write_bytes(b"GGUF")
    with pytest.raises(SystemExit, match="has the SHA-256"):
        checked(file)
    assert checked(file, hashlib.sha256(b"GGUF").hexdigest()) == file
