"""Whether 4-bit integers of a checkpoint can be kept, by the type of its text model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pumice.errors import CheckpointError
from pumice.export.config.llava import read_config
from pumice.export.recipes.recipe import load_recipe
from pumice.export.weights.kept_integers import leaving_integers_alone
from pumice.models.text_weights import decoder_weights, stored_shapes
from tests.factory.texts import SIZES, TEXTS


def checkpoint(name: str, integers: bool = True) -> tuple[Any, Any]:
    """A config, and as much of a checkpoint as is asked: its layers' matrices in groups of 32."""
    text = SIZES | TEXTS[name] | {"model_type": name.split()[0]}
    config = read_config(
        {"model_type": "llava", "image_token_index": 5, "vision_config": {}, "text_config": text}
    )
    sources = {
        source: shape
        for key, weight in decoder_weights(config).items()
        if key.startswith("layers.") and len(weight.shape) == 2
        for source, shape in weight.sources
    }
    matrices = {
        stored: SimpleNamespace(group=32, symmetric=True, info=SimpleNamespace(shape=shape))
        for stored, shape in stored_shapes(config.text, sources).items()
    }
    found = SimpleNamespace(integers=matrices if integers else {}, path=Path("it"), read_canonical=None)
    return config, found


@pytest.mark.parametrize("name", ["phi3", "phi", "starcoder2", "glm", "helium", "qwen3 of narrow heads"])
def test_refused_where_matrices_are_changed(name: str) -> None:
    config, found = checkpoint(name)
    with pytest.raises(CheckpointError, match="4-bit integers, and the weights of this model are changed"):
        leaving_integers_alone(load_recipe("cpu-int4"), config, found, {})
    for other, recipe in ((found, "cpu-int8"), (checkpoint(name, integers=False)[1], "cpu-int4")):
        plain = load_recipe(recipe)
        assert leaving_integers_alone(plain, config, other, {}) == (plain, False)


@pytest.mark.parametrize("name", ["qwen3", "gemma", "gemma2", "olmo", "olmo2", "exaone4", "smollm3", "arcee"])
def test_kept_where_only_norms_and_tables_are(name: str) -> None:
    config, found = checkpoint(name)
    recipe, keeping = leaving_integers_alone(load_recipe("cpu-int4"), config, found, {})
    assert keeping
    assert not recipe.balance
