"""`pumice export --adapter`: the bundle of a base with its adapter is that of the checkpoint that PEFT merges."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from pumice.cli.main import main
from pumice.errors import CheckpointError, ExportError, UsageError
from pumice.export.adapters.folder import Adapter
from pumice.export.pipeline import export_bundle
from pumice.export.recipes.recipe import PrecisionName
from pumice.export.verify.comparison import verify_bundle
from pumice.manifest import load_manifest
from tests import oracle
from tests.factory import FAMILIES, make_checkpoint

TARGETS = ["q_proj", "down_proj", "fc1", "linear_2"]


def save_adapter(base: Path, folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """With values that change answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = peft.LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": TARGETS} | config))
        model = peft.get_peft_model(oracle.theirs(base), settings)
        torch.manual_seed(seed)
        for value in model.parameters():
            if value.requires_grad:
                value.data = torch.randn(value.shape) * 0.1
        model.save_pretrained(folder)
    return folder


def save_merged(base: Path, folder: Path, *adapters: Path) -> Path:
    """The checkpoint that PEFT makes of them, in float32."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model = oracle.theirs(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for adapter in adapters:
            model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    config = (folder / "config.json").read_bytes()
    model.save_pretrained(folder)
    (folder / "config.json").write_bytes(config)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("base") / "random")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(base, tmp_path_factory.mktemp("adapters") / "first")


@pytest.fixture(scope="module")
def adapted(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle."""
    bundle = tmp_path_factory.mktemp("bundles") / "adapted"
    export_bundle(base, bundle, adapters=[adapter])
    return bundle


def graph_files(bundle: Path) -> dict[str, object]:
    files = load_manifest(bundle).files
    return {name: entry for name, entry in files.items() if ".onnx" in name}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_same_bundle_as_of_the_merged_checkpoint(
    base: Path, adapter: Path, tmp_path: Path, precision: PrecisionName
) -> None:
    """Every byte of every graph: two adapters, one of them DoRA."""
    second = save_adapter(base, tmp_path / "second", seed=1, use_dora=True)
    whole = save_merged(base, tmp_path / "whole", adapter, second)
    export_bundle(base, tmp_path / "ours", precision=precision, adapters=[adapter, str(second)])
    export_bundle(whole, tmp_path / "theirs", precision=precision)
    assert graph_files(tmp_path / "ours") == graph_files(tmp_path / "theirs")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava-interleave", "granite-vision", "pixtral", "vip-llava"])
def test_families(family: str, tmp_path: Path) -> None:
    """Tied tables, multipliers that are folded, other towers: verified against transformers."""
    checkpoint = FAMILIES[family](tmp_path / "base", dtype="float32")
    saved = save_adapter(checkpoint, tmp_path / "adapter")
    whole = save_merged(checkpoint, tmp_path / "whole", saved)
    manifest = export_bundle(checkpoint, tmp_path / "ours", adapters=[saved], verify=True)
    assert manifest.parity is not None
    assert manifest.parity["passed"]
    export_bundle(whole, tmp_path / "theirs")
    assert graph_files(tmp_path / "ours") == graph_files(tmp_path / "theirs")


def test_manifest_tells_of_adapters(adapted: Path, adapter: Path) -> None:
    told = load_manifest(adapted).source.adapters
    assert [(a.adapter, a.scale) for a in told] == [(f"{adapter.parent.name}/{adapter.name}", 1.0)]
    written = json.loads((adapted / "manifest.json").read_text())["source"]["adapters"]
    assert set(written[0]) == {"adapter", "scale", "config_sha256", "weights_sha256"}


def test_without_adapters_the_manifest_says_nothing(base: Path, tmp_path: Path) -> None:
    export_bundle(base, tmp_path / "bundle")
    assert "adapters" not in json.loads((tmp_path / "bundle" / "manifest.json").read_text())["source"]


@pytest.mark.slow
def test_verify_merges_too(
    adapted: Path, base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(shutil.copytree(adapted, tmp_path / "bundle"))
    arguments = ["verify", bundle, str(base), "--max-new-tokens", "4"]
    assert main([*arguments, "--adapter", str(adapter)]) == 0
    assert "passed: 6 of 6 prompts" in capsys.readouterr().out
    for given in ([], ["--adapter", str(adapter), "--adapter-scale", "0.5"]):
        assert main([*arguments, *given]) == 2
        assert "was exported with the adapter" in capsys.readouterr().err


def test_verify_sees_another_adapter(adapted: Path, base: Path, tmp_path: Path) -> None:
    """Of the same name: its bytes tell."""
    other = save_adapter(base, tmp_path / "first", seed=5)
    with pytest.raises(UsageError, match="the same files"):
        verify_bundle(adapted, base, adapters=[other])


@pytest.mark.slow
def test_verify_fails_where_the_adapter_is_not_in(
    base: Path, adapter: Path, adapted: Path, tmp_path: Path
) -> None:
    """The oracle has it: a bundle of the base alone that claims the adapter does not pass."""
    export_bundle(base, tmp_path / "bundle")
    claims = json.loads((adapted / "manifest.json").read_text())["source"]
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text()) | {"source": claims}
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    report = verify_bundle(tmp_path / "bundle", base, adapters=[adapter], max_new_tokens=4).report
    assert not report.summary.passed


def test_scales_on_the_command_line(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--adapter", str(adapter), "--adapter-scale", "0.5", "--adapter", str(adapter)]
    assert main(["export", str(base), str(tmp_path / "bundle"), *given]) == 0
    assert [a.scale for a in load_manifest(tmp_path / "bundle").source.adapters] == [0.5, 1.0]
    capsys.readouterr()
    for wrong in (["--adapter-scale", "2"], [*given[:4], "--adapter-scale", "3"]):
        assert main(["export", str(base), str(tmp_path / "other"), *wrong]) == 2
        assert "has no --adapter before it" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "bundle")]) == 0
    assert f"{adapter.parent.name}/{adapter.name} × 0.5" in capsys.readouterr().out


def test_nothing_is_written_where_an_adapter_does_not_fit(base: Path, adapter: Path, tmp_path: Path) -> None:
    other = FAMILIES["llava-llama-3"](tmp_path / "other")
    with pytest.raises(CheckpointError, match="cannot be merged"):
        export_bundle(other, tmp_path / "bundle", adapters=[Adapter(path=adapter)])
    assert not (tmp_path / "bundle").exists()
    with pytest.raises(ExportError, match="choose"):
        export_bundle(base, adapter / "bundle", adapters=[adapter])
