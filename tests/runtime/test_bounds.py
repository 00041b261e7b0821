"""On the lower bounds: the same pixels, prompts and answers as where the bundle was exported (`make test-oldest`)."""

import importlib.metadata
import json

import pytest

from tests.bounds import EXPECTED, PRECISIONS, answers, pins
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
