from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
from PIL import Image

from bench.panels import colour
from bench.plots import _first_token, draw
from bench.systems import SYSTEMS
from tests.bench.found import measured, results

EACH = {
    "ttft_s": 3.0,
    "encode_s": 1.0,
    "prefill_s": 1.9,
    "decode_100": 60.0,
    "decode_2000": 50.0,
    "resident_mb": 500.0,
    "load_s": 1.0,
    "throughput_8": 40.0,
}


@pytest.mark.slow
def test_images_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    systems = [measured("pumice-cpu-int4", **EACH), measured("genai-int4", decode_100=28.0, decode_2000=20.0)]
    drawn = draw(results(*systems), tmp_path)
    assert [path.name for path in drawn] == [
        f"interleave-0.5b-{name}.png" for name in ("first-token", "decode", "throughput", "memory", "load")
    ]
    for path in drawn:
        with Image.open(path) as image:
            assert image.width > 1000
    assert not draw(results(), tmp_path)


@pytest.mark.slow
def test_the_best_is_on_top_and_a_target_is_a_line() -> None:
    matplotlib.use("Agg")
    slow, quick = measured("pumice-cpu-int4", **EACH), measured("openvino-int4", **EACH | {"ttft_s": 2.0})
    figure = _first_token(results(slow, quick))
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["openvino-int4", "pumice-cpu-int4"]
    assert [tick.get_fontweight() for tick in axes.get_yticklabels()] == ["normal", "bold"]
    (words,) = axes.get_legend().get_texts()
    assert words.get_text() == "target ≤ 1.00 s: 0.5 × best peer, openvino-int4"
    (line,) = [line for line in axes.get_lines() if line.get_label() == words.get_text()]
    assert list(line.get_xdata()) == [1.0, 1.0]


def test_systems_have_colours_of_their_own() -> None:
    plain = [name for name in SYSTEMS if not name.endswith("+optimized")]
    assert len({colour(name) for name in plain}) == len(plain)
    assert colour("pumice-cpu-int4+optimized") == colour("pumice-cpu-int4")
