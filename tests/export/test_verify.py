"""`pumice verify`: passes on a true bundle, fails on one that says something else, and stores what it found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pumice.cli.main import main
from pumice.errors import CheckpointError
from pumice.export.bundle import file_entries, write_manifest
from pumice.export.export import export_bundle
from pumice.export.parity import GraphError, LogitError
from pumice.export.verify import verify_bundle
from pumice.manifest import load_manifest
from tests.factory import make_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("made")
    checkpoint = make_checkpoint(folder / "checkpoint")
    export_bundle(checkpoint, folder / "bundle")
    return checkpoint, folder / "bundle"


@pytest.fixture
def copied(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    return made[0], Path(shutil.copytree(made[1], tmp_path / "bundle"))


def test_true_bundle_passes_and_remembers(
    copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, bundle = copied
    assert main(["verify", str(bundle), str(checkpoint), "--max-new-tokens", "8"]) == 0
    shown = capsys.readouterr().out
    assert "passed: 6 of 6 prompts" in shown
    report = json.loads((bundle / "parity.json").read_text())
    assert report["summary"]["logits_max"] <= 2e-4
    assert len(report["cases"]) == 6
    assert "passed" in (bundle / "PARITY.md").read_text()
    manifest = load_manifest(bundle)
    assert manifest.parity == report["summary"]
    assert manifest.files == file_entries(bundle)


def test_own_question_and_json(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, bundle = copied
    picture = Path(__file__).parents[2] / "pebble" / "heldout" / "stop-sign.png"
    arguments = ["verify", str(bundle), str(checkpoint), "--prompt", "What is it?", "-i", str(picture)]
    assert main([*arguments, "--max-new-tokens", "4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [case["images"] for case in report["cases"]] == [1]


def test_changed_weights_fail(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The check can fail: a bundle of other weights, whole in every other respect."""
    checkpoint, bundle = copied
    data = np.fromfile(bundle / "decoder.onnx_data", np.float32)
    (data * np.float32(1.01)).tofile(bundle / "decoder.onnx_data")
    manifest = load_manifest(bundle)
    manifest.files.update(file_entries(bundle))
    write_manifest(bundle, manifest)
    assert main(["verify", str(bundle), str(checkpoint), "--max-new-tokens", "4"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_missing_checkpoint(copied: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint|cannot load"):
        verify_bundle(copied[1], tmp_path / "none")


def test_figures() -> None:
    theirs = np.array([[[0.0, 2.0], [3.0, 0.0]]], np.float32)
    ours = np.array([[[0.0, 2.5], [0.0, 1.0]]], np.float32)
    error = LogitError.of(ours, theirs)
    assert error.max == 3.0
    assert error.mean == pytest.approx(4.5 / 4)
    assert error.top1 == 0.5
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (theirs, ours))
    assert error.kl == pytest.approx((p * np.log(p / q)).sum(-1).mean())
    assert GraphError.of(theirs, theirs) == GraphError(max=0.0, mean=0.0, spread=float(theirs.std()))
