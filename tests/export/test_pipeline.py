"""From checkpoint to bundle, end to end: what is written, and that nothing is left behind where it fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from safetensors.torch import load_file, save_file

from pumice.cli.main import main
from pumice.errors import CheckpointError, ExportError, PumiceError, UsageError
from pumice.export import pipeline as export
from pumice.export.bundle.writing import file_entries
from pumice.export.pipeline import export_bundle
from pumice.export.recipes.recipe import NAMES, load_recipe
from pumice.export.recipes.storage import WeightStorage, weight_bytes
from pumice.export.weights.stream import ALIGNMENT
from pumice.manifest import License, load_manifest
from pumice.manifest.card import front_matter, render
from tests.factory import Text, make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "random", dtype="float16")


def edit(folder: Path, name: str, **changes: Any) -> None:
    content = json.loads((folder / name).read_text())
    content |= changes
    (folder / name).write_text(json.dumps(content))


def edit_vision(folder: Path, **changes: Any) -> None:
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    edit(folder, "config.json", vision_config=vision | changes)


def test_bundle_is_complete(checkpoint: Path, tmp_path: Path) -> None:
    manifest = export_bundle(checkpoint, tmp_path / "bundle", precision="int4", block_size=16)
    bundle = tmp_path / "bundle"
    assert manifest == load_manifest(bundle)
    assert manifest.files == file_entries(bundle)
    graphs = ("vision_encoder", "embedding", "decoder_model_merged")
    assert {f"onnx/{name}_q4.onnx" for name in graphs} < set(manifest.files)
    assert {"tokenizer.json", "chat_template.jinja", "config.json", "processor_config.json"} < set(
        manifest.files
    )
    assert manifest.precision.block_size == 16
    assert manifest.source.dtype == "float16"
    assert manifest.image_tokens.per_image == (56 // 14) ** 2
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_card_is_written_and_named_after_what_the_checkpoint_says(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = export_bundle(checkpoint, tmp_path / "plain", quiet=False)
    assert "has no card that names its licence" in capfd.readouterr().err
    assert (plain.source.base_model, plain.source.license) == (msgspec.UNSET, msgspec.UNSET)
    assert (tmp_path / "plain" / "README.md").read_bytes() == render(plain)
    cached = tmp_path / "models--org--name" / "snapshots" / "0123abc"
    shutil.copytree(checkpoint, cached)
    (cached / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Theirs\n")
    known = export_bundle(cached, tmp_path / "known", quiet=False)
    assert "licence" not in capfd.readouterr().err
    assert known.source.base_model == "org/name"
    assert known.source.license == License(id="apache-2.0")
    card = (tmp_path / "known" / "README.md").read_text()
    assert {"base_model": "org/name", "license": "apache-2.0"}.items() <= front_matter(card).items()
    assert "Theirs" not in card
    assert load_manifest(tmp_path / "known") == known


def test_command_line(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundle"
    assert main(["export", str(checkpoint), str(bundle), "--precision", "int4"]) == 0
    captured = capsys.readouterr()
    assert "cpu-int4" in captured.out
    assert "decoder:" in captured.err
    assert "\r" not in captured.err  # plain lines where there is no terminal
    assert main(["export", str(checkpoint), str(bundle), "-q"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "exists" in captured.err
    assert main(["export", str(checkpoint), str(bundle), "-q", "--overwrite", "--block-size", "32"]) == 2
    assert load_manifest(bundle).precision.name == "int4"


def test_export_is_repeatable(checkpoint: Path, tmp_path: Path) -> None:
    first, second = (export_bundle(checkpoint, tmp_path / name) for name in ("a", "b"))
    assert first.files == second.files


def test_sharding_and_layout_do_not_matter(tmp_path: Path) -> None:
    bundles = []
    for index, options in enumerate(({}, {"shard_bytes": 50_000}, {"layout": "new"})):
        folder = make_checkpoint(tmp_path / f"checkpoint-{index}", **options)
        bundles.append(export_bundle(folder, tmp_path / f"bundle-{index}").files)
    weights = [{n: e for n, e in files.items() if n.endswith("_data")} for files in bundles]
    assert weights[0] == weights[1] == weights[2]
    assert weights[0]


Break = Any
BREAKS: dict[str, Break] = {
    "no config": lambda c: (c / "config.json").unlink(),
    "no weights": lambda c: (c / "model.safetensors").unlink(),
    "truncated weights": lambda c: (c / "model.safetensors").write_bytes(
        (c / "model.safetensors").read_bytes()[:-100]
    ),
    "no tokenizer": lambda c: (c / "tokenizer.json").unlink(),
    "broken tokenizer": lambda c: (c / "tokenizer.json").write_text("{}"),
    "other architecture": lambda c: edit(c, "config.json", model_type="llava_next"),
    "more layers than weights": lambda c: edit_vision(c, num_hidden_layers=5),
    "wrong patch size": lambda c: edit_vision(c, patch_size=7),
    "other image processor": lambda c: edit(c, "preprocessor_config.json", image_processor_type="ViTImageProcessor"),
    "crop of another size": lambda c: edit(c, "preprocessor_config.json", crop_size={"height": 70, "width": 70}),
    "unknown key": lambda c: edit(c, "config.json", use_moe=True),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAKS)
def test_bad_checkpoints_leave_nothing(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint")
    BREAKS[what](folder)
    destination = tmp_path / "out" / "bundle"
    with pytest.raises(CheckpointError) as caught:
        export_bundle(folder, destination)
    assert "\n" not in str(caught.value)
    assert not destination.parent.exists()
    assert main(["export", str(folder), str(destination), "-q"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("pumice: error: ")
    assert error.count("\n") == 1


def test_existing_destination_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    before = export_bundle(checkpoint, bundle)
    with pytest.raises(ExportError, match="exists"):
        export_bundle(checkpoint, bundle, precision="int4")
    assert load_manifest(bundle) == before
    after = export_bundle(checkpoint, bundle, precision="int4", overwrite=True)
    assert load_manifest(bundle) == after
    assert file_entries(bundle) == after.files


def test_failed_overwrite_keeps_the_old_bundle(checkpoint: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    before = export_bundle(checkpoint, bundle)
    broken = make_checkpoint(tmp_path / "broken")
    BREAKS["truncated weights"](broken)
    with pytest.raises(PumiceError):
        export_bundle(broken, bundle, overwrite=True)
    assert file_entries(bundle) == before.files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "bundle"]


def test_unknown_precision(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="precision is 'fp8', expected one of fp32, fp16, bf16, int8, int4"):
        export_bundle(checkpoint, tmp_path / "bundle", precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a recipe and the precision 'int4' were given"):
        export_bundle(checkpoint, tmp_path / "bundle", precision="int4", recipe="cpu-int4")
    with pytest.raises(UsageError, match="block size is 7, expected 16"):
        export_bundle(checkpoint, tmp_path / "bundle", precision="int4", block_size=7)
    with pytest.raises(UsageError, match="search is for int4 and int8"):
        export_bundle(checkpoint, tmp_path / "bundle", search="k-quant")


def test_recipe_file_on_the_command_line(checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        """
        [decoder]
        weights = "int8"
        [[override]]
        match = "decoder/layers.-1.mlp.*"
        weights = "int4"
        block_size = 16
        """
    )
    bundle = tmp_path / "bundle"
    arguments = ["export", str(checkpoint), str(bundle), "-q", "--recipe", str(recipe), "--asymmetric"]
    assert main(arguments) == 0
    precision = load_manifest(bundle).precision
    assert (precision.name, precision.recipe, precision.float_type) == ("int4", "mine", "fp32")
    assert (precision.bits, precision.block_size, precision.symmetric) == (4, 16, False)
    others = {name for name in precision.quantized if name not in precision.other_bits}
    assert others == {f"decoder/layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    assert set(precision.other_bits.values()) == {8}
    recipe.write_text("[decoder]\nbits = 3\n")
    assert main([*arguments, "--overwrite"]) == 2
    recipe.write_text("[[override]]\nmatch = 'decoder/layers.7.*'\nweights = 'int8'\n")
    assert main([*arguments, "--overwrite"]) == 2
    assert load_manifest(bundle).precision == precision


def test_weights_beyond_float16(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint")
    tensors = load_file(folder / "model.safetensors")
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 5] = 7e4
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight has a weight of 7e\+04, float16 ends"
    ):
        export_bundle(folder, tmp_path / "bundle", precision="fp16")
    assert not (tmp_path / "bundle").exists()
    export_bundle(folder, tmp_path / "bundle", precision="fp32")


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("recipe", NAMES)
def test_needed_space_is_known_beforehand(
    recipe: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte, but for what lies between tensors. The width is one that blocks do not divide."""
    text = Text(width=80, heads=4, kv_heads=2, mlp=144, tied=tied)
    folder = make_checkpoint(tmp_path / "checkpoint", text=text, dtype="bfloat16")
    told: list[int] = []
    written: list[int] = []

    def sizes(form: WeightStorage, config: Any) -> list[int]:
        told.extend(weight_bytes(form, config))
        return told

    def write(*arguments: Any) -> Any:
        written.extend(graph.nbytes for graph in arguments[0])
        return export_write(*arguments)

    export_write = export._write
    monkeypatch.setattr(export, "weight_bytes", sizes)
    monkeypatch.setattr(export, "_write", write)
    manifest = export_bundle(folder, tmp_path / "bundle", recipe=recipe)
    assert sum(told) == sum(written)
    files = sum(entry.size for name, entry in manifest.files.items() if name.endswith("_data"))
    assert files <= sum(told) + 3 * ALIGNMENT * len(told)
    table = any(name.startswith("onnx/embed_tokens") for name in manifest.graphs.embedding.external_data)
    assert table == (not tied or load_recipe(recipe).own_table)
