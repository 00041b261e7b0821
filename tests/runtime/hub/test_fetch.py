"""Bundles on the hub are fetched by the real client from a hub of our own: what comes, and what never does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pumice
from pumice.errors import BundleError, HubError, UsageError
from pumice.hub import client, fetch
from pumice.hub.location import locate
from pumice.hub.name import hub_name
from pumice.ray import BatchGenerator
from tests.hub_stand_in import Files, Hub, Repository, files_of

pytestmark = pytest.mark.export_extra
QUESTION = "What is this?"


@pytest.fixture
def files(pebble_bundle: Path) -> Files:
    return files_of(pebble_bundle)


@pytest.fixture
def pebble(hub: Hub, files: Files) -> Repository:
    """With what else may lie in a repository."""
    more = {
        ".gitattributes": b"",
        "README.md": b"# Ours",
        "model.safetensors": bytes(50_000),
        "a/notes.txt": b"x",
    }
    return hub.add("org/pebble", files | more)


def refused(*arguments: Any, error: type[BaseException] = HubError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        locate(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_bundle_on_the_hub_answers_as_the_local_one_does(
    hub: Hub, pebble: Repository, files: Files, pebble_bundle: Path
) -> None:
    here = pumice.load(pebble_bundle, device="cpu").generate(QUESTION, max_new_tokens=3)
    model = pumice.load("org/pebble", device="cpu")
    assert model.generate(QUESTION, max_new_tokens=3).token_ids == here.token_ids
    listed = json.loads(files["manifest.json"])["files"].keys() | {"manifest.json"}
    assert sorted(hub.fetched()) == sorted(listed)
    hub.asked.clear()
    pumice.load("org/pebble", device="cpu")
    assert {line.partition(" /org")[0] for line in hub.asked} == {"HEAD"}, "the branch's commit is asked for"
    hub.asked.clear()
    generator = BatchGenerator(
        "org/pebble", revision=pebble.branches["main"], prompt=QUESTION, max_new_tokens=3
    )
    assert generator({"id": ["a"]})["text"][0] == here.text
    assert hub.asked == [], "a commit is what it is"


def test_what_is_cached_needs_no_network(
    hub: Hub, pebble: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = locate("org/pebble")
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert locate("org/pebble") == folder
    assert hub.asked == []
    (folder / "tokenizer.json").unlink()
    assert "HF_HUB_OFFLINE is set" in refused("org/pebble")
    assert "HF_HUB_OFFLINE is set" in refused("org/other")


def test_revisions(hub: Hub, pebble: Repository, files: Files) -> None:
    first = pebble.branches["main"]
    second = pebble.commit(files | {"more": b""}, "of/mine")
    assert first != second
    assert locate("org/pebble").name == first
    for name, revision in (
        ("org/pebble@of/mine", None),
        ("org/pebble", "of/mine"),
        (f"org/pebble@{second}", None),
    ):
        assert locate(name, revision).name == second
    assert "no revision 'other'" in refused("org/pebble@other")
    assert "got the revision 'a' and another" in refused("org/pebble@b", "a", error=UsageError)


@pytest.mark.parametrize(
    "revision", ["", "..", "../../x", "a/../b", "/a", "a//b", "a b", "a\0", "-x", "a/", "x" * 300]
)
def test_texts_that_are_no_revisions(revision: str) -> None:
    with pytest.raises(UsageError, match="is no revision"):
        hub_name("org/pebble", revision)


def test_a_folder_that_is_there_wins(
    hub: Hub, pebble: Repository, pebble_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pebble_bundle, tmp_path / "org" / "pebble")
    assert locate("org/pebble") == tmp_path / "org" / "pebble"
    assert "which is a folder here" in refused("org/pebble", "main", error=UsageError)
    assert locate(Path("org/other")) == tmp_path / "org" / "other", "a path is a path"
    assert locate("./org/other") == tmp_path / "org" / "other"
    assert "no name on the hub" in refused("./org/other", "main", error=UsageError)
    assert hub.asked == []
    with pytest.raises(BundleError, match="no bundle at"):
        pumice.load("./org/other")


def test_the_manifest_alone(hub: Hub, pebble: Repository) -> None:
    folder = locate("org/pebble", whole=False)
    assert hub.fetched() == ["manifest.json"]
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_sizes_are_told_and_options_checked_before_anything_large_comes(hub: Hub, pebble: Repository) -> None:
    def refuse(_: Path) -> None:
        raise UsageError("no")

    with pytest.raises(UsageError, match="no"):
        locate("org/pebble", check=refuse)
    assert hub.fetched() == ["manifest.json"]
    told: list[tuple[str, list[str]]] = []
    locate("org/pebble", tell=lambda line: told.append((line, hub.fetched())))
    ((line, before),) = told
    assert before == ["manifest.json"]
    assert (
        f"fetching org/pebble at {pebble.branches['main'][:7]}: 11.7 MB in 17 files, of 11.7 MB in 17" in line
    )
    locate("org/pebble", tell=lambda line: pytest.fail(line))


def test_what_another_commit_has_brought_is_not_fetched_again(
    hub: Hub, pebble: Repository, files: Files
) -> None:
    locate("org/pebble")
    pebble.commit(files | {"README.md": b"# Another"})
    told: list[str] = []
    hub.asked.clear()
    locate("org/pebble", tell=told.append)
    assert "0.0 MB in 0 files" in told[0]
    assert hub.fetched() == []


Change = Callable[[dict[str, Any]], object]


def changed(files: Files, change: Change) -> Files:
    manifest = json.loads(files["manifest.json"])
    change(manifest)
    return files | {"manifest.json": json.dumps(manifest).encode()}


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/hostname", "a/../../outside", "a\\b", "", ".", "C:x", "a//b", "manifest.json"],
)
def test_hostile_names_are_refused_before_anything_is_fetched(hub: Hub, files: Files, name: str) -> None:
    entry = {"size": 1, "sha256": "0" * 64}
    hub.add("org/pebble", changed(files, lambda m: m["files"].update({name: entry})) | {"outside": b"x"})
    assert "expected plain paths" in refused("org/pebble", error=BundleError)
    assert hub.fetched() == ["manifest.json"]


@pytest.mark.parametrize("name", ["*", "?odel.safetensors", "[m]odel.safetensors", "**", "[!x]*"])
def test_names_are_names_and_no_patterns(
    hub: Hub, files: Files, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = changed(files, lambda m: m["files"].update({name: {"size": 1, "sha256": "0" * 64}}))
    hub.add("org/pebble", manifest | {"model.safetensors": b"x"})
    assert "not pushed whole" in refused("org/pebble")
    monkeypatch.setattr(fetch, "_check_sizes", lambda *_: "")
    assert "is not in" in refused("org/pebble")
    assert "model.safetensors" not in hub.fetched()


def test_files_with_letters_of_patterns_come(hub: Hub, files: Files) -> None:
    name = "a[1]*?.txt"
    manifest = changed(files, lambda m: m["files"].update({name: {"size": 1, "sha256": "0" * 64}}))
    hub.add("org/pebble", manifest | {name: b"x", "a1.txt": b"y"})
    assert (locate("org/pebble") / name).read_bytes() == b"x"


def test_repositories_that_are_not_whole(hub: Hub, files: Files) -> None:
    hub.add(
        "org/pebble",
        {name: data for name, data in files.items() if name != "onnx/decoder_model_merged.onnx_data"},
    )
    assert (
        "lists onnx/decoder_model_merged.onnx_data with 7,114,752 bytes, the repository lacks it"
        in refused("org/pebble")
    )
    hub.add(
        "org/other",
        files | {"onnx/decoder_model_merged.onnx_data": files["onnx/decoder_model_merged.onnx_data"] + b"x"},
    )
    assert "has 7,114,753" in refused("org/other")
    assert hub.fetched() == ["manifest.json"] * 2


def test_a_changed_byte_is_found_when_it_is_opened(hub: Hub, files: Files) -> None:
    data = files["onnx/decoder_model_merged.onnx_data"]
    hub.add("org/pebble", files | {"onnx/decoder_model_merged.onnx_data": data[:-1] + bytes([data[-1] ^ 1])})
    with pytest.raises(BundleError, match=r"decoder_model_merged\.onnx_data was changed"):
        pumice.load("org/pebble", device="cpu")


def test_a_huge_manifest_is_not_fetched(hub: Hub, pebble: Repository) -> None:
    hub.sizes["manifest.json"] = 10**12
    assert "larger than 67,108,864 bytes" in refused("org/pebble")
    assert hub.fetched() == []


def test_a_full_disk_is_told_before(hub: Hub, pebble: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    assert "it needs 11,7" in refused("org/pebble")
    assert hub.fetched() == ["manifest.json"]


def test_what_is_no_bundle(hub: Hub) -> None:
    hub.add("org/other", {"config.json": b"{}", "model.safetensors": b""})
    assert "is not a bundle (no manifest.json)" in refused("org/other")
    hub.add("org/app", {"manifest.json": b'{"name": "a web app"}'})
    assert "does not describe a bundle" in refused("org/app", error=BundleError)


def test_whoever_may_not_see_it(hub: Hub, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/private", files, private=True)
    hub.add("org/gated", files, gated=True)
    assert "neither a folder here nor a model on the hub that you may see" in refused("org/nowhere")
    assert locate("org/private", whole=False).is_dir()
    assert "is gated: accept its terms at http://127.0.0.1" in refused("org/gated")
    monkeypatch.delenv("HF_TOKEN")
    hub.add("org/hidden", files, private=True)
    assert "(a private one needs `hf auth login`, or HF_TOKEN)" in refused("org/hidden")


def test_a_hub_that_cannot_be_reached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "http://127.0.0.1:9"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert (
        "neither a folder here nor whole in the hub's cache, and http://127.0.0.1:9 cannot be reached"
        in refused("org/pebble")
    )


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert refused("org/pebble", error=UsageError).startswith(
        "the hub needs an extra: pip install 'pumice[hub]'"
    )
    assert client.hub_client.__doc__
