import errno
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from pumice.errors import BundleError, ExportError
from pumice.export.bundle import janitor, rename
from pumice.export.bundle import writing as subject
from pumice.export.bundle.writing import file_entries, replace_in_bundle, write_manifest, writing_bundle
from pumice.manifest import (
    Chat,
    DecoderShape,
    FileEntry,
    GenerationDefaults,
    Graphs,
    GraphSpec,
    ImageProcessing,
    ImageTokens,
    Manifest,
    Precision,
    Requires,
    Source,
    Tokens,
    load_manifest,
)


def manifest_json(*names: str) -> str:
    """One that lists these files."""
    files = {name: {"size": 0, "sha256": "0" * 64} for name in names}
    return json.dumps({"schema_version": 1, "graphs": {}, "files": files})


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every file with its content and every folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def old_bundle(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(manifest_json("old.bin"))
    (folder / "old.bin").write_bytes(b"old")
    return folder


def write_new(folder: Path) -> None:
    (folder / "onnx").mkdir()
    (folder / "onnx" / "weights.bin").write_bytes(b"new" * 1000)
    (folder / "manifest.json").write_text(manifest_json("onnx/weights.bin"))


def export(destination: Path, overwrite: bool = False, fail: BaseException | None = None) -> None:
    with writing_bundle(destination, overwrite=overwrite, needed_bytes=3000) as folder:
        write_new(folder)
        if fail is not None:
            raise fail


def test_a_new_bundle_appears_whole_and_alone(tmp_path):
    export(tmp_path / "b")
    assert set(listing(tmp_path)) == {"b", "b/onnx", "b/onnx/weights.bin", "b/manifest.json"}


def test_nothing_is_at_the_destination_before_the_end(tmp_path):
    with writing_bundle(tmp_path / "b", overwrite=False) as folder:
        write_new(folder)
        assert folder.parent == tmp_path
        assert not (tmp_path / "b").exists()
    assert (tmp_path / "b").exists()


def test_permissions_are_those_of_any_folder(tmp_path):
    export(tmp_path / "b")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "b").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_existing_bundle_is_kept_without_overwrite(tmp_path):
    old_bundle(tmp_path / "b")
    before = listing(tmp_path)
    with pytest.raises(
        ExportError, match="exists: choose another destination, or replace it with --overwrite"
    ):
        export(tmp_path / "b")
    assert listing(tmp_path) == before


@pytest.mark.parametrize("swaps", [True, False])
def test_overwrite_replaces_a_bundle(tmp_path, monkeypatch, swaps):
    if not swaps:
        monkeypatch.setattr(rename, "_renameat2", no_renameat2)
    old_bundle(tmp_path / "b")
    export(tmp_path / "b", overwrite=True)
    assert set(listing(tmp_path)) == {"b", "b/onnx", "b/onnx/weights.bin", "b/manifest.json"}


def no_renameat2(*arguments):
    raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize("swaps", [True, False])
def test_overwrite_replaces_an_empty_folder_and_a_missing_one(tmp_path, monkeypatch, swaps):
    if not swaps:
        monkeypatch.setattr(rename, "_renameat2", no_renameat2)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        export(tmp_path / name, overwrite=True)
        assert (tmp_path / name / "manifest.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "missing"}


def test_the_old_bundle_returns_when_the_second_rename_fails(tmp_path, monkeypatch):
    def fail(folder, destination, exists):
        destination.rename(str(folder).removesuffix(janitor.NEW) + janitor.OLD)
        raise OSError(errno.EIO, "Input/output error", str(folder))

    monkeypatch.setattr(rename, "_renameat2", no_renameat2)
    monkeypatch.setattr(rename, "_move_in_steps", fail)
    old_bundle(tmp_path / "b")
    before = listing(tmp_path)
    with pytest.raises(ExportError, match="Input/output error"):
        export(tmp_path / "b", overwrite=True)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema_version": 1}', "not json"])
def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path, content):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "manifest.json").write_text(content)
    before = listing(tmp_path)
    with pytest.raises(ExportError, match="not empty and not a bundle"):
        export(tmp_path / "thesis", overwrite=True)
    assert listing(tmp_path) == before


def test_a_file_is_never_replaced(tmp_path):
    (tmp_path / "b").write_text("precious")
    with pytest.raises(ExportError, match="is a file"):
        export(tmp_path / "b", overwrite=True)
    assert (tmp_path / "b").read_text() == "precious"


