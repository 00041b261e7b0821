"""On the lower bounds: the same pixels, prompts and answers as where the bundle was exported (`make test-oldest`)."""

import importlib.metadata
import json

import numpy as np
import pytest

import pumice
from pumice.manifest.operators import version_numbers
from tests.bounds import EXPECTED, FAMILIES_TOO, PRECISIONS, TEXTS_TOO, WINDOWED, answers, last_logits, pins
from tests.without_export import bundles_folder


@pytest.fixture(autouse=True)
def _given(pytestconfig: pytest.Config) -> None:
    if bundles_folder(pytestconfig) is None:
        pytest.skip("needs a bundle that another environment has exported: make test-oldest")


def test_what_is_installed_is_the_lower_bounds(pytestconfig: pytest.Config) -> None:
    for pin in pins():
        name, _, bound = pin.partition("==")
        installed = importlib.metadata.version(name)
        assert (installed + ".0.0").startswith(bound + "."), f"{name} is {installed}, its bound {bound}"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_answers_are_those_of_the_newest(pytestconfig: pytest.Config, precision: str) -> None:
    folder = bundles_folder(pytestconfig)
    assert folder is not None
    expected = json.loads((folder / EXPECTED).read_text())[precision]
    assert len(expected) > 10
    assert answers(folder / f"pebble-{precision}") == expected


@pytest.mark.parametrize("name", [*FAMILIES_TOO, *TEXTS_TOO])
def test_logits_are_those_of_the_newest(pytestconfig: pytest.Config, name: str) -> None:
    """Graphs that pebble's does not have open, and compute the same."""
    folder = bundles_folder(pytestconfig)
    assert folder is not None
    expected = np.array(json.loads((folder / EXPECTED).read_text())[name])
    assert np.abs(np.array(last_logits(folder / name)) - expected).max() <= 2e-4


def test_what_the_lower_bound_computes_otherwise_is_refused(pytestconfig: pytest.Config) -> None:
    """Windows of attention: onnxruntime 1.23 has them one token longer."""
    folder = bundles_folder(pytestconfig)
    assert folder is not None
    assert version_numbers(importlib.metadata.version("onnxruntime")) < (1, 24)
    with pytest.raises(pumice.BundleError, match=r"needs onnxruntime 1\.24\.0 or newer, installed is 1\.23"):
        pumice.load(folder / WINDOWED)
