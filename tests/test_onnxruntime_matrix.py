"""The table's verdicts: what is at fault is never taken for sound."""

import subprocess
from pathlib import Path

import pytest

from tests.onnxruntime_matrix import verdict

ROOT = Path(__file__).parent.parent
NEWEST = [{"tokens": [1, 2], "logprobs": [-0.5, -0.25]}]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (NEWEST, "equal, ±0.0e+00"),
        ([{"tokens": [1, 2], "logprobs": [-0.5, -0.25 - 5e-6]}], "equal, ±5.0e-06"),
        ([{"tokens": [1, 2], "logprobs": [-0.5, -0.26]}], "FAR: 1.0e-02"),
        ([{"tokens": [1, 3], "logprobs": [-0.5, -0.25]}], "OTHER TOKENS"),
        (
            [{"refused": "BundleError: needs onnxruntime 1.30.0"}],
            "refused: BundleError: needs onnxruntime 1.30.0",
        ),
        ("DIED (-6): ", "DIED (-6): "),
    ],
)
def test_verdicts(found, told):
    assert verdict(found, NEWEST, 1e-5) == told


def test_a_newest_version_that_refuses_is_a_fault():
    assert verdict(NEWEST, [{"refused": "BundleError"}], 1e-5) == "THE NEWEST DOES NOT ANSWER"


def test_the_verb_has_the_lower_bound_and_the_newest():
    told = ["make", "-n", "test-onnxruntime"]
    planned = subprocess.run(told, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    places = planned.strip().splitlines()[-1].split()[-4:]
    assert [place.rpartition("/")[2] for place in places][:3] == ["1.23", "1.26.0", "1.30.0"]
    assert f"onnxruntime=={places[-1].rpartition('/')[2]}\n" in (ROOT / "constraints.txt").read_text()