def test_a_link_is_followed(tmp_path):
    old_bundle(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    export(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "onnx").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}


def test_links_in_a_circle(tmp_path):
    (tmp_path / "b").symlink_to("b")
    with pytest.raises(ExportError):
        export(tmp_path / "b", overwrite=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), SystemExit(3), MemoryError()])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_block_changes_nothing(tmp_path, error, exists):
    if exists:
        old_bundle(tmp_path / "b")
    before = listing(tmp_path)
    with pytest.raises(type(error)):
        export(tmp_path / "b", overwrite=exists, fail=error)
    assert listing(tmp_path) == before


def test_missing_parents_are_made_and_removed_again(tmp_path):
    with pytest.raises(ValueError, match="x"):
        export(tmp_path / "a" / "b" / "c", fail=ValueError("x"))
    assert listing(tmp_path) == {}
    export(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c" / "manifest.json").exists()


def test_a_destination_that_appears_meanwhile_is_kept(tmp_path):
    with (
        pytest.raises(ExportError, match="exists"),
        writing_bundle(tmp_path / "b", overwrite=False) as folder,
    ):
        write_new(folder)
        (tmp_path / "b").mkdir()
    assert listing(tmp_path) == {"b": None}


def test_two_exports_at_once_leave_one_bundle(tmp_path):
    outcomes = []

    def run():
        try:
            export(tmp_path / "b")
            outcomes.append("written")
        except ExportError:
            outcomes.append("refused")

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("written") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"b"}


def test_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write"):
        export(tmp_path / "file" / "b")


def test_parent_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(path, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ExportError, match="Permission denied"):
        export(tmp_path / "b")


def test_name_that_is_too_long(tmp_path):
    with pytest.raises(ExportError, match="name too long"):
        export(tmp_path / ("b" * 300))
    with pytest.raises(ExportError, match="name too long"):
        export(tmp_path / ("b" * 250))


def test_foreign_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), writing_bundle(tmp_path / "b", overwrite=False):
        (tmp_path / "elsewhere").read_bytes()
    assert listing(tmp_path) == {}


def test_too_little_space_is_refused_before_work(tmp_path):
    with (
        pytest.raises(ExportError, match=r"needs 1,000,000,000,000,000,000 bytes, [\d,]+ are free"),
        writing_bundle(tmp_path / "b", overwrite=False, needed_bytes=10**18),
    ):
        pytest.fail("the block must not run")
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_that_fills_up_is_told_with_its_numbers(tmp_path, number):
    old_bundle(tmp_path / "b")
    before = listing(tmp_path)
    cause = OSError(number, os.strerror(number))
    with pytest.raises(ExportError, match=r"while writing .*the bundle needs 3,000 bytes, [\d,]+ are free"):
        try:
            raise cause
        except OSError:
            export(tmp_path / "b", overwrite=True, fail=RuntimeError("onnx could not save"))
    assert listing(tmp_path) == before


def test_a_full_disk_for_real(tmp_path):
    """The kernel refuses writes beyond a limit, as a full disk does."""
    script = """
        import resource, sys
        from pathlib import Path
        from pumice.errors import ExportError
        from pumice.export.bundle.writing import writing_bundle
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            with writing_bundle(Path(sys.argv[1]), overwrite=True, needed_bytes=200_000) as folder:
                (folder / "weights").write_bytes(bytes(200_000))
        except ExportError as error:
            print(error)
    """
    old_bundle(tmp_path / "b")
    before = listing(tmp_path)
    run = python(script, tmp_path / "b")
    assert "the bundle needs 200,000 bytes" in run.stdout
    assert listing(tmp_path) == before


def python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_disks_of_twenty_sizes(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    for pages in range(20):
        size = 4096 * (6 + 3 * pages)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], capture_output=True
        )
        if mounted.returncode:
            pytest.skip("mounting is not permitted")
        try:
            old_bundle(disk / "b")
            before = listing(disk)
            with (
                pytest.raises(ExportError, match=r"while writing .*needs 1 bytes, [\d,]+ are free"),
                writing_bundle(disk / "b", overwrite=True, needed_bytes=1) as folder,
            ):
                for number in range(30):
                    (folder / f"weights{number}").write_bytes(b"x" * 10_000)
            assert listing(disk) == before
        finally:
            subprocess.run(["umount", disk], check=True)


