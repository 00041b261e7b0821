from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bench.plots import colour, draw
from bench.systems import SYSTEMS
from tests.bench.found import measured, results

EACH = {
    "ttft_s": 3.0,
    "encode_s": 1.0,
    "prefill_s": 1.9,
    "decode_100": 60.0,
    "decode_2000": 50.0,
    "resident_mb": 500.0,
}


@pytest.mark.slow
def test_images_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    systems = [measured("pumice-cpu-int4", **EACH), measured("genai-int4", decode_100=28.0, decode_2000=20.0)]
    drawn = draw(results(*systems), tmp_path)
    assert [path.name for path in drawn] == [
        f"interleave-0.5b-{name}.png" for name in ("first-token", "decode", "memory")
    ]
    for path in drawn:
        with Image.open(path) as image:
            assert image.width > 1000
    assert not draw(results(), tmp_path)


def test_systems_have_colours_of_their_own() -> None:
    plain = [name for name in SYSTEMS if not name.endswith("+optimized")]
    assert len({colour(name) for name in plain}) == len(plain)
    assert colour("pumice-cpu-int4+optimized") == colour("pumice-cpu-int4")
