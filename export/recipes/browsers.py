"""Whether a browser will hold what a recipe for browsers makes of a model, before anything is made.

Enters: a recipe, the model's config, how its weights are stored. Leaves: a warning, or nothing.
"""

from __future__ import annotations

import logging

import torch

from pumice.bundle.browser import MOST_IN_A_FILE, TABS, loading_bytes
from pumice.export.recipes.recipe import Recipe
from pumice.export.recipes.storage import WeightStorage, graph_bytes
from pumice.models.config import LlavaConfig


def warn_of_sizes(recipe: Recipe, form: WeightStorage, config: LlavaConfig) -> None:
    """Say that no usual browser will load the bundle; `pumice info --plan --browser` knows more of it when it is made.

    In float32 (by WebAssembly) weights are in the tab twice while they are loaded, else once, and on the GPU.
    """
    if not recipe.own_table:
        return
    sizes = graph_bytes(form, config)
    largest = max(sizes, key=lambda name: sizes[name])
    fetched = sum(sizes.values())
    held = sum(loading_bytes(fetched, fetched if form.dtype == torch.float32 else 0).values())
    if sizes[largest] > MOST_IN_A_FILE:
        told = (
            f"the {largest}'s weights are {sizes[largest] / 1e9:.1f} GB, a page fetches files of up to 2.1 GB"
        )
    elif held > max(TABS):
        told = f"{fetched / 1e9:.1f} GB of weights are {held / 1e9:.1f} GB while they are loaded, tabs have up to 4 GB"
    else:
        return
    logging.getLogger("pumice").warning(
        "browsers will not load this bundle (docs/clients/browser.md): %s", told
    )
