"""What the decoder is calibrated by: transformers' embeddings of words, and its features of images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pumice.export.calibration.embeds import LEAST_IMAGES, MOST_IMAGES, calibration_embeds, calibration_pixels
from pumice.export.processor.load import load_processor
from tests import oracle
from tests.export.calibration.test_moments import TOKENS, opened
from tests.factory import FAMILIES, TILED, make_checkpoint


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path / "checkpoint")
    config, read = opened(folder)
    pixels = calibration_pixels(load_processor(folder, config), rows=4)
    assert pixels.shape[0] == LEAST_IMAGES
    rows = calibration_embeds(config, read, TOKENS, pixels)
    model = oracle.theirs(folder)
    with torch.no_grad():
        factor = getattr(
            model.config.text_config, "embedding_multiplier", 1.0
        )  # a Granite's, of all that enters
        words = factor * model.get_input_embeddings()(torch.tensor(TOKENS))
        sizes = (
            {"image_sizes": torch.tensor([pixels.shape[2:]] * len(pixels))}
            if config.tokens_per_image is None
            else {}
        )
        if family in TILED:  # the first rows are those of the whole image, whatever its tiles are
            sizes = {"image_sizes": torch.tensor([pixels.shape[2:]] * len(pixels))}
            pixels = torch.cat((pixels[:, None], torch.zeros(len(pixels), 8, *pixels.shape[1:])), dim=1)
        found = model.model.get_image_features(pixels, return_dict=True, **sizes).pooler_output
        features = factor * torch.cat([image[: config.tokens_per_image] for image in found])
    torch.testing.assert_close(rows[: len(TOKENS)], words, atol=0, rtol=0)
    count = min(len(features) // len(pixels), int(0.75 * len(TOKENS[0])))
    for row, image in zip(rows[len(TOKENS) :], features.chunk(len(pixels)), strict=True):
        torch.testing.assert_close(row[1 : 1 + count], image[:count], atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(row[1 + count :], words[0, 1 + count :], atol=0, rtol=0)


def test_more_words_bring_more_images(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    processor = load_processor(folder, opened(folder)[0])
    assert len(calibration_pixels(processor, rows=12)) == 3
    assert len(calibration_pixels(processor, rows=400)) == MOST_IMAGES
