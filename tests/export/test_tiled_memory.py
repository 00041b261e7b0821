"""What a plan says of a model whose images are cut into tiles, beside what a process takes that answers about one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pumice.bundle.plan import plan
from pumice.export.pipeline import export_bundle
from pumice.manifest import load_manifest
from tests.factory import make_checkpoint
from tests.factory.parts import Text, Vision

pytestmark = pytest.mark.slow

ASKED = """
import sys, numpy as np, pumice
pixels = np.random.default_rng(0).integers(0, 256, (672, 1680, 3)).astype(np.uint8)
model = pumice.load(sys.argv[1], device="cpu", threads=1)
answer = model.generate("what is it?", [pixels[: int(sys.argv[2]), : int(sys.argv[2])]], max_new_tokens=4)
status = dict(line.split(":") for line in open("/proc/self/status"))
print(answer.usage.prompt_tokens, 1024 * int(status["VmHWM"].split()[0]))
"""


def process(bundle: Path, side: int) -> tuple[int, int]:
    """Tokens of a prompt with an image of so many pixels a side at most, and the most bytes that were resident."""
    ran = subprocess.run(
        [sys.executable, "-c", ASKED, str(bundle), str(side)], capture_output=True, text=True, check=True
    )
    tokens, resident = ran.stdout.split()
    return int(tokens), int(resident)


@pytest.mark.skipif(sys.platform != "linux", reason="the most that was resident is had of Linux")
@pytest.mark.parametrize("anyres_max", [None, 4], ids=["LLaVA-NeXT", "LLaVA-OneVision"])
def test_a_plan_is_near_what_the_largest_image_takes(anyres_max: int | None, tmp_path: Path) -> None:
    """A quarter above or below, without the caches' budgets; and the image adds about what is counted for it."""
    grids = ((1, 2), (2, 1), (2, 2), (5, 2), (2, 5))
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint",
        vision=Vision(image_size=336, width=64, heads=4, layers=2, mlp=128),
        text=Text(width=1024, heads=8, kv_heads=2, mlp=128, layers=1, context=8192),
        pinpoints=tuple((336 * rows, 336 * columns) for rows, columns in grids),
        anyres_max=anyres_max,
    )
    manifest = export_bundle(checkpoint, tmp_path / "bundle")
    found = plan(load_manifest(tmp_path / "bundle"), context=manifest.layout.most_tokens + 64)
    planned = found.total - found.answering["prefix cache"] - found.answering["feature cache"]
    tokens, taken = process(tmp_path / "bundle", 1680)
    assert tokens > 0.8 * manifest.layout.most_tokens
    assert 0.75 < planned / taken < 1.25
    counted = found.answering["vision activations"]  # of which a single pixel takes some, too
    assert 0.4 < (taken - process(tmp_path / "bundle", 1)[1]) / counted < 1.4
