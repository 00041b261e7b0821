"""Oracle: transformers' processors over the same files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from transformers import AutoProcessor

from pumice.errors import CheckpointError
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.processor import describe as companions
from pumice.export.processor.load import load_processor
from pumice.manifest import ImageTokens
from pumice.models.config import LlavaConfig
from tests.factory import make_checkpoint

PATCH, SIDE = 14, 56
SIGLIP = {
    "image_processor_type": "SiglipImageProcessor",
    "processor_class": "LlavaProcessor",
    "size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
}
PIXTRAL = {
    "image_processor_type": "PixtralImageProcessor",
    "processor_class": "PixtralProcessor",
    "size": {"longest_edge": SIDE},
    "patch_size": {"height": PATCH, "width": PATCH},
}
PIXTRAL_TEXTS = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
IMAGES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8))
    for i, size in enumerate([(30, 80), (90, 20), (5, 5)])
]


class Files:
    """A checkpoint's folder whose JSON files can be rewritten, and its config."""

    def __init__(self, folder: Path, tower: str) -> None:
        self.folder = folder
        config = read_config(open_checkpoint(folder).config)
        strategy = "default" if tower == "clip" else "full"
        self.config: LlavaConfig = replace(
            config,
            vision=replace(config.vision, tower=tower),
            vision_feature_select_strategy=strategy,
        )

    def write(self, name: str, content: dict[str, Any] | None) -> "Files":
        (self.folder / name).unlink(missing_ok=True)
        if content is not None:
            (self.folder / name).write_text(json.dumps(content))
        return self

    def nested(self, processor: dict[str, Any], image_processor: dict[str, Any]) -> "Files":
        """The newer layout: all in one file."""
        self.write("preprocessor_config.json", None)
        return self.write("processor_config.json", {**processor, "image_processor": image_processor})

    def describe(self) -> companions.Parts:
        return companions.describe(open_checkpoint(self.folder), self.config)

    def refused(self) -> str:
        with pytest.raises(CheckpointError) as caught:
            self.describe()
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("released"))


@pytest.fixture
def clip(released: Path, tmp_path: Path) -> Files:
    return Files(Path(shutil.copytree(released, tmp_path / "clip")), "clip")


@pytest.fixture
def siglip(released: Path, tmp_path: Path) -> Files:
    files = Files(Path(shutil.copytree(released, tmp_path / "siglip")), "siglip")
    return files.write("preprocessor_config.json", SIGLIP)


