"""Copies of bundles for this machine: the same numbers, found only where they are sound and one's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import pumice
from pumice.bundle import optimized
from pumice.bundle.folder import bundle_folder, open_bundle
from pumice.bundle.optimized import RECORD, TEMPORARY, find, remove
from pumice.cli.main import main
from pumice.errors import BundleError, OptimizeError
from pumice.machine.pages import Range
from pumice.manifest import load_manifest
from pumice.manifest.operators import version_numbers
from pumice.model import Model
from pumice.sessions.optimize import make
from tests.bundle_files import data_file

IMAGE = Path(__file__).parents[3] / "pebble" / "heldout" / "stop-sign.png"
QUESTION = "What is this?"
COPIED = "onnx-decoder_model_merged_q4.onnx"
"""The decoder's file in a copy."""


def released_vision(model: Model) -> tuple[Range, ...]:
    """Where the vision encoder's weights are mapped."""
    opened = model.pipeline.decoder.sessions.vision.result()
    assert opened is not None
    return opened.released


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PUMICE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "optimized"


@pytest.fixture
def bundle(pebble_bundle_int4: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pebble_bundle_int4, tmp_path / "bundle")).resolve()


@pytest.mark.export_extra
@pytest.mark.parametrize("recipe", ["portable-fp32", "cpu-int8", "cpu-int4", "cpu-fast"])
def test_logits_and_answers_are_the_bundles_own(
    recipe: str, pebble_checkpoint: Path, cache: Path, tmp_path: Path
) -> None:
    """Bit for bit."""
    from pumice.export.pipeline import export_bundle

    folder = tmp_path / recipe
    export_bundle(pebble_checkpoint, folder, recipe=recipe)
    plain = pumice.load(folder, device="cpu", optimized=False)
    copied = pumice.load(folder, device="cpu", optimized=True)
    assert find(folder.resolve()) is not None
    np.testing.assert_array_equal(
        copied.logits(QUESTION, [IMAGE]), plain.logits(QUESTION, [IMAGE]), strict=True
    )
    for model in (copied, pumice.load(folder, device="cpu")):
        for _ in range(2):  # memory was given back between them
            found = model.generate(QUESTION, [IMAGE], max_new_tokens=24)
            assert found.token_ids == plain.generate(QUESTION, [IMAGE], max_new_tokens=24).token_ids


def test_a_copy_is_taken_by_itself_and_can_be_refused(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(open_bundle(bundle))
    opened: list[str] = []
    real = pumice.sessions.opening.open_session  # type: ignore[attr-defined]

    def spy(*arguments: object, **options: object) -> object:
        opened.append(str(options.get("path")))
        return real(*arguments, **options)

    monkeypatch.setattr("pumice.sessions.opening.open_session", spy)
    pumice.load(bundle, device="cpu").wait()
    assert sum(path.startswith(str(cache)) for path in opened) == 2
    opened.clear()
    pumice.load(bundle, device="cpu", optimized=False).wait()
    assert opened == ["None"] * 3


def test_data_are_not_digested_again_and_all_else_is(bundle: Path, cache: Path) -> None:
    found = make(open_bundle(bundle))
    large = {name for name in load_manifest(bundle).files if name.endswith(".onnx_data")}
    assert len(large) == 3
    assert found.unchanged == large
    (bundle / "tokenizer.json").write_bytes((bundle / "tokenizer.json").read_bytes().replace(b"a", b"b"))
    with pytest.raises(BundleError, match=r"tokenizer\.json was changed"):
        pumice.load(bundle, device="cpu")


def test_data_that_changed_are_digested(bundle: Path, cache: Path) -> None:
    make(open_bundle(bundle))
    path = data_file(bundle, "decoder")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(0, 1))
    with pytest.raises(BundleError, match=f"{path.name} was changed"):
        pumice.load(bundle, device="cpu")


