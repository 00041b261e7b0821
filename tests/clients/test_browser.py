"""The page of examples/browser answers about an image in headless Chromium, as pumice does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

import pumice
from tests.clients.conftest import FOLDER, ROOT, AskedBundles
from tests.clients.page_server import shown_by_page
from tests.clients.reference import HELDOUT

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
PACKAGES = FOLDER / "node" / "node_modules"
QUESTION = "Describe the picture in detail."

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


def shown(bundle: Path, name: str, tmp_path: Path) -> tuple[str, str, str]:
    """Status and answer of the page, and pumice's answer: of an image that need not be resized."""
    assert CHROMIUM is not None
    image = tmp_path / "image.png"
    Image.open(HELDOUT / "stop-sign.png").convert("RGB").resize((120, 120)).save(image)
    folders = {
        "index.html": ROOT / "examples" / "browser" / "index.html",
        "image.png": image,
        "transformers": PACKAGES / "@huggingface" / "transformers" / "dist",
        "ort": PACKAGES / "onnxruntime-web" / "dist",
        "models": bundle.parent,
    }
    screenshot = tmp_path / "page.png"
    status, answer = shown_by_page(CHROMIUM, folders, bundle.name, QUESTION, screenshot)
    if screenshot.is_file():
        shutil.copy(screenshot, FOLDER / f"{name}.png")
    expected = pumice.load(bundle, device="cpu").generate(QUESTION, [image], max_new_tokens=128)
    return status, answer.strip(), expected.text.strip()


@pytest.mark.parametrize("name", ["pebble-web-int4", "pebble-fp32"])
def test_the_page_answers(name: str, asked: AskedBundles, tmp_path: Path) -> None:
    status, answer, expected = shown(asked[name].bundle, name, tmp_path)
    assert (status, answer) == ("Done.", expected)


def test_a_tied_table_is_found(asked: AskedBundles, tmp_path: Path) -> None:
    """Random weights: products in 8 bits, which WebAssembly sums otherwise, decide near ties of their answers."""
    status, answer, expected = shown(asked["interleave-web-int4"].bundle, "interleave-web-int4", tmp_path)
    assert status == "Done."
    assert answer[:4] == expected[:4]


def test_a_bundle_for_cpus_does_not_load(asked: AskedBundles, tmp_path: Path) -> None:
    """Its head in two halves has an operator that ONNX Runtime lacks in browsers. When that changes, docs should."""
    status, _, _ = shown(asked["pebble-int4"].bundle, "pebble-int4", tmp_path)
    assert status.startswith("It failed:")
