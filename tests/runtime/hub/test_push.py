"""Bundles are pushed by the real client to a hub of our own: whole in one commit, over a bundle or nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pumice.bundle.folder import open_bundle
from pumice.errors import HubError, UsageError
from pumice.hub import push as pushing
from pumice.hub.location import locate
from pumice.hub.name import HubName
from pumice.hub.push import Pushed, push
from pumice.hub.target import check_target, target_name
from pumice.manifest.card import front_matter, is_own, render
from tests.hub_stand_in import ACCOUNT, Files, Hub

pytestmark = [
    pytest.mark.export_extra,
    # huggingface_hub 2.4 uploads as its HTTP library no longer likes
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]
NAME = HubName(repo="org/pebble")


@pytest.fixture
def bundle(pebble_bundle: Path, tmp_path: Path) -> Path:
    """A copy, with what somebody keeps beside it."""
    folder = Path(shutil.copytree(pebble_bundle, tmp_path / "bundle"))
    (folder / "secret.txt").write_text("mine")
    return folder


def pushed(bundle: Path, name: HubName = NAME, **options: Any) -> Pushed:
    return push(open_bundle(bundle), name, **options)


def refused(bundle: Path, name: HubName = NAME, **options: Any) -> str:
    with pytest.raises(HubError) as caught:
        pushed(bundle, name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def on_hub(hub: Hub, name: str = "org/pebble", branch: str = "main") -> Files:
    repository = hub.repositories[name]
    return repository.commits[repository.branches[branch]]


def writes(hub: Hub) -> list[str]:
    return [line for line in hub.asked if line.startswith(("POST", "PUT"))]


def test_a_bundle_comes_back_as_it_went(hub: Hub, bundle: Path) -> None:
    told: list[str] = []
    found = pushed(bundle, message="Mine", tell=told.append)
    listed = json.loads((bundle / "manifest.json").read_text())["files"]
    assert found.url == f"{hub.address}/org/pebble"
    assert found.nbytes == sum(entry["size"] for entry in listed.values())
    assert told == [f"pushing 11.7 MB in {len(listed)} files to {found.url}"]
    there = on_hub(hub)
    assert there.keys() == listed.keys() | {"manifest.json", "README.md", ".gitattributes"}
    assert all(there[name] == (bundle / name).read_bytes() for name in listed)
    assert "pumice run org/pebble -i" in there["README.md"].decode()
    assert is_own(there["README.md"])
    assert hub.messages == ["Mine"]
    assert not hub.repositories["org/pebble"].private
    assert locate("org/pebble").name == found.commit
    open_bundle(locate("org/pebble"))


def test_a_private_repository_and_a_branch_are_made(hub: Hub, bundle: Path) -> None:
    pushed(bundle, HubName(repo="me/pebble", revision="int4"), private=True)
    assert hub.repositories["me/pebble"].private
    assert "onnx/decoder_model_merged.onnx" in on_hub(hub, "me/pebble", "int4")
    assert on_hub(hub, "me/pebble").keys() == {".gitattributes"}
    assert hub.messages == ["pebble/checkpoint as a bundle of pumice"]


def test_a_bundle_takes_the_place_of_another_and_of_nothing_else(
    hub: Hub, bundle: Path, pebble_bundle_int4: Path
) -> None:
    pushed(bundle)
    repository = hub.repositories["org/pebble"]
    old = json.loads(on_hub(hub)["manifest.json"])
    old["files"]["gone.onnx"] = {"size": 1, "sha256": "0" * 64}
    more = {"manifest.json": json.dumps(old).encode(), "gone.onnx": b"x", "picture.png": b"y"}
    repository.commit(on_hub(hub) | more)
    pushed(pebble_bundle_int4)
    there = on_hub(hub)
    assert "gone.onnx" not in there
    assert there["picture.png"] == b"y"
    assert there["manifest.json"] == (pebble_bundle_int4 / "manifest.json").read_bytes()
    assert front_matter(there["README.md"].decode())["library_name"] == "pumice"
    assert len(repository.commits) == 4, "one more, whole"


def test_pushing_again_uploads_nothing_large(hub: Hub, bundle: Path) -> None:
    pushed(bundle)
    hub.asked.clear()
    pushed(bundle)
    assert not [line for line in hub.asked if line.startswith("PUT")]


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": b"{}", "model.safetensors": b""},
        {"manifest.json": b'{"name": "a web app"}'},
        {"manifest.json": b"[" * 10_000},
        {"data/train.csv": b""},
    ],
    ids=str,
)
def test_a_repository_of_something_else_is_left_alone(hub: Hub, bundle: Path, files: Files) -> None:
    hub.add("org/pebble", files)
    assert f"holds something else than a bundle ({next(iter(files))}" in refused(bundle)
    assert writes(hub) == []


def test_a_repository_made_on_the_page_is_taken(hub: Hub, bundle: Path) -> None:
    card = b"---\nlicense: mit\n---\n"
    hub.add("org/pebble", {".gitattributes": b"", "README.md": card, "LICENSE": b"MIT"})
    told: list[str] = []
    pushed(bundle, tell=told.append)
    assert on_hub(hub)["README.md"] == card
    assert "stays, for somebody has edited it" in told[-1]


def test_whose_card_is_pushed(hub: Hub, bundle: Path) -> None:
    (bundle / "README.md").unlink()
    pushed(bundle)
    manifest = open_bundle(bundle).manifest
    assert on_hub(hub)["README.md"] == render(manifest, "org/pebble")
    (bundle / "README.md").write_text("# Mine")
    pushed(bundle)
    assert on_hub(hub)["README.md"] == b"# Mine"
    (bundle / "README.md").write_bytes(render(manifest))
    pushed(bundle)
    assert on_hub(hub)["README.md"] == b"# Mine", "theirs by now, as one that was edited there"


def test_a_changed_bundle_is_not_pushed(hub: Hub, bundle: Path) -> None:
    (bundle / "tokenizer.json").write_text("{}")
    with pytest.raises(Exception, match=r"tokenizer\.json has 2 bytes"):
        pushed(bundle)
    assert hub.asked == []


def test_whoever_may_not_push(hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "others is neither you nor an organisation of yours (me, org)" in refused(
        bundle, HubName(repo="others/pebble")
    )
    hub.add("others/open", {}, read_only=True)
    assert "the hub refuses (403)" in refused(bundle, HubName(repo="others/open"))
    monkeypatch.setenv("HF_TOKEN", "reads")
    assert "the token of me may only read" in refused(bundle)
    monkeypatch.setenv("HF_TOKEN", "old")
    assert "the hub refuses (401)" in refused(bundle)
    monkeypatch.delenv("HF_TOKEN")
    assert "nobody is logged in to the hub (`hf auth login`, or HF_TOKEN)" in refused(bundle)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(bundle)
    assert writes(hub) == []


def test_private_is_never_public(hub: Hub, bundle: Path) -> None:
    hub.add("org/pebble", {})
    assert "exists and is public" in refused(bundle, private=True)
    assert writes(hub) == []


def test_nothing_is_changed_by_looking(hub: Hub) -> None:
    hub.add("org/pebble", {".gitattributes": b""})
    assert check_target(NAME).head == hub.repositories["org/pebble"].branches["main"]
    assert check_target(HubName(repo="org/pebble", revision="new")).branch_from is not None
    assert check_target(HubName(repo="me/new")).head is None
    assert writes(hub) == []


def test_a_commit_of_somebody_else_in_between_is_told(
    hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed(bundle)

    def interrupted(*arguments: Any) -> Any:
        hub.repositories["org/pebble"].commit({"theirs": b""})
        return operations(*arguments)

    operations = pushing._operations
    monkeypatch.setattr(pushing, "_operations", interrupted)
    assert "412" in refused(bundle)
    assert on_hub(hub) == {"theirs": b""}


def test_files_that_the_repository_ignores_are_missed(hub: Hub, bundle: Path) -> None:
    hub.ignored.add("onnx/decoder_model_merged.onnx_data")
    assert "onnx/decoder_model_merged.onnx_data did not arrive" in refused(bundle)


@pytest.mark.parametrize(
    "text", ["pebble", "a/b/c", "./a/b", "a--b/c", "", "org/pebble.git", "https://hf.co/a/b"]
)
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is no name on the hub"):
        target_name(text)


def test_an_account_is_as_the_client_has_it(hub: Hub) -> None:
    import huggingface_hub

    assert huggingface_hub.HfApi().whoami()["orgs"] == ACCOUNT["orgs"]
