"""Each program under examples/, started as its first lines say, prints pumice's answer.

The image has the size that pebble's tower takes, so that no client resizes it and all have the same pixels.
"""

from __future__ import annotations

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


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.png"
    Image.open(HELDOUT / "stop-sign.png").convert("RGB").resize((120, 120)).save(path)
    return path


@pytest.mark.parametrize("name", ["pebble-fp32", "pebble-int4"])
@pytest.mark.parametrize("example", PROGRAMS)
def test_it_prints_the_answer(
    example: str, name: str, clients: Clients, asked: AskedBundles, image: Path
) -> None:
    bundle = asked[name].bundle
    arguments = (bundle, QUESTION, image)
    if PROGRAMS[example].endswith(".py"):
        printed = clients.genai(ROOT / "examples" / example / PROGRAMS[example], *arguments)
    else:
        printed = clients.node(f"examples/{example}/{PROGRAMS[example]}", *arguments)
    expected = pumice.load(bundle, device="cpu").generate(QUESTION, [image], max_new_tokens=256)
    assert len(expected.text) > 40
    assert printed.strip().splitlines()[-1].strip() == expected.text.strip()
