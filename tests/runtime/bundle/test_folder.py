import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pumice
from pumice.bundle.folder import open_bundle
from pumice.errors import BundleError, SchemaVersionError
from tests.bundle_files import data_file, graph_file


@pytest.fixture
def bundle(pebble_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(pebble_bundle, tmp_path / "bundle"))


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def replace_file(bundle: Path, name: str, data: bytes) -> None:
    """Change a file, and the manifest with it: as somebody would who means harm."""
    (bundle / name).write_bytes(data)
    entry = {"size": len(data), "sha256": sha256(data).hexdigest()}
    rewrite(bundle, lambda manifest: manifest["files"].update({name: entry}))


def refused(bundle: Path) -> str:
    with pytest.raises(BundleError) as error:
        pumice.load(bundle, device="cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_sound_bundle_opens(pebble_bundle: Path) -> None:
    assert open_bundle(pebble_bundle).manifest.schema_version == 1
    assert open_bundle(str(pebble_bundle)).folder == pebble_bundle.resolve()


def test_a_changed_byte_in_any_file_is_found(bundle: Path) -> None:
    for name in json.loads((bundle / "manifest.json").read_text())["files"]:
        data = (bundle / name).read_bytes()
        if not data:
            continue
        middle = len(data) // 2
        (bundle / name).write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        assert f"{name} was changed" in refused(bundle)
        (bundle / name).write_bytes(data)
    open_bundle(bundle)


def test_a_missing_a_shorter_and_a_longer_file_are_found(bundle: Path) -> None:
    file = data_file(bundle, "decoder")
    data = file.read_bytes()
    for spoiled, message in [(data[:-1], "its manifest says"), (data + b"x", "its manifest says")]:
        file.write_bytes(spoiled)
        assert message in refused(bundle)
    file.unlink()
    assert f"{file} is missing" in refused(bundle)
    file.mkdir()
    assert "is not a file" in refused(bundle)


def test_no_folder_no_manifest_and_a_broken_one_are_refused(tmp_path: Path) -> None:
    assert "no bundle at" in refused(tmp_path / "missing")
    assert "not a pumice bundle" in refused(tmp_path)
    for text in ["", "{", "[]", "null", "{}", '{"schema_version": 1}', "\xff", "[" * 100_000]:
        (tmp_path / "manifest.json").write_text(text, "latin-1")
        refused(tmp_path)


def test_a_newer_schema_is_refused(bundle: Path) -> None:
    rewrite(bundle, lambda manifest: manifest.update(schema_version=4, graphs="something new"))
    with pytest.raises(SchemaVersionError, match="upgrade pumice"):
        pumice.load(bundle)


def test_a_newer_onnxruntime_is_asked_for(bundle: Path) -> None:
    rewrite(bundle, lambda manifest: manifest["requires"].update(onnxruntime="99.1.0"))
    assert "needs onnxruntime 99.1.0" in refused(bundle)


@pytest.mark.parametrize(
    ("version", "zero_point", "unsigned", "opens"),
    [
        ("1.29.1", False, True, False),
        ("1.29.1", False, False, True),
        ("1.29.1", True, True, True),
        ("1.30.0", False, True, True),
    ],
)
def test_products_that_would_end_the_process_are_refused_before_a_session(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    zero_point: bool,
    unsigned: bool,
    opens: bool,
) -> None:
    """Bundles of earlier versions hold them, and promise onnxruntime 1.23."""
    file = graph_file(bundle, "vision_encoder")
    graph = onnx.load(file, load_external_data=False)
    inputs = ["a", "b", "s", "t", "", *(["z"] if zero_point else [])]
    graph.graph.node.append(
        onnx.helper.make_node("MatMulIntegerToFloat", inputs, ["y"], domain="com.microsoft")
    )
    replace_file(bundle, str(file.relative_to(bundle)), graph.SerializeToString())
    monkeypatch.setattr("onnxruntime.__version__", version)
    monkeypatch.setattr("pumice.bundle.folder.saturates", lambda: unsigned)
    if opens:
        open_bundle(bundle)
        return
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("a session was made"))
    told = refused(bundle)
    assert "needs onnxruntime 1.30.0 or newer on this processor" in told
    assert "installed is 1.29.1" in told


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "a/../../outside", "a\\b", "", ".", "C:x", "a//b"]
)
def test_names_that_leave_the_bundle_are_refused(bundle: Path, name: str) -> None:
    (bundle.parent / "outside").write_bytes(b"secret")
    rewrite(bundle, lambda manifest: manifest["files"].update({name: {"size": 6, "sha256": "0" * 64}}))
    refused(bundle)


