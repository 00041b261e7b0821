"""Bundles that were written long ago, with graphs at the root, load and answer for ever."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pumice
from pumice.bundle.folder import open_bundle
from pumice.sessions.optimize import make

FROZEN = Path(__file__).parents[2] / "frozen"
ANSWERS: dict[int, dict[str, Any]] = {
    1: {"prompt_tokens": 19, "tokens": [64, 275, 298, 367], "largest": 10.845947},
    2: {"prompt_tokens": 25, "tokens": [274, 45, 233, 164], "largest": 11.907303},
}
"""By schema version: what they answered when they were written."""


@pytest.mark.parametrize("schema", ANSWERS)
def test_a_bundle_of_old_loads_and_answers(schema: int) -> None:
    expected = ANSWERS[schema]
    model = pumice.load(FROZEN / f"schema-{schema}", device="cpu")
    assert model.manifest.schema_version == schema
    assert model.manifest.graphs.decoder.file == "decoder.onnx"
    y, x = np.mgrid[:24, :40]
    image = Image.fromarray(np.stack([x * 6, y * 10, (x + y) * 4], -1).astype(np.uint8))
    found = model.generate("What is this?", [image], max_new_tokens=4, do_sample=False)
    assert found.usage.prompt_tokens == expected["prompt_tokens"]
    assert found.token_ids == expected["tokens"]
    assert model.logits("What is this?", [image]).max() == pytest.approx(expected["largest"], abs=0.02)


def test_it_is_copied_for_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUMICE_CACHE_DIR", str(tmp_path))
    copy = make(open_bundle(FROZEN / "schema-1"))
    assert {"decoder.onnx", "vision_encoder.onnx"} == set(copy.record.graphs)
    assert pumice.load(FROZEN / "schema-1", device="cpu", optimized=True).generate("Hi", max_new_tokens=1)
