"""Text is answered while the vision encoder is still opened; an image waits for it, and is told if it cannot be.

Oracle: the model that was opened whole.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pumice
from pumice.bundle.folder import open_bundle
from pumice.errors import BundleError
from pumice.prompt.tokenizer import PromptTokenizer
from pumice.sessions import opening
from pumice.sessions.optimize import make
from tests.runtime.test_generation import image


def opening_threads() -> set[threading.Thread]:
    """Those that open a vision encoder; earlier tests' may still do so."""
    return {thread for thread in threading.enumerate() if thread.name == "pumice-open"}


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Vision encoders are opened once it is set."""
    go_on, real = threading.Event(), opening.open_session

    def open_session(bundle: Any, graph: Any, *arguments: Any, **options: Any) -> Any:
        if graph is bundle.manifest.graphs.vision_encoder:
            assert go_on.wait(120)
        return real(bundle, graph, *arguments, **options)

    monkeypatch.setattr(opening, "open_session", open_session)
    return go_on


def test_text_is_answered_before_the_vision_encoder_is_open_and_images_wait(
    pebble_bundle: Path, blocked: threading.Event
) -> None:
    model = pumice.load(pebble_bundle, device="cpu", threads=1)
    text = model.generate("What is a circle?", max_new_tokens=4)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(model.generate, "What is this?", [image(1)], max_new_tokens=4)
        with pytest.raises(TimeoutError):
            asked.result(0.2)
        blocked.set()
        found = asked.result(120)
    with pumice.load(pebble_bundle, device="cpu", threads=1) as whole:
        whole.wait()
        assert whole.generate("What is a circle?", max_new_tokens=4).token_ids == text.token_ids
        assert whole.generate("What is this?", [image(1)], max_new_tokens=4).token_ids == found.token_ids


def test_a_stream_that_waits_for_it_can_be_ended(pebble_bundle: Path, blocked: threading.Event) -> None:
    """An engine's, whose request is cancelled while its image waits."""
    model = pumice.load(pebble_bundle, device="cpu", threads=1)
    with pumice.Engine(model, slots=1) as engine:
        waiting = engine.stream("What is this?", [image(1)], max_new_tokens=4)
        waiting.cancel()
        assert engine.submit("What is a circle?", max_new_tokens=2).result(120).token_ids
        blocked.set()


def test_what_onnxruntime_refuses_of_it_is_told_to_who_sends_an_image(
    pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = opening.open_session

    def open_session(bundle: Any, graph: Any, *arguments: Any, **options: Any) -> Any:
        if graph is bundle.manifest.graphs.vision_encoder:
            raise BundleError("ONNX Runtime refuses it")
        return real(bundle, graph, *arguments, **options)

    monkeypatch.setattr(opening, "open_session", open_session)
    model = pumice.load(pebble_bundle, device="cpu", threads=1)
    assert model.generate("What is a circle?", max_new_tokens=2).token_ids
    for ask in (
        lambda: model.generate("What is this?", [image(1)]),
        lambda: model.encode_image(image(1)),
        lambda: list(model.stream("What is this?", [image(1)])),
        model.wait,
    ):
        with pytest.raises(BundleError, match="ONNX Runtime refuses it"):
            ask()
    with pumice.Engine(model, slots=1) as engine, pytest.raises(BundleError, match="refuses it"):
        engine.submit("What is this?", [image(1)]).result(120)
    model.close()


def test_closing_waits_for_the_thread(pebble_bundle: Path, blocked: threading.Event) -> None:
    before = opening_threads()
    model = pumice.load(pebble_bundle, device="cpu", threads=1)
    (opens,) = opening_threads() - before
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(model.close)
        with pytest.raises(TimeoutError):
            closing.result(0.2)
        blocked.set()
        closing.result(120)
    assert not opens.is_alive()


def test_a_failed_load_leaves_no_thread(
    pebble_bundle: Path, blocked: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        threading.Timer(0.3, blocked.set).start()
        raise BundleError("no tokenizer")

    before = opening_threads()
    monkeypatch.setattr("pumice.loading.PromptTokenizer", refused)
    with pytest.raises(BundleError, match="no tokenizer"):
        pumice.load(pebble_bundle, device="cpu")
    assert opening_threads() <= before


def test_a_copy_whose_vision_encoder_is_refused_is_passed_over(
    pebble_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The decoder is of the copy, the vision encoder of the bundle, which is digested whole."""
    monkeypatch.setenv("PUMICE_CACHE_DIR", str(tmp_path / "cache"))
    bundle = Path(shutil.copytree(pebble_bundle, tmp_path / "bundle")).resolve()
    copy = make(open_bundle(bundle))
    real, opened = opening.open_session, []

    def open_session(bundle: Any, graph: Any, *arguments: Any, **options: Any) -> Any:
        path = options.get("path")
        if graph is bundle.manifest.graphs.vision_encoder and path is not None:
            raise BundleError("packed otherwise")
        opened.append(path and os.fspath(path))
        return real(bundle, graph, *arguments, **options)

    monkeypatch.setattr(opening, "open_session", open_session)
    model = pumice.load(bundle, device="cpu")
    model.wait()
    assert f"the copy in {copy.folder} is not used: packed otherwise" in caplog.text
    assert sorted(str(path).startswith(str(copy.folder)) for path in opened) == [False, False, True]
    assert model.generate("What is this?", [image(1)], max_new_tokens=2).token_ids


def test_graphs_are_being_opened_while_the_tokenizer_is_read(
    pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a tokenizer keeps Python's lock: what has not begun by then would wait."""
    begun: list[int] = []
    seen: list[int] = []

    class Noted(threading.Semaphore):
        def release(self, n: int = 1) -> None:
            time.sleep(0.1)  # time for a tokenizer that does not wait
            begun.append(n)
            super().release(n)

    def tokenizer(*arguments: Any, **options: Any) -> Any:
        seen.append(len(begun))
        return PromptTokenizer(*arguments, **options)

    monkeypatch.setattr(opening, "threading", SimpleNamespace(Semaphore=Noted, Event=threading.Event))
    monkeypatch.setattr("pumice.loading.PromptTokenizer", tokenizer)
    pumice.load(pebble_bundle, device="cpu", threads=2)
    assert seen == [2]


def test_memory_of_packing_is_given_back_once_all_graphs_are_open(
    pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the decoder takes longest."""
    for thread in threading.enumerate():  # of models that other tests loaded: they give memory back, too
        if thread.name == "pumice-open":
            thread.join()
    real, vision_is_open = opening.open_session, threading.Event()
    done: list[str] = []

    def open_session(bundle: Any, graph: Any, *arguments: Any, **options: Any) -> Any:
        graphs = bundle.manifest.graphs
        if graph is graphs.decoder:
            assert vision_is_open.wait(120)
            time.sleep(0.1)  # time for giving it back too early
        session = real(bundle, graph, *arguments, **options)
        done.append(graph.file)
        if graph is graphs.vision_encoder:
            vision_is_open.set()
        return session

    monkeypatch.setattr(opening, "open_session", open_session)
    monkeypatch.setattr(opening, "trim", lambda: done.append("trimmed"))
    pumice.load(pebble_bundle, device="cpu", threads=2).wait()
    assert len(done) == 4
    assert done[-1] == "trimmed"
