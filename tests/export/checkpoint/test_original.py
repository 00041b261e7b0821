"""Checkpoints in the original LLaVA's layout: one line says what they are, what they lack, and where to read on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pumice.errors import CheckpointError
from pumice.export.checkpoint import hub
from pumice.export.checkpoint.folder import open_checkpoint

CLIP = "openai/clip-vit-large-patch14-336"
CONFIG: dict[str, Any] = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava_llama",
    "hidden_size": 32,
    "mm_vision_tower": CLIP,
    "mm_projector_type": "mlp2x_gelu",
}
TEXT = {"model.embed_tokens.weight": torch.zeros(4, 4), "model.mm_projector.0.weight": torch.zeros(4, 4)}
TOWER = {"model.vision_tower.vision_tower.vision_model.embeddings.class_embedding": torch.zeros(4)}


def original(folder: Path, tensors: dict[str, torch.Tensor] | None, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors")
    return folder


def refused(path: Path | str) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("llava_llama", "LlavaLlamaForCausalLM"),
        ("llava_mistral", "LlavaMistralForCausalLM"),
        ("llava_qwen", "LlavaQwenForCausalLM"),
        ("llava_qwen2", "LlavaQwen2ForCausalLM"),
        ("llava", "LlavaLlamaForCausalLM"),  # the first 1.5 and 1.6
        ("llava_next", "LlavaMistralForCausalLM"),
        ("llava_llama", None),
    ],
)
def test_it_is_known_by_its_type_or_its_class(
    model_type: str, architecture: str | None, tmp_path: Path
) -> None:
    named = None if architecture is None else [architecture]
    message = refused(original(tmp_path, TEXT, model_type=model_type, architectures=named))
    assert f"config.json has model_type {model_type!r} in the original LLaVA's layout" in message
    assert "take the converted release (llava-hf/…), or convert it (docs/original-checkpoints.md)" in message
    assert message.endswith(f"; it lacks its vision tower {CLIP} and a chat template")


def test_weights_that_hold_their_tower(tmp_path: Path) -> None:
    assert refused(original(tmp_path, TEXT | TOWER)).endswith("; it lacks a chat template")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert refused(tmp_path).endswith("(docs/original-checkpoints.md)")


@pytest.mark.parametrize(
    ("index", "held"),
    [(TEXT, False), (TEXT | TOWER, True), (None, None)],
    ids=["without", "with", "no index"],
)
def test_pickled_weights(index: Any, held: bool | None, tmp_path: Path) -> None:
    original(tmp_path, None)
    (tmp_path / "pytorch_model-00001-of-00001.bin").write_bytes(b"pickle")
    if index is not None:
        (tmp_path / "pytorch_model.bin.index.json").write_text(
            json.dumps({"weight_map": dict.fromkeys(index, "pytorch_model-00001-of-00001.bin")})
        )
    message = refused(tmp_path)
    assert "safetensors (its weights are pickled: pytorch_model-00001-of-00001.bin)" in message
    assert ("vision tower" in message) == (not held)
    assert (f"{CLIP} (unless its weights hold it)" in message) == (held is None)


@pytest.mark.parametrize("kind", ["linear", "mlp3x_gelu", "identity", None])
def test_projectors_that_transformers_does_not_have(kind: str | None, tmp_path: Path) -> None:
    message = refused(
        original(tmp_path, TEXT | TOWER, **({} if kind is None else {"mm_projector_type": kind}))
    )
    told = "no class of transformers has its projector, "
    assert (told in message) == (kind is not None)
    assert kind is None or message.endswith(f"{told}{kind!r}")


def test_nothing_is_fetched_of_a_hub_s_but_its_small_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def snapshot(hub_id: str, patterns: tuple[str, ...], progress: Any) -> Path:
        asked.append(patterns)
        return original(tmp_path, None)

    monkeypatch.setattr(hub, "_snapshot", snapshot)
    assert refused("nobody/llava-v1.5-7b").endswith(
        f"{CLIP} (unless its weights hold it) and a chat template"
    )
    assert asked == [hub.SMALL_FILES]


def test_an_adapter_of_its_own_says_where_to_read(tmp_path: Path) -> None:
    original(tmp_path, None)
    for name in ("adapter_config.json", "non_lora_trainables.bin"):
        (tmp_path / name).write_text("{}")
    message = refused(tmp_path)
    assert "is an adapter (adapter_config.json) without its base model's weights" in message
    assert message.endswith(
        "the original LLaVA's (non_lora_trainables.bin) otherwise: docs/original-checkpoints.md"
    )


def test_one_with_sections_is_no_original(tmp_path: Path) -> None:
    original(tmp_path, TEXT, model_type="llava", text_config={}, vision_config={})
    assert open_checkpoint(tmp_path).config["architectures"] == ["LlavaLlamaForCausalLM"]
