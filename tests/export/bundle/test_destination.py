"""Places that a bundle must not take: whatever lies there is whole afterwards, and the message names it."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pumice.cli.main import main
from pumice.errors import ExportError, PumiceError, UsageError
from pumice.export.bundle import janitor, rename
from pumice.export.bundle.destination import keep_apart, resolved, strangers
from pumice.export.bundle.writing import file_entries, write_card, writing_bundle
from pumice.export.pipeline import export_bundle
from pumice.manifest import decode_manifest

ROOT = Path(__file__).parents[3]


def bundle(folder: Path, *names: str) -> Path:
    """A folder that holds these files and a manifest that lists them."""
    for name in names or ("decoder.onnx", "onnx/weights.bin", "tokenizer.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"of the bundle: {name}")
    files = {name: {"size": e.size, "sha256": e.sha256} for name, e in file_entries(folder).items()}
    (folder / "manifest.json").write_text(json.dumps({"schema_version": 1, "graphs": {}, "files": files}))
    return folder


def listing(folder: Path) -> dict[str, str | bytes | None]:
    """All that lies in a folder: links by where they go, files by their bytes."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else (path.read_bytes() if path.is_file() else str(path.stat().st_mode))
        for path in folder.rglob("*")
    }


def write(destination: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    with writing_bundle(destination, overwrite=True) as folder:
        bundle(folder, "new.bin")
        meanwhile()


def a_file(folder: Path) -> str:
    (folder / "notes.txt").write_text("mine")
    return "notes.txt"


def a_hidden_file(folder: Path) -> str:
    (folder / ".env").write_text("mine")
    return ".env"


def a_file_beside_listed_ones(folder: Path) -> str:
    (folder / "onnx" / "mine.bin").write_text("mine")
    return "onnx/mine.bin"


def a_folder(folder: Path) -> str:
    (folder / "results" / "deep").mkdir(parents=True)
    (folder / "results" / "deep" / "answers.csv").write_text("mine")
    return "results/"


def an_empty_folder(folder: Path) -> str:
    (folder / "later").mkdir()
    return "later/"


def a_link(folder: Path) -> str:
    (folder / "images").symlink_to("/usr")
    return "images"


def a_link_in_place_of_a_file(folder: Path) -> str:
    (folder / "decoder.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "decoder.onnx").symlink_to(folder.parent / "elsewhere.onnx")
    return "decoder.onnx"


def a_dangling_link(folder: Path) -> str:
    (folder / "later.onnx").symlink_to("nowhere")
    return "later.onnx"


def a_folder_in_place_of_a_file(folder: Path) -> str:
    (folder / "decoder.onnx").unlink()
    (folder / "decoder.onnx").mkdir()
    return "decoder.onnx/"


def a_link_in_place_of_a_folder(folder: Path) -> str:
    shutil.move(folder / "onnx", folder.parent / "onnx")
    (folder / "onnx").symlink_to(folder.parent / "onnx")
    return "onnx"


def a_pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return "pipe"


def a_repository(folder: Path) -> str:
    (folder / ".git" / "objects").mkdir(parents=True)
    return ".git/"


OTHERS = [
    a_file,
    a_hidden_file,
    a_file_beside_listed_ones,
    a_folder,
    an_empty_folder,
    a_link,
    a_link_in_place_of_a_file,
    a_dangling_link,
    a_folder_in_place_of_a_file,
    a_link_in_place_of_a_folder,
    a_pipe,
    a_repository,
]


@pytest.mark.parametrize("put", OTHERS, ids=lambda put: put.__name__)
def test_what_somebody_put_into_a_bundle_is_named_and_kept(
    put: Callable[[Path], str], tmp_path: Path
) -> None:
    name = put(bundle(tmp_path / "b"))
    assert strangers(tmp_path / "b") == [name]
    before = listing(tmp_path)
    with pytest.raises(ExportError, match=rf"holds what no export wrote: {name}; .*move it away") as caught:
        write(tmp_path / "b", meanwhile=lambda: pytest.fail("nothing is made before"))
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == before


def test_a_few_are_named_and_the_others_counted(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b")
    for number in range(9):
        (folder / f"{number}.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"0\.txt, 1\.txt, 2\.txt, 3\.txt, 4\.txt and 4 more; "):
        write(folder)


def no_renameat2(*arguments: object) -> None:
    raise OSError(rename._UNSUPPORTED[0], "not here")


@pytest.mark.parametrize("swaps", [True, False])
@pytest.mark.parametrize("before", ["bundle", "empty"])
def test_a_file_put_there_in_the_last_moment_is_kept(
    before: str, swaps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last look, and before the old one is removed."""
    real = rename._renameat2 if swaps else no_renameat2
    folder = bundle(tmp_path / "b") if before == "bundle" else tmp_path / "b"
    folder.mkdir(exist_ok=True)
    there = listing(tmp_path)

    def put(*arguments: object) -> None:
        if not (folder / "new.bin").exists():
            (folder / "notes.txt").write_text("mine")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rename, "_renameat2", put)
    with pytest.raises(ExportError, match=r"holds what no export wrote: notes\.txt"):
        write(folder)
    assert listing(tmp_path) == {**there, "b/notes.txt": b"mine"}


def test_a_file_put_there_during_the_export_is_kept(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b")
    with pytest.raises(ExportError, match=r"notes\.txt"):
        write(folder, meanwhile=lambda: a_file(folder))
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "decoder.onnx").exists()


def test_bundles_that_are_pumices_alone_are_replaced(tmp_path: Path) -> None:
    """With files that are missing or damaged, reports that no manifest lists yet, and a killed writer's leavings."""
    folder = bundle(tmp_path / "b")
    (folder / "decoder.onnx").write_text("damaged")
    (folder / "tokenizer.json").unlink()
    for name in ("parity.json", "PARITY.md", ".manifest.json.pumice.tmp", ".parity.json.pumice.tmp"):
        (folder / name).write_text("{}")
    write(folder)
    assert set(listing(tmp_path)) == {"b", "b/new.bin", "b/manifest.json"}


@pytest.mark.parametrize(
    "manifest",
    [
        {"schema_version": 1},
        {"schema_version": 1, "graphs": {}, "files": ["thesis.txt"]},
        {"schema_version": 1, "graphs": {}, "files": {"thesis.txt": "a hash"}},
        {"schema_version": 1, "graphs": {}, "files": {"thesis.txt": {"size": 4}}},
    ],
    ids=str,
)
def test_someones_manifest_is_none_of_pumices(manifest: object, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "thesis.txt").write_text("mine")
    before = listing(tmp_path)
    with pytest.raises(ExportError, match="not a bundle"):
        write(folder)
    assert listing(tmp_path) == before


def test_a_manifest_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "manifest.json")
    outcome: list[str] = []

    def attempt() -> None:
        try:
            write(tmp_path / "b")
        except ExportError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(600)
    assert "not a bundle" in outcome[0]


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_text_is_no_folder(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="empty text"):
        resolved(text)
    assert main(["export", str(tmp_path), text, "--overwrite"]) == 2
    assert "expected the name of a folder" in capsys.readouterr().err


def test_places_that_are_no_folder_of_a_bundles_own(
    pebble_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All told before the checkpoint's weights are looked at, in one line, and nothing is touched."""
    checkpoint = Path(shutil.copytree(pebble_checkpoint, tmp_path / "place" / "checkpoint"))
    bundle(tmp_path / "place" / "old")
    (tmp_path / "place" / "old" / "empty").mkdir()
    (tmp_path / "place" / "file").write_text("mine")
    before = listing(tmp_path)
    monkeypatch.chdir(tmp_path / "place" / "old" / "empty")
    said = {
        ".": "the folder that this runs in",
        "..": "the folder that this runs in",
        "/": "the folder that this runs in",
        "/dev/null": "is a file",
        "../../file": "is a file",
        "../../file/b": "cannot write",
        str(checkpoint): "not a bundle",
        str(checkpoint / "sub"): "lies within the checkpoint",
        str(checkpoint / "sub" / "deeper"): "lies within the checkpoint",
        "x" * 250: "name too long",
        "x" * 300: "name too long",
        "x" * 5000: "name too long",
        "~nobody-of-this-name/b": "cannot write",
        "a\0b": "cannot write",
        "/proc/b": "/proc",
    }
    for destination, message in said.items():
        for overwrite in (True, False):
            with pytest.raises(PumiceError, match="exists|" + message) as caught:
                export_bundle(checkpoint, destination, overwrite=overwrite)
            assert "\n" not in str(caught.value)
            assert overwrite is False or message in str(caught.value), (destination, str(caught.value))
    assert listing(tmp_path) == before


def test_a_checkpoint_below_the_destination(tmp_path: Path) -> None:
    (tmp_path / "b" / "checkpoint").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "b")
    with pytest.raises(ExportError, match="holds the checkpoint"):
        keep_apart(tmp_path / "b", tmp_path / "link" / "checkpoint")
    keep_apart(tmp_path / "other", tmp_path / "b" / "checkpoint")
    keep_apart(tmp_path / "b" / "checkpoint-fp32", tmp_path / "b" / "checkpoint")


def test_only_folders_of_our_own_names_are_swept(tmp_path: Path) -> None:
    mine = {
        f".b.pumice-mine{janitor.NEW}",
        f".b.pumice-{janitor.NEW}",
        f".b.pumice-0g{janitor.OLD}",
        ".b.pumice-00ff",
    }
    for name in mine:
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    (tmp_path / f".b.pumice-00aa{janitor.NEW}").symlink_to(tmp_path / ".b.pumice-00ff")
    (tmp_path / f".b.pumice-00bb{janitor.NEW}").write_text("mine")
    (tmp_path / f".b.pumice-00cc{janitor.NEW}").mkdir()
    before = listing(tmp_path)
    write(tmp_path / "b")
    after = listing(tmp_path)
    assert {key: value for key, value in after.items() if key[0] == "."} == {
        key: value for key, value in before.items() if "00cc" not in key
    }


def test_an_edited_card_is_kept_and_one_of_pumices_is_not(tmp_path: Path) -> None:
    manifest = decode_manifest((ROOT / "docs" / "manifests" / "llava-1.5.json").read_bytes(), "the example")
    folder = bundle(tmp_path / "b")
    write_card(folder, manifest)
    write(folder)
    assert sorted(listing(folder)) == ["manifest.json", "new.bin"]
    write_card(folder, manifest)
    edited = (folder / "README.md").read_bytes() + b"Mine.\n"
    (folder / "README.md").write_bytes(edited)
    with pytest.raises(ExportError, match=r"holds what no export wrote: README\.md; "):
        write(folder)
    assert (folder / "README.md").read_bytes() == edited
