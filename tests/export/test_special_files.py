"""No export waits for a pipe, or reads a device to its end."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pumice.errors import CheckpointError, UsageError
from pumice.export.calibration.tokens import read_text
from pumice.export.pipeline import export_bundle
from pumice.export.recipes.recipe import load_recipe
from pumice.export.verify.texts import read_texts


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"]
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_checkpoints(pebble_checkpoint: Path, tmp_path: Path, name: str, kind: str) -> None:
    checkpoint = Path(shutil.copytree(pebble_checkpoint, tmp_path / "checkpoint"))
    (checkpoint / name).unlink(missing_ok=True)
    spoil(checkpoint / name, kind)
    with pytest.raises(CheckpointError, match=f"{name} is a pipe or a device"):
        export_bundle(checkpoint, tmp_path / "bundle")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_recipes_and_texts(tmp_path: Path, kind: str) -> None:
    spoil(tmp_path / "a.toml", kind)
    with pytest.raises(UsageError, match="a pipe or a device"):
        load_recipe(tmp_path / "a.toml")
    with pytest.raises(UsageError, match="a pipe or a device"):
        read_text(tmp_path / "a.toml")
    with pytest.raises(UsageError, match="a pipe or a device"):
        read_texts([tmp_path / "a.toml"], window=64, limit=64)


def test_texts_have_one_kind_of_line_end(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a\r\nb\rc\n")
    assert read_text(tmp_path / "text") == "a\nb\nc\n"


def spoil(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