WRITER = """
    import sys, time
    from pathlib import Path
    from pumice.export.bundle.writing import writing_bundle
    print("ready", flush=True)
    sys.stdin.readline()
    with writing_bundle(Path(sys.argv[1]), overwrite=True) as folder:
        print("inside", flush=True)
        (folder / "onnx").mkdir()
        for number in range(10):
            (folder / "onnx" / f"{number}.bin").write_bytes(b"new" * 20_000)
            time.sleep(float(sys.argv[2]))
        (folder / "manifest.json").write_text('{"schema_version": 1, "graphs": {}, "files": {}}')
    print("finished", flush=True)
"""


def start_writer(destination: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(destination), str(pause)]
    writer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert writer.stdout
    assert writer.stdin
    assert writer.stdout.readline() == "ready\n"
    writer.stdin.write("\n")
    writer.stdin.flush()
    return writer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_the_old_bundle(tmp_path, number):
    old_bundle(tmp_path / "b")
    before = listing(tmp_path)
    writer = start_writer(tmp_path / "b", 1.0)
    assert writer.stdout.readline() == "inside\n"
    writer.send_signal(number)
    out, err = writer.communicate(timeout=300)
    assert "KeyboardInterrupt" in err
    assert "finished" not in out
    assert listing(tmp_path) == before


def kill_at_random(tmp_path: Path, exists: bool, points: int) -> set[str]:
    """SIGKILL `points` exports at random moments; returns which bundles were found afterwards."""
    outcomes = set()
    dice = random.Random(7)
    for point in range(points):
        place = tmp_path / str(point)
        place.mkdir()
        if exists:
            old_bundle(place / "b")
        old = listing(place)
        early, late = point == 0, point == 1  # these two are sure to find the old bundle, and the new one
        writer = start_writer(place / "b", 1.0 if early else 0.002)
        if early or late:
            assert writer.stdout
            last = "inside\n" if early else "finished\n"
            assert last in iter(writer.stdout.readline, "")
        else:
            time.sleep(dice.uniform(0, 0.12))
        writer.kill()
        writer.communicate()
        deadline = time.monotonic() + 300
        while any(path.name.startswith(".") for path in place.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.005)
        found = listing(place)
        if found == old:
            outcomes.add("old")
        else:
            assert len(found) == 13, found  # the folder, onnx, ten weights, the manifest
            assert found["b/onnx/9.bin"] == b"new" * 20_000
            outcomes.add("new")
        shutil.rmtree(place)
    return outcomes


@pytest.mark.parametrize("exists", [True, False])
def test_kills_at_random_points_leave_old_or_new_and_no_orphans(tmp_path, exists):
    assert kill_at_random(tmp_path, exists, 12) == {"old", "new"}


@pytest.mark.slow
@pytest.mark.parametrize("exists", [True, False])
def test_kills_at_a_hundred_random_points_each(tmp_path, exists):
    assert kill_at_random(tmp_path, exists, 100) == {"old", "new"}


def test_a_killed_export_leaves_no_made_parents(tmp_path):
    writer = start_writer(tmp_path / "x" / "y" / "b", 1.0)
    assert writer.stdout.readline() == "inside\n"
    writer.kill()
    writer.communicate()
    deadline = time.monotonic() + 300
    while (tmp_path / "x").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert listing(tmp_path) == {}


def test_leavings_of_dead_exports_are_swept_and_living_ones_spared(tmp_path):
    dead = tmp_path / f".b.pumice-dead{janitor.NEW}"
    foreign = tmp_path / f".other.pumice-dead{janitor.NEW}"
    for folder in (dead, foreign):
        folder.mkdir()
        (folder / "weights").write_bytes(b"x")
    with writing_bundle(tmp_path / "b", overwrite=True) as living:
        write_new(living)
        export(tmp_path / "b")
        assert living.exists()
        assert not dead.exists()
        assert foreign.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"b", foreign.name}


def test_a_bundle_left_aside_by_a_power_cut_returns(tmp_path):
    """Between the two renames of a system that cannot exchange."""
    old_bundle(tmp_path / f".b.pumice-dead{janitor.OLD}")
    with pytest.raises(ExportError, match="exists"):
        export(tmp_path / "b")
    assert (tmp_path / "b" / "old.bin").exists()


def test_the_janitor_is_gone_afterwards(tmp_path):
    def children() -> set[str]:
        return {p for p in Path("/proc/self/task").glob("*/children") for p in p.read_text().split()}

    before = children()
    export(tmp_path / "b")
    assert children() <= before


