"""What the runtime's tests share: small tokenizers of the kinds that public checkpoints have, and transformers'
processor."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SPECIALS = ("<unk>", "<s>", "</s>", "<image>", "<pad>", "<|im_start|>", "<|im_end|>")
CORPUS = [
    "What is shown in this picture? USER: ASSISTANT: red square, blue circle; a stop sign.",
    "na ïve café 日本語",
]


def byte_level() -> Tokenizer:
    """GPT-2, Llama-3, Qwen: bytes as letters; special tokens outside the model's vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        CORPUS * 20, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Llama-2, Vicuna, Mistral: ▁ for spaces, bytes for unknown letters; special tokens inside the model's
    vocabulary."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.train_from_iterator([CORPUS[0]] * 20, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    texts = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"], *"<>|/"]
    vocabulary = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return tokenizer


def metaspace() -> Tokenizer:
    """Newer Llama-2 conversions: a Metaspace pre-tokenizer that marks the first word only."""
    tokenizer = Tokenizer.from_str(byte_fallback().to_str())
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    return tokenizer


def ignore_merges() -> Tokenizer:
    """Llama-3: whole words that are in the vocabulary are taken without merging, special tokens' texts among them."""
    definition = json.loads(byte_level().to_str())
    definition["model"]["ignore_merges"] = True
    definition["model"]["vocab"] |= {token["content"]: token["id"] for token in definition["added_tokens"]}
    return Tokenizer.from_str(json.dumps(definition))


TOKENIZERS = {f.__name__: f for f in (byte_level, byte_fallback, metaspace, ignore_merges)}


@pytest.fixture(scope="session", params=sorted(TOKENIZERS))
def tokenizer_json(request: pytest.FixtureRequest) -> bytes:
    return TOKENIZERS[request.param]().to_str().encode()


def fast_tokenizer(tokenizer_json: bytes, folder: Path) -> Any:
    """The same tokenizer as transformers has it."""
    from transformers import PreTrainedTokenizerFast

    (folder / "tokenizer.json").write_bytes(tokenizer_json)
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
