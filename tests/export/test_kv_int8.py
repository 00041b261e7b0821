"""Keys and values in 8 bits: what the graphs attend to is what integers and steps say, in every kind of layer.

Oracle: our modules in plain torch, whose keys and values are rounded in the same steps; and transformers, within what
8 bits cost. A prompt may be cut anywhere, and a token come alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array

from pumice.errors import UsageError
from pumice.export.clients import genai, transformers_js
from pumice.export.passes.kv_int8 import PRESENT_LENGTH, step_names
from pumice.export.pipeline import export_bundle
from pumice.export.recipes.recipe import Recipe, load_recipe
from pumice.export.weights.heads import pad_heads
from pumice.manifest import load_manifest
from pumice.models import fused
from tests import oracle
from tests.bundle_files import graph_file
from tests.export.test_graphs import Graphs
from tests.factory import Text, make_checkpoint
from tests.factory.families import MINISTRAL_ROPE
from tests.factory.texts import make_text_checkpoint

TOLERANCE = 2e-4
"""Of logits, where all roundings are the same."""
KINDS = {
    "packed": Text(kind="qwen2", layers=3, sliding_window=5, full_layers=2),
    "growing queries": Text(kind="ministral3", head_dim=16, rope_scaling=MINISTRAL_ROPE),
    "qwen3 of narrow heads": None,
    "gemma2": None,
    "exaone4": None,
    "phi": None,
    "smollm3": None,
    "olmo2": None,
}
"""Windows; queries that grow; norms of queries and keys, padded heads; softcap; layers that turn nothing; pairs that
are not turned; a norm over all heads."""
SEEDS = {"smollm3": 1}
"""Of prompts: a number on the edge between two integers falls to either side by its last bit."""


def checkpoint_of(name: str, folder: Path) -> Path:
    text = KINDS[name]
    return make_text_checkpoint(folder, name) if text is None else make_checkpoint(folder, text=text)


def steps_in(bundle: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What the decoder's file has as steps of keys and values, [1, kv_heads, 1, K], by layer."""
    model = onnx.load(graph_file(bundle, "decoder"))
    found = {tensor.name: torch.tensor(to_array(tensor)) for tensor in model.graph.initializer}
    layers = load_manifest(bundle).decoder.layers
    return [(found[keys], found[values]) for keys, values in map(step_names, range(layers))]


