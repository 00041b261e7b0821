"""Which videos a checkpoint's files describe, and when there are none. Oracle: transformers' rules, written out."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from pumice.errors import CheckpointError
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.processor.load import load_processor
from pumice.export.processor.videos import describe_videos, with_known_videos
from pumice.models.config import VideoConfig
from tests.factory import FAMILIES, WITH_VIDEOS


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = (*WITH_VIDEOS, "llava-onevision-clip")
    return {name: FAMILIES[name](tmp_path_factory.mktemp(name)) for name in names}


def copied(released: dict[str, Path], name: str, tmp_path: Path, **files: dict[str, Any]) -> Path:
    """A copy, with keys of its JSON files changed, by the files' names without the ending."""
    folder = Path(shutil.copytree(released[name], tmp_path / "copy"))
    for file, changes in files.items():
        path = folder / f"{file}.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, **changes}))
    return folder


def described(folder: Path) -> Any:
    checkpoint = open_checkpoint(folder)
    config = read_config(checkpoint.config)
    return describe_videos(load_processor(folder, config), folder, config)


def test_what_the_two_families_have(released: dict[str, Path]) -> None:
    one, next_video = (described(released[name]) for name in WITH_VIDEOS)
    assert (one.pooling, one.newline, one.tokens_per_frame) == ("bilinear", True, 4)
    assert (one.resize_to, one.resize_shortest_edge, one.crop_to, one.mean) == (
        (42, 42),
        None,
        None,
        (0.5,) * 3,
    )
    assert (next_video.pooling, next_video.newline, next_video.tokens_per_frame) == ("encoder", False, 4)
    assert (next_video.resize_to, next_video.resize_shortest_edge, next_video.crop_to) == (None, 56, (56, 56))
    assert type(load_processor(released[WITH_VIDEOS[1]], config_of(released[WITH_VIDEOS[1]]))).__name__ == (
        "LlavaNextVideoProcessor"
    )


def config_of(folder: Path) -> Any:
    return read_config(open_checkpoint(folder).config)


def test_the_first_file_that_has_settings_is_read(released: dict[str, Path], tmp_path: Path) -> None:
    own = {"video_preprocessor_config": {"image_mean": [0.1, 0.2, 0.3], "size": {"height": 42, "width": 42}}}
    folder = copied(released, "llava-onevision", tmp_path, **own)
    found = described(folder)
    assert found.mean == (0.1, 0.2, 0.3)
    assert found.std == (0.26862954, 0.26130258, 0.27577711)  # the class's own
    nested = {"video_processor": {"image_mean": 0.5, "image_std": 0.25, "size": {"height": 42, "width": 42}}}
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({**settings, **nested}))
    assert (described(folder).mean, described(folder).std) == ((0.5,) * 3, (0.25,) * 3)


SQUARE = {"height": 42, "width": 42}


@pytest.mark.parametrize(
    ("name", "files", "told"),
    [
        ("llava-onevision-clip", {}, "the video token '<video>' has id None in the tokenizer"),
        ("llava-onevision", {"config": {"video_token_index": 9}}, "and 9 in config.json"),
        (
            "llava-onevision",
            {"video_preprocessor_config": {"size": {"height": 42, "width": 56}}},
            "the tower takes 42 × 42",
        ),
        (
            "llava-onevision",
            {"video_preprocessor_config": {"size": {"longest_edge": 42}}},
            "have the size {'longest_edge': 42}",
        ),
        (
            "llava-onevision",
            {"video_preprocessor_config": {"size": SQUARE, "resample": 2}},
            "resample 2, expected 3 (bicubic)",
        ),
        (
            "llava-onevision",
            {"video_preprocessor_config": {"size": SQUARE, "image_std": [1, 0, 1]}},
            "expected numbers above 0",
        ),
        (
            "llava-onevision",
            {"video_preprocessor_config": {"size": SQUARE, "image_mean": "x"}},
            "expected three numbers",
        ),
        ("llava-onevision", {"video_preprocessor_config": {"do_resize": False}}, "the tower takes"),
        ("llava-onevision", {"video_preprocessor_config": {"size": SQUARE, "do_pad": True}}, "has do_pad"),
        (
            "llava-onevision",
            {"video_preprocessor_config": {"size": SQUARE, "video_processor_type": "OtherVideoProcessor"}},
            "is 'OtherVideoProcessor'",
        ),
        ("llava-next-video", {"preprocessor_config": {"resample": 0}}, "resample 0"),
    ],
)
def test_videos_that_cannot_be_had_leave_images(
    released: dict[str, Path],
    name: str,
    files: dict[str, Any],
    told: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = copied(released, name, tmp_path, **files)
    checkpoint = open_checkpoint(folder)
    with caplog.at_level(logging.WARNING, "pumice"):
        config = with_known_videos(checkpoint, read_config(checkpoint.config))
    assert config.video is None
    (record,) = [record for record in caplog.records if record.name == "pumice"]
    assert "exported for images alone" in record.getMessage()
    assert told in record.getMessage()
    with pytest.raises(CheckpointError):
        described(folder)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, "average"),
        ({"spatial_pool_mode": "max"}, "max"),
        ({"spatial_pool_out_channels": 1024}, "average"),
        ({"spatial_pool_stride": 4}, None),
        ({"vision_feature_select_strategy": "full"}, None),
        ({"video_token_index": 10_000}, None),
    ],
)
def test_poolings(
    released: dict[str, Path], changes: dict[str, Any], found: str | None, tmp_path: Path
) -> None:
    folder = copied(released, "llava-next-video", tmp_path, config=changes)
    video = config_of(folder).video
    assert (None if video is None else video.pooling) == found
    assert video is None or isinstance(video, VideoConfig)


def test_a_pooling_with_weights_is_refused(released: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(released, "llava-next-video", tmp_path, config={"spatial_pool_mode": "conv"})
    with pytest.raises(CheckpointError, match="spatial_pool_mode"):
        config_of(folder)
