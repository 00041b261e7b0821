"""Images that vary in size, through a whole bundle. Oracle: transformers' LlavaForConditionalGeneration."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pumice
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from pumice.export.processor.load import load_processor
from pumice.sessions.runs import Cancellation
from tests.factory import FAMILIES
from tests.runtime.images.test_preprocess import noise

IMAGES = [noise("RGB", 90, 40, 1), noise("RGB", 33, 70, 2), noise("RGB", 20, 20, 3)]
LOGIT_TOLERANCE = 2e-4


class Pixtral:
    """A bundle, and the checkpoint that it was made from in transformers."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import LlavaForConditionalGeneration

        checkpoint = FAMILIES["pixtral"](folder / "checkpoint", dtype="float32")
        export_bundle(checkpoint, folder / "bundle")
        self.model = pumice.load(folder / "bundle", device="cpu")
        self.processor = load_processor(checkpoint, read_config(open_checkpoint(checkpoint).config))
        self.theirs = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)

    def inputs(self, text: str, images: list[Any]) -> Any:
        return self.processor(text=text, images=images or None, return_tensors="pt")


@pytest.fixture(scope="module")
def pixtral(tmp_path_factory: pytest.TempPathFactory) -> Pixtral:
    return Pixtral(tmp_path_factory.mktemp("pixtral"))


@pytest.mark.parametrize("count", range(4))
def test_answers_and_logits_are_transformers(pixtral: Pixtral, count: int) -> None:
    images = IMAGES[:count]
    text = "x" + "[IMG]".join(["a ", " b\n", "c", " d"][: count + 1])
    inputs = pixtral.inputs(text, images)
    length = inputs["input_ids"].shape[1]
    expected = pixtral.theirs.generate(**inputs, max_new_tokens=32, do_sample=False)[0, length:].tolist()
    answer = pixtral.model.generate(text, images, max_new_tokens=32, raw=True)
    assert answer.token_ids == expected
    logits = pixtral.model.logits(text, images, raw=True)
    assert np.abs(logits - pixtral.theirs(**inputs).logits[0].detach().numpy()).max() < LOGIT_TOLERANCE


def test_images_in_later_turns(pixtral: Pixtral) -> None:
    chat = pixtral.model.chat()
    chat.send("What is shown?", IMAGES[0], max_new_tokens=6)
    chat.send("And what else?", max_new_tokens=6)
    answer = chat.send("And in these?", IMAGES[1:], max_new_tokens=12)
    whole = pixtral.model.generate(list(chat.messages)[:-1], IMAGES, max_new_tokens=12)
    assert answer.token_ids == whole.token_ids
    assert answer.usage.prompt_tokens == whole.usage.prompt_tokens
    assert answer.usage.image_tokens == int(
        (pixtral.model.prepare("?", IMAGES).image_sizes // 8).prod(1).sum()
    )


def test_every_image_is_encoded_alone_and_once(pixtral: Pixtral, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    run = Cancellation.run

    def recorded(self: Cancellation, session: Any, feeds: dict[str, Any], outputs: list[str]) -> Any:
        shapes.extend(feeds[name].shape for name in feeds if name == "pixel_values")
        return run(self, session, feeds, outputs)

    monkeypatch.setattr(Cancellation, "run", recorded)
    chat = pumice.load(pixtral.model.path, device="cpu").chat()
    chat.send("What?", IMAGES[:2], max_new_tokens=2)
    chat.send("And?", IMAGES[2], max_new_tokens=2)
    sizes = pixtral.model.prepare("?", IMAGES).image_sizes.tolist()
    assert shapes == [(1, 3, *size) for size in sizes]
    assert len(set(shapes)) == 3


def test_the_manifest_asks_for_a_reader_that_knows_varied_images(pixtral: Pixtral) -> None:
    manifest = pixtral.model.manifest
    assert manifest.schema_version == 2
    assert manifest.image.size is manifest.image_tokens.per_image is None


def test_info_says_what_an_image_costs(pixtral: Pixtral, capsys: pytest.CaptureFixture[str]) -> None:
    from pumice.cli.main import main

    assert main(["info", str(pixtral.model.path)]) == 0
    assert "up to 64 pixels a side, a token for 8 × 8 pixels and one for each row" in capsys.readouterr().out