def rounded(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """x [B, T, kv_heads, K] as 8 bits have it."""
    steps = step[0, :, 0]
    return (x * (1 / steps)).round().clamp(-128, 127) * steps


@pytest.fixture
def rounding(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Steps that plain torch rounds keys and values with, a layer after the other; to be filled."""
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []
    calls: Iterator[int] = iter(range(1000))
    plain = fused._eager_group_query_attention
    turn = fused._rotate

    def attention(qkv: torch.Tensor, past: torch.Tensor, *given: Any) -> Any:
        if not steps:  # while it is exported
            return plain(qkv, past, *given)
        layer = next(calls) % len(steps)
        cos, sin, heads, kv_heads = given[2], given[3], given[4], given[5]
        B, T, _ = qkv.shape
        width = past.shape[3]
        q, k, v = qkv.view(B, T, -1, width).split((heads, kv_heads, kv_heads), dim=2)
        if cos is not None:
            angles = cos[None, :T, None], sin[None, :T, None]
            q, k = turn(q, *angles), turn(k, *angles)
        k, v = rounded(k, steps[layer][0]), rounded(v, steps[layer][1])
        packed = torch.cat([part.reshape(B, T, -1) for part in (q, k, v)], dim=-1)
        return plain(packed, past, given[0], given[1], None, None, *given[4:])

    monkeypatch.setattr(fused, "_eager_group_query_attention", attention)
    return steps


def read(graphs: Graphs, embeds: np.ndarray, parts: list[int]) -> np.ndarray:
    """Logits of all positions, of a prompt that is read in runs of so many tokens."""
    cache, start, found = graphs.empty_cache(), 0, []
    for count in parts:
        part = embeds[:, start : start + count]
        logits, presents = graphs.decode(part, np.ones((1, start + count)), cache, keep=0)
        length = 1 + start if count == 1 else count
        assert all(p.shape[2] == length and p.dtype == np.int8 for p in presents)
        cache = (
            presents
            if count == 1
            else [np.concatenate(pair, 2) for pair in zip(cache, presents, strict=True)]
        )
        found.append(logits)
        start += count
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("name", KINDS)
def test_attention_is_over_what_integers_say(
    name: str, tmp_path: Path, rounding: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    checkpoint = checkpoint_of(name, tmp_path / "checkpoint")
    manifest = export_bundle(checkpoint, tmp_path / "bundle", kv_cache="int8")
    assert manifest.decoder.kv_dtype == "int8"
    assert manifest.requires.onnxruntime == "1.28.0"
    ours, graphs = oracle.ours(checkpoint, change=pad_heads), Graphs(tmp_path / "bundle")
    ids, pixels = oracle.prompt(ours.config, seed=SEEDS.get(name, 0))
    rounding += steps_in(tmp_path / "bundle")
    with torch.no_grad():
        expected = ours.logits(ids, pixels).numpy()
    embeds, tokens = graphs.embeds(ids, pixels), ids.shape[1]
    assert tokens > 8
    for parts in ([tokens], [5, tokens - 8, 3], [tokens - 3, 1, 1, 1], [1] * tokens):
        assert np.abs(read(graphs, embeds, parts) - expected).max() <= TOLERANCE, parts


def test_rows_of_unequal_lengths(tmp_path: Path) -> None:
    """Prompts padded on the right, then a token of each behind its own."""
    checkpoint = checkpoint_of("packed", tmp_path / "checkpoint")
    export_bundle(checkpoint, tmp_path / "bundle", kv_cache="int8")
    graphs = Graphs(tmp_path / "bundle")
    rng, lengths = np.random.default_rng(0), (11, 4, 7)
    embeds = rng.standard_normal((3, 12, graphs.manifest.decoder.hidden_size)).astype(np.float32)
    mask = np.arange(11) < np.array(lengths)[:, None]
    logits, cache = graphs.decode(embeds[:, :11], mask, graphs.empty_cache(3), keep=1)
    grown = np.concatenate((mask, np.zeros((3, 1))), axis=1)
    grown[range(3), lengths] = 1
    following, _ = graphs.decode(embeds[:, 11:], grown, cache, keep=1)
    for row, length in enumerate(lengths):
        alone = np.concatenate((embeds[row, :length], embeds[row, 11:]))[None]
        expected = read(graphs, alone, [length, 1])[0, -2:]
        found = np.stack((logits[row, -1], following[row, -1]))
        assert np.abs(found - expected).max() <= TOLERANCE


def test_a_float_cache_is_what_it_was(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("packed", tmp_path / "checkpoint")
    for name, kv_cache in (("plain", None), ("float", "float")):
        export_bundle(checkpoint, tmp_path / name, recipe="cpu-fast", kv_cache=kv_cache)  # type: ignore[arg-type]
    plain, asked = (load_manifest(tmp_path / name) for name in ("plain", "float"))
    assert plain == asked
    assert plain.decoder.kv_dtype == "float32"
    assert b"_step" not in graph_file(tmp_path / "plain", "decoder").read_bytes()


def test_what_the_manifest_and_clients_say(tmp_path: Path) -> None:
    """Both graphs declare int8, and share the steps; programs that make another cache get no files."""
    checkpoint = checkpoint_of("packed", tmp_path / "checkpoint")
    manifest = export_bundle(checkpoint, tmp_path / "bundle", recipe="cpu-fast", kv_cache="int8")
    graphs = manifest.graphs
    assert graphs.prefill is not None
    for graph in (graphs.decoder, graphs.prefill):
        caches = [t for t in (*graph.inputs, *graph.outputs) if t.name.startswith(("past_", "present."))]
        assert {tensor.dtype for tensor in caches} == {"int8"}
        assert {t.shape[2] for t in graph.outputs if t.name.startswith("present.")} == {PRESENT_LENGTH}
    assert genai.refusal(manifest) is not None
    assert transformers_js.refusal(manifest) is not None
    assert not (tmp_path / "bundle" / "genai_config.json").exists()
    two = [onnx.load(graph_file(tmp_path / "bundle", name)) for name in ("decoder", "prefill")]
    steps = [
        {t.name: to_array(t).tolist() for t in m.graph.initializer if t.name.endswith(("k_step", "v_step"))}
        for m in two
    ]
    assert steps[0] == steps[1]
    assert len(steps[0]) == 2 * manifest.decoder.layers


@pytest.mark.parametrize("recipe", ["cuda-fp16", "cuda-bf16", "cuda-int4", "web-q4f16"])
def test_narrow_floats_are_refused(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected fp32"):
        export_bundle(tmp_path, tmp_path / "bundle", recipe=recipe, kv_cache="int8")


def test_other_caches_are_refused() -> None:
    with pytest.raises(UsageError, match="kv_cache is 'int4', expected one of float, int8"):
        load_recipe("cpu-int4").with_kv_cache("int4")  # type: ignore[arg-type]
    assert load_recipe("cpu-int4").with_kv_cache(None) == load_recipe("cpu-int4")
    assert Recipe(name="x").with_kv_cache("int8").kv_cache == "int8"
