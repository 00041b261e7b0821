"""The table of sizes in docs/clients/browser.md is what the plan says, and recipes for browsers warn by the same."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pumice.bundle.browser import MOST_IN_A_FILE
from pumice.export.recipes.browsers import warn_of_sizes
from pumice.export.recipes.recipe import load_recipe
from pumice.export.recipes.storage import graph_bytes, storage_of, weight_bytes
from tests.export.recipes.browser_sizes import MODELS, RECIPES, config_of, lines, planned

PAGE = Path(__file__).parents[3] / "docs" / "clients" / "browser.md"


def test_the_page_has_the_table() -> None:
    """`python -m tests.export.recipes.browser_sizes` prints it anew."""
    assert "\n".join(lines()) in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", [*RECIPES, "portable-fp32", "cpu-int4"])
def test_bytes_by_graph_are_all_bytes(recipe: str) -> None:
    config = config_of("0.5B")
    form = storage_of(load_recipe(recipe), config)
    assert sum(graph_bytes(form, config).values()) == sum(weight_bytes(form, config))


@pytest.mark.parametrize(("size", "recipe"), [(size, recipe) for size in MODELS for recipe in RECIPES])
def test_recipes_for_browsers_warn_where_nothing_would_load(
    size: str, recipe: str, caplog: pytest.LogCaptureFixture
) -> None:
    config, chosen = config_of(size), load_recipe(recipe)
    with caplog.at_level(logging.WARNING, "pumice"):
        warn_of_sizes(chosen, storage_of(chosen, config), config)
    plan = planned(size, recipe)
    loads = max(plan.files.values()) <= MOST_IN_A_FILE and sum(plan.loading.values()) <= 2**32
    assert bool(caplog.messages) == (not loads)
    assert all("browser" in message for message in caplog.messages)


def test_other_recipes_do_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    config, chosen = config_of("7B"), load_recipe("cpu-int4")
    with caplog.at_level(logging.WARNING, "pumice"):
        warn_of_sizes(chosen, storage_of(chosen, config), config)
    assert caplog.messages == []