def test_links_that_leave_the_bundle_are_refused(bundle: Path) -> None:
    outside = bundle.parent / "outside"
    shutil.move(bundle / "tokenizer.json", outside)
    (bundle / "tokenizer.json").symlink_to(outside)
    assert "is a link that leaves the bundle" in refused(bundle)


def test_a_link_to_itself_is_refused(bundle: Path) -> None:
    (bundle / "tokenizer.json").unlink()
    (bundle / "tokenizer.json").symlink_to("tokenizer.json")
    refused(bundle)


def test_a_hugging_face_cache_opens(pebble_bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "models--org--pebble"
    snapshot = root / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    for file in (path for path in pebble_bundle.rglob("*") if path.is_file()):
        blob = root / "blobs" / sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        place = snapshot / file.relative_to(pebble_bundle)
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(os.path.relpath(blob, place.parent))
    model = pumice.load(snapshot, device="cpu")
    assert model.generate("What is this?", max_new_tokens=1).token_ids


def test_a_cache_that_links_elsewhere_is_refused(bundle: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--pebble" / "snapshots" / "0123abc"
    snapshot.parent.mkdir(parents=True)
    shutil.move(bundle, snapshot)
    shutil.move(snapshot / "tokenizer.json", tmp_path / "outside")
    (snapshot / "tokenizer.json").symlink_to(tmp_path / "outside")
    assert "leaves the bundle" in refused(snapshot)


@pytest.mark.parametrize(
    "location",
    [
        "../outside",
        "/etc/hostname",
        "tokenizer.json",
        "*/_ORT_MEM_ADDR_/*",
        "./decoder_model_merged.onnx_data",
        "missing",
    ],
)
def test_graphs_that_read_other_files_are_refused_before_a_session(
    bundle: Path, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle.parent / "outside").write_bytes(bytes(1_000_000))
    file = graph_file(bundle, "decoder")
    graph = onnx.load(file, load_external_data=False)
    tensor = next(t for t in graph.graph.initializer if t.external_data)
    next(e for e in tensor.external_data if e.key == "location").value = location
    replace_file(bundle, str(file.relative_to(bundle)), graph.SerializeToString())
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("a session was made"))
    assert "is not among its external data files" in refused(bundle)


def test_graphs_that_read_beyond_their_files_are_refused(bundle: Path) -> None:
    file = graph_file(bundle, "decoder")
    graph = onnx.load(file, load_external_data=False)
    tensor = next(t for t in graph.graph.initializer if t.external_data)
    next(e for e in tensor.external_data if e.key == "length").value = str(10**12)
    replace_file(bundle, str(file.relative_to(bundle)), graph.SerializeToString())
    assert "reads up to byte" in refused(bundle)


@pytest.mark.parametrize("name", ["vision_encoder", "embedding", "decoder", "tokenizer"])
@pytest.mark.parametrize("data", [b"", b"garbage", b"{}", b"[]", b"\xff\xfe"])
def test_other_contents_with_a_fitting_manifest_are_refused(bundle: Path, name: str, data: bytes) -> None:
    file = bundle / "tokenizer.json" if name == "tokenizer" else graph_file(bundle, name)
    replace_file(bundle, str(file.relative_to(bundle)), data)
    refused(bundle)


def test_a_truncated_graph_with_a_fitting_manifest_is_refused(bundle: Path) -> None:
    file = graph_file(bundle, "embedding")
    data = file.read_bytes()
    for length in range(1, len(data), len(data) // 40):
        replace_file(bundle, str(file.relative_to(bundle)), data[:length])
        refused(bundle)


def test_another_graph_in_a_graphs_place_is_refused(bundle: Path) -> None:
    file, other = graph_file(bundle, "embedding"), graph_file(bundle, "vision_encoder")
    replace_file(bundle, str(file.relative_to(bundle)), other.read_bytes())
    refused(bundle)


def test_a_chat_template_that_is_not_text_is_refused(bundle: Path) -> None:
    replace_file(bundle, "chat_template.jinja", b"\xff\xfe\xfd")
    assert "not UTF-8" in refused(bundle)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_manifest_is_refused_or_changes_nothing_that_matters(
    pebble_bundle: Path, data: st.DataObject
) -> None:
    from pumice.manifest import decode_manifest

    text = bytearray((pebble_bundle / "manifest.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_manifest(bytes(text), "manifest.json")
    except BundleError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