@pytest.fixture
def pixtral(released: Path, tmp_path: Path) -> Files:
    folder = Path(shutil.copytree(released, tmp_path / "pixtral"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    added = [AddedToken(text, special=True, normalized=False) for text in PIXTRAL_TEXTS.values()]
    tokenizer.add_special_tokens(added)
    tokenizer.save(str(folder / "tokenizer.json"))
    files = Files(folder, "pixtral")
    files.config = replace(files.config, image_token_id=tokenizer.token_to_id("[IMG]"))
    files.write("preprocessor_config.json", PIXTRAL)
    return files.write(
        "processor_config.json", {**PIXTRAL_TEXTS, "patch_size": PATCH, "processor_class": "PixtralProcessor"}
    )


SETTINGS = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")


@pytest.mark.parametrize("left_out", [(), SETTINGS[:1], SETTINGS[1:2], SETTINGS[2:], SETTINGS])
def test_settings_that_older_files_lack_are_the_models(clip: Files, left_out: tuple[str, ...]) -> None:
    content = json.loads((clip.folder / "processor_config.json").read_text())
    complete = AutoProcessor.from_pretrained(clip.folder)
    expected = complete(text="a <image>", images=IMAGES[0])["input_ids"][0]
    clip.write("processor_config.json", {k: v for k, v in content.items() if k not in left_out})
    processor = load_processor(clip.folder, clip.config)
    assert processor(text="a <image>", images=IMAGES[0])["input_ids"][0] == expected
    assert expected.count(clip.config.image_token_id) == clip.describe()["image_tokens"].per_image == 16


def test_no_processor_config_at_all(clip: Files) -> None:
    (clip.folder / "processor_config.json").unlink()
    assert clip.describe()["image_tokens"].per_image == 16


@pytest.mark.parametrize("nested", [False, True])
def test_siglip(siglip: Files, nested: bool) -> None:
    if nested:
        siglip.nested({"processor_class": "LlavaProcessor", "image_token": "<image>"}, SIGLIP)
    parts = siglip.describe()
    image = parts["image"]
    assert (image.resize_to, image.size, image.crop_to) == ((SIDE, SIDE), (SIDE, SIDE), None)
    assert (image.mean, image.std, image.rescale_factor, image.resample) == (
        (0.5,) * 3,
        (0.5,) * 3,
        1 / 255,
        3,
    )
    assert parts["image_tokens"].per_image == 16
    processor = load_processor(siglip.folder, siglip.config)
    assert processor.image_processor.backend == "pil"
    assert (
        processor(text="<image>", images=IMAGES[0])["input_ids"][0].count(siglip.config.image_token_id) == 16
    )


@pytest.mark.parametrize("nested", [False, True])
def test_pixtral(pixtral: Files, nested: bool) -> None:
    if nested:
        pixtral.nested({**PIXTRAL_TEXTS, "patch_size": PATCH, "processor_class": "PixtralProcessor"}, PIXTRAL)
    parts = pixtral.describe()
    image = parts["image"]
    assert (image.resize_longest_edge, image.multiple_of, image.size) == (SIDE, PATCH, None)
    assert (image.resize_shortest_edge, image.resize_to, image.crop_to) == (None, None, None)
    first = pixtral.config.image_token_id
    assert parts["image_tokens"] == ImageTokens(
        token="[IMG]",
        token_id=first,
        per_image=None,
        patch_size=PATCH,
        break_token="[IMG_BREAK]",
        break_token_id=first + 1,
        end_token="[IMG_END]",
        end_token_id=first + 2,
    )


def test_pixtrals_reference_needs_no_torchvision(pixtral: Files) -> None:
    processor = load_processor(pixtral.folder, pixtral.config)
    assert type(processor).__name__ == "PixtralProcessor"
    assert processor.image_processor.backend == "pil"
    inputs = processor(text="[IMG][IMG][IMG]", images=IMAGES)
    assert inputs["pixel_values"].shape == (3, 3, SIDE, SIDE)
    assert inputs["image_sizes"].tolist() == [[28, 56], [56, 14], [14, 14]]
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(pixtral.config.image_token_id) == 8 + 4 + 1


def test_pixtrals_patch_size_is_the_models_where_the_file_lacks_it(pixtral: Files) -> None:
    pixtral.write("processor_config.json", {**PIXTRAL_TEXTS, "processor_class": "PixtralProcessor"})
    assert pixtral.describe()["image_tokens"].patch_size == PATCH


@pytest.mark.parametrize("said", [{"spatial_merge_size": 2}, {}])
def test_merging_is_the_models_where_the_file_lacks_it(pixtral: Files, said: dict[str, int]) -> None:
    """Files of March 2025 do, and transformers would count each patch. Calibration asks the image processor alone."""
    pixtral.config = replace(pixtral.config, merge=2)
    pixtral.write("processor_config.json", {**PIXTRAL_TEXTS, "processor_class": "PixtralProcessor", **said})
    parts = pixtral.describe()
    assert (parts["image"].multiple_of, parts["image_tokens"].patch_size) == (2 * PATCH, 2 * PATCH)
    assert parts["image_tokens"].merge_size == 2
    processor = load_processor(pixtral.folder, pixtral.config)
    inputs = processor(text="[IMG][IMG][IMG]", images=IMAGES)
    assert inputs["image_sizes"].tolist() == [[28, 56], [56, 28], [28, 28]]
    assert inputs["input_ids"][0].tolist().count(pixtral.config.image_token_id) == 2 + 2 + 1
    alone = processor.image_processor(images=IMAGES, return_tensors="np")
    assert np.array_equal(alone["pixel_values"], inputs["pixel_values"])


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            {"spatial_merge_size": 1},
            "spatial_merge_size 1, but the vision tower makes a token of 28 × 28 pixels",
        ),
        ({"patch_size": 28}, "patch_size 28 and spatial_merge_size 2"),
    ],
)
def test_merging_otherwise_than_the_model_is_refused(pixtral: Files, said: dict[str, int], told: str) -> None:
    pixtral.config = replace(pixtral.config, merge=2)
    written = {**PIXTRAL_TEXTS, "processor_class": "PixtralProcessor", **said}
    assert told in pixtral.write("processor_config.json", written).refused()


