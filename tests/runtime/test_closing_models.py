"""A closed model keeps nothing: neither graphs nor caches, nor a process."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from pumice.engine import Engine
from pumice.errors import EngineClosedError, UsageError
from pumice.loading import load

PATIENCE = 300.0
IMAGE = Path(__file__).parents[2] / "pebble" / "heldout" / "stop-sign.png"
PLACES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]


def test_a_closed_model_lets_go_of_everything(pebble_bundle: Path) -> None:
    """Without a garbage collection: what is large hangs in no cycle."""
    model = load(pebble_bundle, device="cpu", threads=1)
    engine = Engine(model, slots=2)
    expected = engine.submit(PLACES, [IMAGE], max_new_tokens=5).result(PATIENCE).text
    pipeline = model.pipeline
    parts = [pipeline, pipeline.decoder, pipeline.decoder.sessions, pipeline.encoder, pipeline.builder,
             pipeline.tokenizer, pipeline.prefixes, pipeline.strategies]  # fmt: skip
    kept = [weakref.ref(part) for part in parts]
    del pipeline, parts
    gc.disable()
    try:
        engine.close()
        model.close()
        model.close()
        assert [ref() for ref in kept] == [None] * len(kept)
    finally:
        gc.enable()
    assert model.manifest.decoder.layers
    with pytest.raises(UsageError, match=r"the model is closed: load it again, by pumice\.load\('"):
        model.generate("Hi")
    with pytest.raises(EngineClosedError, match="the engine is closed"):
        engine.submit("Hi")
    with load(pebble_bundle, device="cpu", threads=1) as again:
        assert again.generate(PLACES, [IMAGE], max_new_tokens=5).text == expected
    with pytest.raises(UsageError, match="the model is closed"):
        again.chat()


def test_what_was_made_of_a_model_works_on(pebble_bundle: Path) -> None:
    model = load(pebble_bundle, device="cpu", threads=1)
    expected = model.generate("Hi", max_new_tokens=3).text
    chat, engine = model.chat(max_new_tokens=3), Engine(model, slots=1)
    model.close()
    with engine:
        assert engine.submit("Hi", max_new_tokens=3).result(PATIENCE).text == expected
    assert chat.send("Hi").text == expected
