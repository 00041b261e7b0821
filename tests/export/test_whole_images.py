"""Models that see an image whole, in one size, on images of all shapes: CLIP's crops, and SigLIP's stretched ones.

Oracle and tolerances: those of `test_tiled_images.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.export.test_families import Exported, opened
from tests.export.test_tiled_images import PROMPTS, check_images, check_later_images

pytestmark = pytest.mark.slow

WHOLE = ("llava-1.5", "llava-interleave")


@pytest.fixture(scope="module", params=WHOLE)
def exact(request: pytest.FixtureRequest, family_folder: Callable[[str], Path]) -> Exported:
    return opened(request.param, "fp32", family_folder(request.param))


@pytest.mark.parametrize("names", PROMPTS, ids=", ".join)
def test_images_of_all_shapes(exact: Exported, names: list[str]) -> None:
    check_images(exact, names)


def test_an_image_in_a_later_turn_is_as_in_a_fresh_prompt(exact: Exported) -> None:
    check_later_images(exact)