def test_a_longest_edge_that_whole_tokens_exceed_is_refused(pixtral: Files) -> None:
    """56 pixels are four patches; of tokens of three, 84 would be needed."""
    pixtral.config = replace(pixtral.config, merge=3)
    pixtral.write("processor_config.json", {**PIXTRAL_TEXTS, "processor_class": "PixtralProcessor"})
    assert "makes images of 56 pixels, but the vision tower takes 56 at most" in pixtral.refused()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch_size": 16}, "patch_size 16 and spatial_merge_size 1"),
        (
            {"spatial_merge_size": 2},
            "spatial_merge_size 2, but the vision tower makes a token of 14 × 14 pixels",
        ),
        ({"image_break_token": "[ROW]"}, "the tokenizer lacks '[ROW]'"),
        ({"image_end_token": "[LAST]"}, "the tokenizer lacks '[LAST]'"),
        ({"image_token": "<image>"}, "the image token '<image>' has id"),
        ({"image_token": ["[IMG]"]}, "image_token is ['[IMG]'], expected a text"),
        ({"image_break_token": ["[IMG_BREAK]"]}, "the tokenizer lacks ['[IMG_BREAK]']"),
        (
            {"processor_class": "LlavaProcessor"},
            "only PixtralProcessor is supported for this model",
        ),
    ],
)
def test_pixtral_processors_that_are_refused(pixtral: Files, changes: dict[str, Any], told: str) -> None:
    content = json.loads((pixtral.folder / "processor_config.json").read_text())
    assert told in pixtral.write("processor_config.json", {**content, **changes}).refused()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"do_resize": False}, "do_resize false"),
        ({"do_center_crop": True, "crop_size": 28}, "do_center_crop"),
        ({"size": {"longest_edge": 57}}, "images of 57 pixels, but the vision tower takes 56 at most"),
        ({"size": {"shortest_edge": 56}}, "supported for Pixtral is longest_edge"),
        ({"size": {"height": 56, "width": 28}}, "supported for Pixtral is longest_edge"),
        ({"size": {"longest_edge": -3}}, "no sense"),
        ({"image_std": [0.5, 0, 0.5]}, "divided by zero"),
        ({"image_mean": [0.5, 0.5]}, "no sense"),
        (
            {"image_processor_type": "CLIPImageProcessor"},
            "supported for this model is PixtralImage",
        ),
        ({"mystery": 1}, "mystery"),
    ],
)
def test_pixtral_settings_that_are_refused(pixtral: Files, changes: dict[str, Any], told: str) -> None:
    assert told in pixtral.write("preprocessor_config.json", {**PIXTRAL, **changes}).refused()


@pytest.mark.parametrize("size", [{"longest_edge": 50}, {"height": 50, "width": 50}])
def test_a_longest_edge_within_the_last_patch_fits(pixtral: Files, size: dict[str, int]) -> None:
    image = pixtral.write("preprocessor_config.json", {**PIXTRAL, "size": size}).describe()["image"]
    assert (image.resize_longest_edge, image.multiple_of) == (50, PATCH)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"size": {"height": 56, "width": 28}}, "images of (56, 28)"),
        ({"size": {"shortest_edge": 56}}, "any size"),
        ({"do_resize": False}, "any size"),
        ({"do_pad": True}, "do_pad"),
        ({"resample": 9}, "no sense"),
        ({"resample": "bicubic"}, "no sense"),
        ({"image_mean": "grey"}, "no sense"),
        ({"rescale_factor": "small"}, "no sense"),
        ({"rescale_factor": float("nan")}, "expected numbers of at most"),
        ({"image_mean": [0.5, float("inf"), 0.5]}, "expected numbers of at most"),
        ({"image_processor_type": "PixtralImageProcessor"}, "PixtralImageProcessor"),
    ],
)
def test_siglip_settings_that_are_refused(siglip: Files, changes: dict[str, Any], told: str) -> None:
    assert told in siglip.write("preprocessor_config.json", {**SIGLIP, **changes}).refused()


def test_one_value_for_all_channels(siglip: Files) -> None:
    image = siglip.write("preprocessor_config.json", {**SIGLIP, "image_mean": 0.25}).describe()["image"]
    assert image.mean == (0.25, 0.25, 0.25)
