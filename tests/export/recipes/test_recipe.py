"""Recipes: what is read from TOML, what is refused and how, and what becomes of each matrix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pumice.errors import UsageError
from pumice.export.recipes.recipe import (
    NAMES,
    PRECISIONS,
    RECIPE_OF,
    Override,
    Recipe,
    Storage,
    assign,
    load_recipe,
)

MATRICES = [
    *(f"vision_encoder/tower.layers.{layer}.mlp.fc1.weight" for layer in range(3)),
    "vision_encoder/projector.linear_1.weight",
    "embedding/weight",
    *(f"decoder/layers.{layer}.{part}.weight" for layer in range(12) for part in ("qkv", "mlp.down_proj")),
    "decoder/lm_head.weight",
]


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_own_recipes_are_read_and_described(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert assign(recipe, MATRICES).keys() == set(MATRICES)
    page = Path(__file__).parents[3] / "docs" / "recipes.md"
    assert f"`{name}`" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_is_a_recipe(precision: str) -> None:
    assert load_recipe(RECIPE_OF[precision]).precision == precision  # type: ignore[index]


def test_a_file_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        float_type = "fp16"
        [decoder]
        weights = "int4"
        block_size = 64
        symmetric = false
        search = "k-quant"
        [[override]]
        match = "decoder/lm_head.weight"
        weights = "int8"
        """,
    )
    recipe = load_recipe(path)
    assert recipe.name == "mine"
    assert recipe.precision == "int4"
    assert recipe.decoder == Storage(weights="int4", block_size=64, symmetric=False, search="k-quant")
    assert recipe.vision_encoder.bits is None
    head = assign(recipe, MATRICES)["decoder/lm_head.weight"]
    assert head == Storage(weights="int8", block_size=64, symmetric=False, search="k-quant")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("float = 3", "unknown field `float`"),
        ("[decoder]\nbits = 4", "unknown field `bits`"),
        ("[[override]]\nmatch = 'x'\nsize = 4", "unknown field `size`"),
        ("[[override]]\nweights = 'int8'", "required field `match`"),
        ("float_type = 'fp8'", "fp8"),
        ("[decoder]\nweights = 'int2'", "int2"),
        ("[decoder]\nblock_size = 33", "block size is 33, expected 16, 32, 64, 128 or 256"),
        ("[[override]]\nmatch = 'x'\nblock_size = 0", "block size is 0"),
        ("[decoder]\naccuracy_level = 9", "accuracy_level is 9, expected 0 to 4"),
        ("rotate = 1", "bool"),
        ("[decoder", "not valid TOML"),
    ],
)
def test_what_is_not_understood_is_named_with_its_file(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine\.toml") as caught:
        load_recipe(write(tmp_path, text))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"recipe is 'best', expected one of .*cpu-int4.*or a \.toml file"):
        load_recipe("best")
    with pytest.raises(UsageError, match=r"cannot read the recipe .*none\.toml: No such file"):
        load_recipe(tmp_path / "none.toml")


def recipe_of(*override: Override) -> Recipe:
    return Recipe(name="test", decoder=Storage(weights="int4"), override=override)


def int8s(recipe: Recipe) -> set[str]:
    return {name for name, storage in assign(recipe, MATRICES).items() if storage.bits == 8}


def test_overrides_match_by_glob() -> None:
    found = int8s(recipe_of(Override(match="decoder/layers.*.mlp.down_proj.weight", weights="int8")))
    assert found == {f"decoder/layers.{layer}.mlp.down_proj.weight" for layer in range(12)}


@pytest.mark.parametrize(("pattern", "layer"), [("-1", 11), ("-12", 0), ("1", 1)])
def test_layers_are_counted_from_either_end(pattern: str, layer: int) -> None:
    found = int8s(recipe_of(Override(match=f"decoder/layers.{pattern}.*", weights="int8")))
    assert found == {name for name in MATRICES if name.startswith(f"decoder/layers.{layer}.")}


def test_graphs_count_their_own_layers() -> None:
    found = int8s(recipe_of(Override(match="*layers.-1.*", weights="int8")))
    assert {name.split(".")[1] for name in found if name.startswith("decoder")} == {"11"}
    assert {name.split(".")[2] for name in found if name.startswith("vision")} == {"2"}


def test_later_overrides_win_key_by_key() -> None:
    head = "decoder/lm_head.weight"
    recipe = recipe_of(
        Override(match="decoder/*", weights="int8", block_size=16),
        Override(match=head, block_size=128),
        Override(match=head, symmetric=False),
    )
    assert assign(recipe, MATRICES)[head] == Storage(weights="int8", block_size=128, symmetric=False)


@pytest.mark.parametrize(
    "pattern", ["decoder/layers.*.mlp.gate.weight", "decoder/layers.-13.*", "lm_head.weight"]
)
def test_a_pattern_that_matches_nothing_raises(pattern: str) -> None:
    with pytest.raises(
        UsageError, match=r"matches no matrix of this model; it has .*decoder/lm_head\.weight"
    ):
        assign(recipe_of(Override(match=pattern, weights="int8")), MATRICES)


def test_command_line_keys_change_all_that_is_quantised() -> None:
    recipe = recipe_of(Override(match="decoder/lm_head.weight", weights="int8", block_size=16))
    changed = assign(recipe.with_storage(block_size=128, symmetric=False, search=None), MATRICES)
    assert changed["decoder/lm_head.weight"].block_size == 128
    assert changed["decoder/layers.0.qkv.weight"] == Storage(weights="int4", block_size=128, symmetric=False)
    assert changed["embedding/weight"] == Storage()
    with pytest.raises(
        UsageError, match="block size is for int4 and int8: the recipe plain quantises nothing"
    ):
        Recipe(name="plain").with_storage(block_size=32)


def test_reading_recipes_is_cheap() -> None:
    """The command line's help does it."""
    script = "import sys, pumice.cli.export, pumice.export.recipes.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