def test_signal_handlers_are_as_before(tmp_path):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    export(tmp_path / "b")
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_file_entries(tmp_path):
    contents = {"a.json": b"{}", "onnx/w.bin": bytes(range(256)) * 5000, "empty": b"", "manifest.json": b"{}"}
    for name, data in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    entries = file_entries(tmp_path)
    assert list(entries) == ["a.json", "empty", "onnx/w.bin"]
    for name, entry in entries.items():
        assert entry == FileEntry(size=len(contents[name]), sha256=hashlib.sha256(contents[name]).hexdigest())


def manifest_of(folder: Path, **changes: object) -> Manifest:
    graph = GraphSpec(file="g.onnx", external_data=(), inputs=(), outputs=(), nodes=1)
    fields = {
        "schema_version": 1,
        "created_with": {},
        "requires": Requires(onnxruntime="1.32", opset=21, ir_version=10),
        "source": Source(
            checkpoint="c",
            model_type="llava",
            vision_model_type="clip_vision_model",
            text_model_type="llama",
            dtype="float16",
            config_sha256="0" * 64,
        ),
        "precision": Precision(name="fp32"),
        "graphs": Graphs(vision_encoder=graph, embedding=graph, decoder=graph),
        "decoder": DecoderShape(
            layers=1,
            kv_heads=1,
            head_dim=1,
            hidden_size=1,
            vocab_size=1,
            context_length=1,
            kv_dtype="float32",
        ),
        "image": ImageProcessing(
            convert_rgb=True,
            resize_shortest_edge=1,
            resize_to=None,
            resample=3,
            crop_to=None,
            rescale_factor=1.0,
            mean=None,
            std=None,
            size=(1, 1),
        ),
        "image_tokens": ImageTokens(token="<image>", token_id=1, per_image=1),
        "tokens": Tokens(
            bos_token=None, eos_token=None, unk_token=None, pad_token=None, eos_ids=(), pad_id=None
        ),
        "chat": Chat(tokenizer_file="t.json", template_file=None),
        "generation": GenerationDefaults(),
        "files": file_entries(folder),
    }
    return Manifest(**(fields | changes))


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "g.onnx").write_bytes(b"graph")
    (folder / "t.json").write_bytes(b"{}")
    write_manifest(folder, manifest_of(folder))
    return folder


def with_report(bundle: Path, data: bytes) -> Manifest:
    entry = FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    listed = load_manifest(bundle).files
    return manifest_of(bundle, files=listed | {"parity.json": entry}, parity={"passed": True})


def test_reports_are_added_and_replaced(bundle):
    for data in (b'{"a": 1}', b'{"a": 2}'):
        manifest = with_report(bundle, data)
        replace_in_bundle(bundle, {"parity.json": data}, manifest)
        assert (bundle / "parity.json").read_bytes() == data
        assert load_manifest(bundle) == manifest
        assert load_manifest(bundle).files == file_entries(bundle)


def test_a_bundle_stays_valid_wherever_its_replacing_stops(bundle, monkeypatch):
    first, final = with_report(bundle, b"1"), with_report(bundle, b"2")
    original, calls = subject._replace, 0

    def stop_at(last):
        def call(path, data):
            nonlocal calls
            calls += 1
            if calls > last:
                raise OSError(errno.ENOSPC, "No space left on device")
            original(path, data)

        return call

    for last in range(3):
        monkeypatch.setattr(subject, "_replace", original)
        replace_in_bundle(bundle, {"parity.json": b"1"}, first)
        calls = 0
        monkeypatch.setattr(subject, "_replace", stop_at(last))
        with pytest.raises(ExportError, match="No space left"):
            replace_in_bundle(bundle, {"parity.json": b"2"}, final)
        present = file_entries(bundle)
        assert all(present[name] == entry for name, entry in load_manifest(bundle).files.items())


def test_replacing_in_what_is_no_bundle(tmp_path, bundle):
    with pytest.raises(BundleError):
        replace_in_bundle(tmp_path / "nowhere", {}, load_manifest(bundle))


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(bundle):
    before = listing(bundle)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(ExportError, match="too large"):
            replace_in_bundle(bundle, {"parity.json": b"1"}, with_report(bundle, b"1"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {k: v for k, v in listing(bundle).items() if k != "parity.json"} == before
