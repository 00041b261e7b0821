"""The page of examples/browser answers about an image in headless Chromium, as pumice does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

import pumice
from pumice.bundle.browser import browser_plan
from pumice.manifest import load_manifest
from tests.clients.conftest import FOLDER, ROOT, AskedBundles
from tests.clients.page_server import Shown, shown_by_page
from tests.clients.reference import HELDOUT

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
PACKAGES = FOLDER / "node" / "node_modules"
SIZES = {"pixtral-fp32": (64, 48), "gemma2-web-int4": (56, 56)}
"""(width, height) of an image that a model takes as it is, where that is not 120 × 120."""
QUESTION = "Describe the picture in detail."

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


def shown(bundle: Path, name: str, tmp_path: Path) -> tuple[Shown, str]:
    """What the page shows, and pumice's answer: of an image that need not be resized."""
    assert CHROMIUM is not None
    image, size = tmp_path / "image.png", SIZES.get(name, (120, 120))
    Image.open(HELDOUT / "stop-sign.png").convert("RGB").resize(size).save(image)
    folders = {
        "index.html": ROOT / "examples" / "browser" / "index.html",
        "image.png": image,
        "transformers": PACKAGES / "@huggingface" / "transformers" / "dist",
        "ort": PACKAGES / "onnxruntime-web" / "dist",
        "models": bundle.parent,
    }
    screenshot = tmp_path / "page.png"
    found = shown_by_page(CHROMIUM, folders, bundle.name, QUESTION, screenshot)
    if screenshot.is_file():
        shutil.copy(screenshot, FOLDER / f"{name}.png")
    expected = pumice.load(bundle, device="cpu").generate(QUESTION, [image], max_new_tokens=128)
    return found, expected.text.strip()


@pytest.mark.parametrize("name", ["pebble-web-int4", "pebble-fp32", "pixtral-fp32"])
def test_the_page_answers(name: str, asked: AskedBundles, tmp_path: Path) -> None:
    found, expected = shown(asked[name].bundle, name, tmp_path)
    assert (found.status, found.answer) == ("Done.", expected)


@pytest.mark.parametrize("name", ["interleave-web-int4", "gemma2-web-int4"])
def test_a_tied_table_is_found_and_what_is_fetched_was_planned(
    name: str, asked: AskedBundles, tmp_path: Path
) -> None:
    """Random weights: products in 8 bits, which WebAssembly sums otherwise, decide near ties of their answers."""
    bundle = asked[name].bundle
    found, expected = shown(bundle, name, tmp_path)
    assert found.status == "Done."
    assert found.answer[:4] == expected[:4]
    plan = browser_plan(load_manifest(bundle))
    assert plan is not None
    assert found.fetched == plan.files


def test_a_bundle_for_cpus_does_not_load(asked: AskedBundles, tmp_path: Path) -> None:
    """Its head in two halves has an operator that ONNX Runtime lacks in browsers. When that changes, docs should."""
    bundle = asked["pebble-int4"].bundle
    found, _ = shown(bundle, "pebble-int4", tmp_path)
    assert found.status.startswith("It failed:")
    plan = browser_plan(load_manifest(bundle))
    assert plan is not None
    assert plan.obstacle is not None
