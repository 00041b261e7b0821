"""LLaVA-OneVision's processor, loaded without torchvision. Oracle: transformers' classes over the same files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, LlavaOnevisionProcessor

from pumice.errors import CheckpointError
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.processor import describe as companions
from pumice.export.processor.load import load_processor
from tests.factory import FAMILIES

IMAGES = [Image.new("RGB", (60, 100), "red"), Image.new("RGB", (30, 20), "blue")]
SETTINGS = ("num_image_tokens", "vision_feature_select_strategy", "vision_aspect_ratio")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES["llava-onevision"](tmp_path_factory.mktemp("released"))


@pytest.fixture
def folder(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "copy"))


def edit(folder: Path, name: str, *left_out: str, **changes: Any) -> None:
    content = {**json.loads((folder / name).read_text()), **changes}
    (folder / name).write_text(json.dumps({key: content[key] for key in content if key not in left_out}))


def loaded(folder: Path) -> Any:
    return load_processor(folder, read_config(open_checkpoint(folder).config))


def described(folder: Path) -> companions.Parts:
    checkpoint = open_checkpoint(folder)
    return companions.describe(checkpoint, read_config(checkpoint.config))


@pytest.mark.parametrize("left_out", [(), SETTINGS])
@pytest.mark.parametrize("images", [IMAGES[:1], IMAGES])
def test_it_is_transformers_own_without_videos(
    folder: Path, left_out: tuple[str, ...], images: list[Image.Image]
) -> None:
    class Whole(LlavaOnevisionProcessor):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    settings = json.loads((folder / "processor_config.json").read_text())
    whole = Whole(
        AutoImageProcessor.from_pretrained(folder, backend="pil"),
        AutoTokenizer.from_pretrained(folder),
        **{key: settings[key] for key in (*SETTINGS, "image_token")},
    )
    edit(folder, "processor_config.json", *left_out)
    text = "a <image> b" * len(images)
    ids = loaded(folder)(images=[images], text=text)["input_ids"]
    assert ids == whole(images=[images], text=text)["input_ids"]
    assert ids[0].count(whole.image_token_id) > 9


def test_the_class_is_known_by_the_model_s_type(folder: Path) -> None:
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        edit(folder, name, "processor_class")
    assert type(loaded(folder)).__name__ == "LlavaOnevisionProcessor"


def test_what_the_manifest_says(folder: Path) -> None:
    made = described(folder)
    tiles: Any = made["image"].tiles
    assert (tiles.shrink_to, tiles.square_fill, len(tiles.pinpoints)) == (2, (127, 127, 127), 9)
    assert (made["image"].size, made["image_tokens"].per_image) == ((42, 42), 9)


def test_the_whole_architecture_is_the_model_s_type(folder: Path) -> None:
    """As in the first uploads."""
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlavaNextForConditionalGeneration"]
    assert config["model_type"] == "llava_onevision"


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("processor_config.json", {"vision_aspect_ratio": "anyres_max_9"}, "'anyres_max_2' in config.json"),
        ("processor_config.json", {"processor_class": "LlavaNextProcessor"}, "only LlavaOnevisionProcessor"),
        ("preprocessor_config.json", {"do_resize": False}, "several images could not be given"),
        ("preprocessor_config.json", {"do_pad": False}, "do_pad false"),
        ("preprocessor_config.json", {"image_mean": 0.5}, "expected three numbers from 0 to 1"),
        ("preprocessor_config.json", {"image_mean": [0.5, 2, 0.5]}, "expected three numbers from 0 to 1"),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5]}, "expected three numbers from 0 to 1"),
        ("preprocessor_config.json", {"image_grid_pinpoints": [[42, 84]]}, "but config.json has"),
        (
            "preprocessor_config.json",
            {"size": {"height": 56, "width": 56}},
            "the vision tower takes (42, 42)",
        ),
        ("preprocessor_config.json", {"image_processor_type": "LlavaNextImageProcessor"}, "LlavaOnevisionIm"),
    ],
)
def test_settings_that_are_refused(folder: Path, name: str, changes: dict[str, Any], told: str) -> None:
    edit(folder, name, **changes)
    with pytest.raises(CheckpointError) as caught:
        described(folder)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
