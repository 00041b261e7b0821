"""Files are read as transformers reads them by PyAV: the same frames, to the last bit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pumice.images.videos import Video, open_video
from tests.runtime.images.test_videos import encoded

pytest.importorskip("av")


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.avi"])
@pytest.mark.parametrize(
    "options", [{"num_frames": 1}, {"num_frames": 7}, {"num_frames": 25}, {"fps": 3}, {"fps": 0.1}]
)
def test_frames_are_those_of_transformers(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    from transformers.video_utils import default_sample_indices_fn, read_video_pyav

    path = encoded(tmp_path / name, size=(50, 38))
    expected, metadata = read_video_pyav(str(path), partial(default_sample_indices_fn, **options))
    opened = open_video(Video(path, **options))
    assert opened.count == len(metadata.frames_indices)
    assert np.array_equal(np.stack(list(opened.frames())), expected)
