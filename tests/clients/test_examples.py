"""Each program under examples/, started as its first lines say, prints pumice's answer.

The image has a size that the model's tower takes, so that no client resizes it and all have the same pixels.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from pathlib import Path

import pytest
from PIL import Image

import pumice
from tests.clients.conftest import ROOT, AskedBundles, Clients
from tests.clients.reference import HELDOUT

QUESTION = "Describe the picture in detail."
PROGRAMS = {
    "onnxruntime-genai": "answer.py",
    "transformers-js": "answer.mjs",
    "onnxruntime-node": "answer.mjs",
}


SIZES = {"pebble-fp32": (120, 120), "pebble-int4": (120, 120), "pixtral-fp32": (64, 48)}
"""(width, height) of the image by bundle."""


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("example", PROGRAMS)
def test_it_prints_the_answer(
    example: str, name: str, clients: Clients, asked: AskedBundles, tmp_path: Path
) -> None:
    bundle, image = asked[name].bundle, tmp_path / "image.png"
    Image.open(HELDOUT / "stop-sign.png").convert("RGB").resize(SIZES[name]).save(image)
    arguments = (bundle, QUESTION, image)
    if PROGRAMS[example].endswith(".py"):
        printed = clients.genai(ROOT / "examples" / example / PROGRAMS[example], *arguments)
    else:
        printed = clients.node(f"examples/{example}/{PROGRAMS[example]}", *arguments)
    expected = pumice.load(bundle, device="cpu").generate(QUESTION, [image], max_new_tokens=256)
    assert len(expected.text) > 40
    if name == "pixtral-fp32":  # random weights, whose bytes are often no text: clients show that differently
        likeness = SequenceMatcher(None, _words(printed), _words(expected.text), autojunk=False)
        assert likeness.ratio() > 0.9
        return
    assert printed.strip().splitlines()[-1].strip() == expected.text.strip()


def _words(text: str) -> str:
    """ASCII letters alone."""
    return "".join(character for character in text if character.isascii() and character.isalpha())
