"""Bundles of structures that were kept: the same bytes, without tracing, and without what only tracing needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pumice.cli.main import main
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from pumice.export.structure import kept, structure
from pumice.export.structure.structure import structure_of
from pumice.export.structure.wanted import Wanted, key_of, wanted
from tests.factory import FAMILIES

SECOND_EXPORT = """
import sys
from pumice.cli.main import main
code = main(["export", sys.argv[1], sys.argv[2], "--recipe", sys.argv[3], "--quiet"])
tracing = ("onnxscript", "onnxsim", "torch.onnx._internal.exporter._core", "pumice.export.trace.tracing")
assert not code
print(*[name for name in tracing if name in sys.modules])
"""
WITH = [
    ("llava-interleave", "cpu-fast"),
    ("llava-next-video", "cpu-int4"),
    pytest.param("pixtral", "portable-fp32", marks=pytest.mark.slow),
    pytest.param("ministral-3", "cuda-fp16", marks=pytest.mark.slow),
    pytest.param("vip-llava", "cuda-bf16", marks=pytest.mark.slow),
    pytest.param("llava-onevision", "cpu-w8a8", marks=pytest.mark.slow),
    pytest.param("granite-vision", "web-q4f16", marks=pytest.mark.slow),
    pytest.param("mistral-small", "cpu-fast", marks=pytest.mark.slow),
]
"""Families and recipes."""


def contents(bundle: Path) -> dict[str, bytes]:
    return {str(path.relative_to(bundle)): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def never(_: Wanted) -> None:
    pytest.fail("traced")


@pytest.mark.parametrize(("family", "recipe"), WITH)
def test_bundles_are_the_same_with_and_without(
    family: str, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte: traced without the cache; traced and kept, or found; found for sure."""
    checkpoint = FAMILIES[family](tmp_path / "checkpoint")
    export_bundle(checkpoint, tmp_path / "traced", recipe=recipe, graph_cache=False)
    export_bundle(checkpoint, tmp_path / "kept", recipe=recipe)
    monkeypatch.setattr(structure, "_traced", never)
    export_bundle(checkpoint, tmp_path / "found", recipe=recipe)
    assert contents(tmp_path / "traced") == contents(tmp_path / "kept") == contents(tmp_path / "found")


@pytest.mark.parametrize("recipe", ["portable-fp32", "cpu-int4"])
def test_a_second_export_loads_nothing_that_traces(
    recipe: str, pebble_checkpoint: Path, tmp_path: Path
) -> None:
    export_bundle(pebble_checkpoint, tmp_path / "first", recipe=recipe)
    command = [sys.executable, "-c", SECOND_EXPORT, str(pebble_checkpoint), str(tmp_path / "second"), recipe]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "\n"
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_the_command_line_can_do_without(
    pebble_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It neither reads the cache nor writes to it."""
    for name in ("find", "keep"):
        monkeypatch.setattr(structure, name, lambda _: pytest.fail("the cache was asked"))
    command = ["export", str(pebble_checkpoint), str(tmp_path / "bundle"), "--no-graph-cache", "--quiet"]
    assert main(command) == 0


def test_a_damaged_entry_is_traced_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUMICE_CACHE_DIR", str(tmp_path / "cache"))
    checkpoint = FAMILIES["llava-1.5"](tmp_path / "checkpoint")
    asked = wanted("embedding", read_config(open_checkpoint(checkpoint).config), torch.float32)
    first, second = structure_of(asked), structure_of(asked)
    assert (first.found, second.found) == (False, True)
    [file] = (tmp_path / "cache" / "graphs").iterdir()
    assert file.name == f"{key_of(asked)}.graph"
    sound = file.read_bytes()
    file.write_bytes(sound[:-1])
    third = structure_of(asked)
    assert not third.found
    assert file.read_bytes() == sound
    assert first.inputs == second.inputs == third.inputs
    assert first.counts == second.counts == third.counts


def test_a_failed_trace_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_write", lambda *_: pytest.fail("kept"))

    def give_up(_: Wanted) -> None:
        raise InterruptedError

    monkeypatch.setenv("PUMICE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(structure, "_traced", give_up)
    checkpoint = FAMILIES["llava-1.5"](tmp_path / "checkpoint")
    with pytest.raises(InterruptedError):
        structure_of(wanted("embedding", read_config(open_checkpoint(checkpoint).config), torch.float32))