@pytest.mark.parametrize("damage", ["shorter", "touched", "graph", "record", "missing", "mode", "link"])
def test_a_copy_that_is_not_sound_is_not_taken(
    damage: str, bundle: Path, cache: Path, tmp_path: Path
) -> None:
    folder = make(open_bundle(bundle)).folder
    data, graph = folder / f"{COPIED}_data", folder / COPIED
    if damage == "shorter":
        os.truncate(data, 100)
    elif damage == "touched":
        os.utime(data, ns=(0, 1))
    elif damage == "graph":
        status = graph.stat()
        graph.write_bytes(bytes([graph.read_bytes()[0] ^ 1, *graph.read_bytes()[1:]]))
        os.utime(graph, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif damage == "record":
        (folder / RECORD).write_text("{")
    elif damage == "missing":
        data.unlink()
    elif damage == "mode":
        folder.chmod(0o777)
    else:
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    assert find(bundle) is None
    assert pumice.load(bundle, device="cpu").generate(QUESTION, max_new_tokens=2).token_ids


def test_a_record_that_names_files_elsewhere_is_refused(bundle: Path, cache: Path) -> None:
    folder = make(open_bundle(bundle)).folder
    record = json.loads((folder / RECORD).read_text())
    record["graphs"]["../../x.onnx"] = "0" * 64
    (folder / RECORD).write_text(json.dumps(record))
    assert find(bundle) is None


def test_graphs_that_onnxruntime_refuses_are_made_up_for(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(open_bundle(bundle)).folder
    record = json.loads((folder / RECORD).read_text())
    graph = folder / COPIED
    graph.write_bytes(b"no graph")
    record["graphs"][COPIED] = optimized.digest_of(graph)
    status = graph.stat()
    record["files"][COPIED] = [status.st_size, status.st_mtime_ns]
    record["files"][COPIED] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    (folder / RECORD).write_text(json.dumps(record))
    assert find(bundle) is not None
    assert pumice.load(bundle, device="cpu").generate(QUESTION, max_new_tokens=2).token_ids
    assert "is not used" in caplog.text


def test_other_machines_and_versions_have_other_copies(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(open_bundle(bundle))
    monkeypatch.setattr(optimized, "description", lambda: ("another",))
    assert find(bundle) is None
    second = make(open_bundle(bundle))
    assert second.folder != first.folder
    assert not first.folder.exists()  # of another version of the same bundle


def test_a_moved_bundle_is_digested_and_served(bundle: Path, cache: Path, tmp_path: Path) -> None:
    make(open_bundle(bundle))
    moved = bundle.rename(tmp_path / "moved")
    found = find(moved)
    assert found is not None
    assert found.unchanged == frozenset()


def test_a_copy_under_anothers_name_is_not_taken(bundle: Path, cache: Path) -> None:
    """Whoever may rename folders must not be able to give a bundle another one's weights."""
    folder = make(open_bundle(bundle)).folder
    manifest = bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    folder.rename(cache / optimized.copy_key(bundle))
    assert find(bundle) is None


def test_weights_are_digested_where_it_is_asked_for(
    bundle: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["optimize", str(bundle), "--verify"]) == 1
    assert "no sound copy" in capsys.readouterr().err
    folder = make(open_bundle(bundle)).folder
    assert main(["optimize", str(bundle), "--verify"]) == 0
    data = folder / f"{COPIED}_data"
    status, content = data.stat(), bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert find(bundle) is not None  # it is as large and as old as it was
    assert main(["optimize", str(bundle), "--verify"]) == 1
    assert f"{data} was changed" in capsys.readouterr().err


@pytest.mark.skipif(
    version_numbers(onnxruntime.__version__) < (1, 32),
    reason="onnxruntime 1.23 writes no packed 4-bit weights into a copy, and only 1.32 compares them",
)
def test_packed_weights_that_changed_are_noticed_by_onnxruntime(
    bundle: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It packs every matrix again and compares, so that a damaged copy gives no other answers."""
    plain = pumice.load(bundle, device="cpu", optimized=False)
    folder = make(open_bundle(bundle)).folder
    graph, data = (folder / COPIED).read_bytes(), folder / f"{COPIED}_data"
    place = re.search(rb"prepacked_0\x12.MatMulNBits\+\d+\|(\d+);\d+;0", graph)
    assert place is not None
    status, content = data.stat(), bytearray(data.read_bytes())
    content[int(place[1]) + 10] ^= 1
    data.write_bytes(content)
    os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
    model = pumice.load(bundle, device="cpu")
    assert "is not used" in caplog.text
    np.testing.assert_array_equal(model.logits(QUESTION), plain.logits(QUESTION), strict=True)


def test_info_tells_of_a_copy(bundle: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(bundle)]) == 0
    assert "none: see `pumice optimize`" in capsys.readouterr().out
    folder = make(open_bundle(bundle)).folder
    assert main(["info", str(bundle)]) == 0
    assert str(folder) in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux")
def test_each_model_gives_back_its_own_memory(bundle: Path, cache: Path) -> None:
    """Memory that another one has given back to the system may be anybody's by now."""
    models = [pumice.load(bundle, device="cpu", optimized=True) for _ in range(2)]
    first, second = (set(released_vision(model)) for model in models)
    assert first
    assert second
    assert not any(a < d and c < b for a, b in first for c, d in second)


def test_removing(bundle: Path, cache: Path) -> None:
    assert remove(bundle) == 0
    make(open_bundle(bundle))
    assert remove(bundle) == 1
    assert find(bundle) is None
    assert list(cache.iterdir()) == []


def put_a_file(folder: Path) -> str:
    (folder / "mine.onnx").write_text("mine")
    return "mine.onnx"


def put_a_folder(folder: Path) -> str:
    (folder / ".notes" / "deep").mkdir(parents=True)
    return ".notes"


def put_a_link(folder: Path) -> str:
    (folder / COPIED).rename(folder.parent.parent / "elsewhere.onnx")
    (folder / COPIED).symlink_to(folder.parent.parent / "elsewhere.onnx")
    return COPIED


@pytest.mark.parametrize("put", [put_a_file, put_a_folder, put_a_link])
def test_what_somebody_put_into_a_copy_is_named_and_kept(
    put: Callable[[Path], str], bundle: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(open_bundle(bundle)).folder
    name = put(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(OptimizeError, match=f"holds what is not of a copy: {name}: move it away"):
        remove(bundle)
    for flag in ("--remove", "--again"):
        assert main(["optimize", str(bundle), flag]) == 1
        assert name in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_sweeping_spares_what_somebody_put_there(bundle: Path, cache: Path) -> None:
    folder = make(open_bundle(bundle)).folder
    older = folder.rename(cache / ("0" * 40))  # as of another version
    put_a_file(older)
    killed = cache / f"{TEMPORARY}{'0' * 16}"
    killed.mkdir()
    (killed / COPIED).write_text("half")
    (killed / "thesis.txt").write_text("mine")
    os.utime(killed, (0, 0))
    outside = cache.parent / "outside"
    outside.mkdir()
    (outside / COPIED).write_text("mine")
    (cache / f"{TEMPORARY}link").symlink_to(outside)
    os.utime(outside, (0, 0))
    make(open_bundle(bundle))
    assert (older / "mine.onnx").read_text() == "mine"
    assert (killed / "thesis.txt").read_text() == "mine"
    assert (outside / COPIED).read_text() == "mine"


def test_a_folder_of_somebody_elses_in_a_copys_place(bundle: Path, cache: Path) -> None:
    folder = make(open_bundle(bundle)).folder
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(OptimizeError, match=r"thesis\.txt"):
        make(open_bundle(bundle))
    assert (folder / "thesis.txt").read_text() == "mine"
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_what_killed_processes_left_is_swept(bundle: Path, cache: Path) -> None:
    old, new = cache / f"{TEMPORARY}old", cache / f"{TEMPORARY}new"
    old.mkdir(parents=True)
    new.mkdir()
    os.utime(old, (0, 0))
    make(open_bundle(bundle))
    assert not old.exists()
    assert new.exists()


def test_what_another_process_has_written_and_not_yet_moved_is_left_to_it(bundle: Path, cache: Path) -> None:
    folder = make(open_bundle(bundle)).folder
    theirs = folder.rename(cache / f"{TEMPORARY}theirs")
    assert (theirs / RECORD).is_file()
    make(open_bundle(bundle))
    assert (theirs / RECORD).is_file()
    assert remove(bundle) == 1
    assert (theirs / RECORD).is_file()


def test_what_another_process_removes_while_it_is_looked_at_is_none_of_ours(
    bundle: Path, cache: Path
) -> None:
    cache.mkdir(parents=True)
    (cache / f"{TEMPORARY}gone").symlink_to(cache / "nowhere")  # in the listing, but not there any more
    assert make(open_bundle(bundle)).nbytes > 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(bundle: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o500)
    with pytest.raises(OptimizeError, match="cannot write a copy"):
        make(open_bundle(bundle))


def test_a_full_disk_is_told_beforehand(bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OptimizeError, match=r"not enough space .* 1,000 are free"):
        make(open_bundle(bundle))
    assert find(bundle) is None


def test_a_cache_folder_that_is_a_file(bundle: Path, cache: Path) -> None:
    cache.parent.write_text("")
    with pytest.raises(OptimizeError, match="cannot write a copy"):
        make(open_bundle(bundle))
    assert pumice.load(bundle, device="cpu").generate(QUESTION, max_new_tokens=1).token_ids


def test_processes_that_optimise_at_once(bundle: Path, cache: Path) -> None:
    command = [sys.executable, "-m", "pumice", "optimize", str(bundle), "--json"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    found = [json.loads(process.communicate(timeout=600)[0]) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len({each["folder"] for each in found}) == 1
    assert [path.name for path in cache.iterdir()] == [Path(found[0]["folder"]).name]


def test_a_killed_process_leaves_no_copy(bundle: Path, cache: Path) -> None:
    command = [sys.executable, "-m", "pumice", "optimize", str(bundle)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(cache.glob(f"{TEMPORARY}*/*")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.returncode == -signal.SIGKILL and not [
        p for p in cache.iterdir() if not p.name.startswith(".")
    ]:
        assert find(bundle) is None
    assert make(open_bundle(bundle)).nbytes > 0


def test_the_command_line(bundle: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", str(bundle)]) == 0
    assert "loading takes" in capsys.readouterr().out
    assert main(["optimize", str(bundle), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["made"] is False
    assert told["bytes"] > 0
    assert main(["optimize", str(bundle), "--again", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] is True
    assert main(["optimize", str(bundle), "--remove"]) == 0
    assert capsys.readouterr().out == "removed 1 copy\n"
    assert main(["optimize", str(bundle.parent / "none")]) == 1
    assert bundle_folder(bundle) == bundle


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux")
@pytest.mark.parametrize("place", ["relative", "link"])
def test_memory_is_given_back_wherever_the_cache_is(
    place: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system names mapped files by their real paths."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUMICE_CACHE_DIR", "real" if place == "relative" else str(tmp_path / "link"))
    model = pumice.load(bundle, device="cpu", optimized=True)
    assert released_vision(model)
