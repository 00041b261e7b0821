"""Tiles whose features are joined in a turned stream: newlines turn with it, and answers stay.

Oracle: transformers' features of the same pixels. Joining is of rows: the same ones as where nothing is turned.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import pumice
from pumice.export.pipeline import export_bundle
from pumice.export.recipes.recipe import Recipe
from pumice.export.weights.rotation import Rotation
from tests.export.test_families import NEW_TOKENS, TOLERANCE, Exported, opened
from tests.export.test_tiled_images import SIZES, asked, image

pytestmark = pytest.mark.slow

TURNED = Recipe(name="turned", float_type="fp32", rotate=True)
FEATURES = 2e-5
"""Of values about 1; turning them rounds."""


@pytest.fixture(scope="module", params=["llava-next", "granite-vision", "llava-onevision"])
def both(
    request: pytest.FixtureRequest,
    family_folder: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Exported, pumice.Model]:
    """As it is, and turned."""
    exact = opened(request.param, "fp32", family_folder(request.param))
    bundle = tmp_path_factory.mktemp("turned") / "bundle"
    export_bundle(family_folder(request.param) / "checkpoint", bundle, recipe=TURNED)
    return exact, pumice.load(bundle, device="cpu", threads=1)


@pytest.mark.parametrize("names", [[name] for name in SIZES] + [["square", "1 to 3"]], ids=", ".join)
def test_features_and_answers_are_transformers(both: tuple[Exported, pumice.Model], names: list[str]) -> None:
    exact, turned = both
    images = [image(name) for name in names]
    inputs = dict(
        exact.reference.processor.apply_chat_template(
            asked(images), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    )
    if len(images) == 1:
        ours = torch.tensor(turned.encode_image(images[0]).features)
        plain = torch.tensor(exact.model.encode_image(images[0]).features)
        assert ours.shape == plain.shape
        assert (ours - Rotation(ours.shape[1]).turn(plain)).abs().max() <= FEATURES * plain.abs().max()
    logits = turned.logits(asked(images))
    assert np.abs(logits - exact.reference.logits(inputs)[-len(logits) :]).max() <= TOLERANCE
    tokens = exact.reference.tokens(inputs)
    answer = turned.generate(asked(images), max_new_tokens=NEW_TOKENS).token_ids
    assert list(answer) == tokens[: max(len(answer), len(tokens) - 1)]


def test_newlines_are_turned(both: tuple[Exported, pumice.Model]) -> None:
    """The row behind a line is the checkpoint's, turned; of both the last one of an image."""
    exact, turned = both
    newline = exact.reference.model.model.image_newline.detach()
    scale = getattr(exact.reference.model.config.get_text_config(), "embedding_multiplier", 1.0)
    last = torch.tensor(turned.encode_image(image("square")).features)[-1]
    assert (last - Rotation(len(newline)).turn(scale * newline)).abs().max() <= FEATURES * scale
