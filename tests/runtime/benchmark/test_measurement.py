from pathlib import Path

import pytest

from pumice.benchmark.measurement import Figure, measure
from pumice.benchmark.report import measurement_json, measurement_table
from pumice.benchmark.workload import Workload, synthetic_image

WORKLOAD = Workload(prompt=40, contexts=(20, 50), new=3, repeats=2)


def test_every_figure_in_every_round(pebble_bundle_int4: Path) -> None:
    told: list[str] = []
    found = measure(
        pebble_bundle_int4, synthetic_image(), WORKLOAD, device="cpu", threads=1, progress=told.append
    )
    speeds = {figure.name: figure for figure in found.figures if figure.unit != "MB"}
    assert list(speeds) == [
        "load",
        "image encode",
        "prefill, 40 tokens",
        "time to first token, image + question",
        "decode, 20 tokens of context",
        "decode, 50 tokens of context",
    ]
    assert all(len(figure.values) == 2 and min(figure.values) > 0 for figure in speeds.values())
    assert (found.device, found.threads) == ("cpu", 1)
    assert told.count("image encode, warming up") == 1
    assert "image encode, 2 of 2" in told
    table = measurement_table(found).splitlines()
    assert len(table) == 1 + len(found.figures)
    values = measurement_json(found)["figures"]["image encode"]
    assert values == {
        "unit": "s",
        "median": speeds["image encode"].median,
        "values": list(speeds["image encode"].values),
    }


def test_no_image_is_known_from_an_earlier_round(
    pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pumice.vision.encoder import ImageEncoder

    encoded: list[bytes] = []
    original = ImageEncoder._run

    def watched(self: ImageEncoder, images: list, *rest: object) -> object:  # type: ignore[type-arg]
        encoded.extend(image.digest for image in images)
        return original(self, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageEncoder, "_run", watched)
    measure(pebble_bundle, synthetic_image(), WORKLOAD, device="cpu", threads=1)
    rounds = WORKLOAD.repeats + 1
    assert len(encoded) == 2 * rounds  # encoding alone, and for the first token
    assert len(set(encoded)) == rounds


def test_a_median() -> None:
    assert Figure(name="x", unit="s", values=(3.0, 1.0, 100.0)).median == 3.0
