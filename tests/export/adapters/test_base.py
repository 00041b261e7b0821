"""An adapter's base by name: told where it is surely another, and never where a folder may be called anything."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pumice.export.adapters.base import warn_of_other_base
from pumice.export.adapters.folder import open_adapters
from pumice.export.adapters.merged import merge_adapters
from pumice.export.checkpoint.folder import Checkpoint, open_checkpoint
from pumice.export.progress import Silent
from tests.factory import make_checkpoint

HUB = "/home/me/.cache/huggingface/hub/models--llava-hf--llava-1.5-7b-hf/snapshots/0123abcd"
Q_PROJ = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


def told(
    caplog: pytest.LogCaptureFixture, path: str, base: Any, adapter: str = "x/y", **config: Any
) -> list[str]:
    caplog.clear()
    checkpoint = Checkpoint(path=Path(path), name=path, config=config, tensors={})
    with caplog.at_level(logging.WARNING, logger="pumice"):
        warn_of_other_base(checkpoint, adapter, base)
    return caplog.messages


@pytest.mark.parametrize(
    "base",
    [
        "llava-hf/llava-1.5-7b-hf",
        "LLaVA-HF/LLaVA-1.5-7b-hf",
        "somebody/llava-1.5-7b-hf",
        "unsloth/llava-1.5-7b-hf-unsloth-bnb-4bit",
        "unsloth/llava-1.5-7b-hf-bnb-4bit",
        "/root/.cache/huggingface/hub/models--llava-hf--llava-1.5-7b-hf/snapshots/ffff",
        r"C:\Users\me\hub\models--llava-hf--llava-1.5-7b-hf\snapshots\ffff",
        "/data/llava-1.5-7b-hf",
        "/data/another-name",
        "./base",
        "../outputs/checkpoint-500",
        "~/base",
        "base",
        r"D:\models\base",
        "/data/models/base/",
        "",
        None,
        3,
    ],
)
def test_no_false_alarm(base: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, HUB, base) == []


@pytest.mark.parametrize("path", ["/data/llava", "llava", "./models/llava", "org/name"])
def test_a_local_checkpoint_may_be_called_anything(path: str, caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, path, "llava-hf/llava-1.5-7b-hf") == []


@pytest.mark.parametrize(
    "base",
    [
        "llava-hf/llava-1.5-13b-hf",
        "llava-hf/llava-v1.6-mistral-7b-hf",
        "llava-hf/llava-1.5-7b",
        "/root/.cache/huggingface/hub/models--llava-hf--bakLlava-v1-hf/snapshots/ffff",
    ],
)
def test_another_base_is_told_once(base: str, caplog: pytest.LogCaptureFixture) -> None:
    name = base.split("models--")[-1].split("/snapshots")[0].replace("--", "/")
    adapter = f"told-once/{name}"
    assert told(caplog, HUB, base, adapter) == [
        f"the adapter {adapter} was trained on {name}, and is merged into llava-hf/llava-1.5-7b-hf: "
        "is this its base model?"
    ]
    assert told(caplog, HUB, base, adapter) == []


def test_a_fine_tune_passes_for_what_it_was_saved_from(caplog: pytest.LogCaptureFixture) -> None:
    tuned, origin = HUB.replace("llava-hf--llava-1.5-7b-hf", "me--tuned"), "llava-hf/llava-1.5-7b-hf"
    assert told(caplog, tuned, origin, "tuned/a", _name_or_path=origin) == []
    assert told(caplog, tuned, "me/tuned", "tuned/b", _name_or_path=origin) == []
    assert len(told(caplog, tuned, "me/other", "tuned/c", _name_or_path=origin)) == 1


def test_merging_tells_it_and_merges(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = make_checkpoint(tmp_path / "models--me--base" / "snapshots" / "0123")
    width, _ = open_checkpoint(base).shapes()["language_model.layers.0.self_attn.q_proj.weight"]
    save_file(
        {f"{Q_PROJ}.lora_A.weight": torch.ones(1, width), f"{Q_PROJ}.lora_B.weight": torch.ones(width, 1)},
        tmp_path / "adapter_model.safetensors",
    )
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 1, "base_model_name_or_path": "me/another"})
    )
    (adapter,) = open_adapters([tmp_path], Silent())
    with caplog.at_level(logging.WARNING, logger="pumice"):
        merged = merge_adapters(open_checkpoint(base), [adapter], tied=False)
    assert len(merged.changes) == 1
    (message,) = caplog.messages
    assert message.endswith("was trained on me/another, and is merged into me/base: is this its base model?")
