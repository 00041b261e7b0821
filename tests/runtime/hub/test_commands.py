"""The commands: what they fetch and push, and what they say; two told of the hub by environment variables alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pumice.cli.main import main
from tests.hub_stand_in import Hub, files_of, serving

pytestmark = [
    pytest.mark.export_extra,
    # huggingface_hub 2.4 uploads as its HTTP library no longer likes
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]
ROOT = Path(__file__).parents[3]
IMAGE = ROOT / "pebble" / "heldout" / "stop-sign.png"

Pumice = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def own_hub() -> Iterator[Hub]:
    with serving() as served:
        yield served


@pytest.fixture
def command(own_hub: Hub, tmp_path: Path) -> Pumice:
    """A process that knows of the hub as users do: HF_ENDPOINT, HF_TOKEN, HF_HOME."""
    given = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE"))}
    given |= {"HF_ENDPOINT": own_hub.address, "HF_TOKEN": "writes", "HF_HUB_DISABLE_XET": "1"}
    given |= {"HF_HOME": str(tmp_path / "home")}

    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "pumice", *map(str, arguments)]
        return subprocess.run(words, env=given | more, cwd=tmp_path, capture_output=True, text=True)

    return run


def test_pushed_and_run_by_name(own_hub: Hub, command: Pumice, pebble_bundle: Path) -> None:
    pushed = command("push", pebble_bundle, "org/pebble", "--json")
    assert pushed.returncode == 0, pushed.stderr
    commit = json.loads(pushed.stdout)["commit"]
    assert pushed.stderr == f"pumice: pushing 11.7 MB in 17 files to {own_hub.address}/org/pebble\n"
    ran = command("run", f"org/pebble@{commit}", "-i", IMAGE, "What is this?", "--max-new-tokens", "4")
    here = command("run", pebble_bundle, "-i", IMAGE, "What is this?", "--max-new-tokens", "4")
    assert (ran.returncode, ran.stdout) == (0, here.stdout)
    assert (
        ran.stderr == f"pumice: fetching org/pebble at {commit[:7]}: 11.7 MB in 17 files, of 11.7 MB in 17\n"
    )
    offline = command("run", f"org/pebble@{commit}", "Hi", "--max-new-tokens", "1", HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stderr) == (0, "")


def test_what_is_wrong_is_told_in_one_line(
    own_hub: Hub, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["run", "org/nowhere", "Hi"],
        ["info", "org/nowhere"],
        ["push", "nowhere", "org/pebble"],
        ["batch", "org/nowhere", str(IMAGE), "-o", "x.jsonl", "--prompt", "Hi"],
    ):
        assert main(words) == 1
        error = capsys.readouterr().err
        assert error.startswith("pumice: error: ")
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "fetched"),
    [
        (["info", "org/pebble", "--plan"], 1),
        (["info", "org/pebble", "-q"], 18),
        (["run", "org/pebble", "Hi", "--temperature", "-1"], 1),
        (["run", "org/pebble", "Hi", "-i", "nowhere.png"], 1),
        (["batch", "org/pebble", "x.jsonl", "-o", "y.jsonl", "--top-k", "-1"], 1),
    ],
    ids=str,
)
def test_no_more_is_fetched_than_is_needed(
    hub: Hub, pebble_bundle: Path, words: list[str], fetched: int
) -> None:
    hub.add("org/pebble", files_of(pebble_bundle))
    assert main(words) == (0 if words[0] == "info" else 1 if "nowhere.png" in words else 2)
    assert len(hub.fetched()) == fetched


def test_an_export_that_could_not_be_pushed_is_not_begun(
    hub: Hub,
    pebble_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["export", str(pebble_checkpoint), str(tmp_path / "bundle"), "-q"]
    monkeypatch.setattr("pumice.export.pipeline.export_bundle", lambda *_, **__: pytest.fail("begun"))
    for more, told in (
        (["--push", "others/pebble"], "neither you nor an organisation of yours"),
        (["--push", "pebble"], "is no name on the hub"),
        (["--private"], "--private is for --push"),
    ):
        assert main([*words, *more]) in (1, 2)
        assert told in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    assert main([*words, "--push", "org/pebble"]) == 1
    assert "nobody is logged in" in capsys.readouterr().err


def test_an_export_is_pushed(
    hub: Hub, pebble_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    words = ["export", str(pebble_checkpoint), str(bundle), "--precision", "int4", "--overwrite"]
    assert main([*words, "--push", "me/pebble@int4", "--private"]) == 0
    assert f"{hub.address}/me/pebble: " in capsys.readouterr().out
    repository = hub.repositories["me/pebble"]
    assert repository.private
    files = repository.commits[repository.branches["int4"]]
    assert files["manifest.json"] == (bundle / "manifest.json").read_bytes()


def test_an_export_stays_where_pushing_fails(
    hub: Hub,
    pebble_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The hub takes the namespace away while the export runs."""
    bundle = tmp_path / "bundle"

    def export(*_: object, **__: object) -> object:
        from pumice.manifest import load_manifest

        shutil.copytree(pebble_bundle, bundle)
        monkeypatch.setenv("HF_TOKEN", "reads")
        return load_manifest(bundle)

    monkeypatch.setattr("pumice.export.pipeline.export_bundle", export)
    assert main(["export", "somewhere", str(bundle), "-q", "--push", "org/pebble"]) == 1
    assert f"to try again: pumice push {bundle} org/pebble" in capsys.readouterr().err
    assert (bundle / "manifest.json").is_file()
