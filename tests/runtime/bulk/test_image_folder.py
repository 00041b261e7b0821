"""Folders as people have them: names that lead nowhere, files of other kinds, one image alone."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pumice.bulk.inputs import Entry, entries, open_inputs, scan
from pumice.bulk.passed_over import PassedOver
from pumice.errors import BatchError, PumiceError, UsageError
from pumice.images.files import FORMATS
from pumice.images.suffixes import SUFFIXES
from tests.runtime.bulk.conftest import Runner, read_lines, write_lines


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path, "PNG")
    return path


def read(path: Path) -> list[Entry]:
    return list(open_inputs(path).read(hashlib.sha256()))


def faults(path: Path) -> dict[str, str]:
    return {entry.id: str(entry.fields) for entry in read(path) if isinstance(entry.fields, PumiceError)}


def test_links_that_lead_to_themselves_cost_their_records(run: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    image(folder / "a.png")
    (folder / "self.png").symlink_to("self.png")
    (folder / "there.png").symlink_to("back.png")
    (folder / "back.png").symlink_to("there.png")
    (folder / "x.txt").symlink_to("x.txt")
    (folder / "z.png").symlink_to("a.png")
    summary = run(folder, tmp_path / "o.jsonl")
    assert (summary.records, summary.failed) == (5, 3)
    lines = {line["id"]: line for line in read_lines(tmp_path / "o.jsonl")}
    assert lines["self.png"]["error"]["type"] == "ImageError"
    assert "Too many levels of symbolic links" in lines["self.png"]["error"]["message"]
    assert {name for name, line in lines.items() if "text" in line} == {"a.png", "z.png"}
    assert "passed over 1: 1 unreadable ('x.txt')" in run.report.getvalue()


class Names:
    """`os.scandir`, with folders that may not be read and files that go away as soon as they are listed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, shut: str = "", gone: str = "") -> None:
        self._real, self._shut, self._gone = os.scandir, shut, gone
        monkeypatch.setattr("os.scandir", self._scandir)

    def _scandir(self, path: Any) -> Any:
        if self._shut and str(path).rstrip("/").endswith(self._shut):
            raise PermissionError(13, "Permission denied", str(path))
        listing = self._real(path)
        gone = self._gone

        class Listing:
            def __enter__(self) -> Iterator[Any]:
                return iter([Gone(entry) if entry.name == gone else entry for entry in listing])

            def __exit__(self, *_: object) -> None:
                listing.close()

        return Listing()


class Gone:
    """An entry of a file that is not there any more."""

    def __init__(self, entry: os.DirEntry[str]) -> None:
        self.name, self.path = entry.name, entry.path

    def is_dir(self, **_: bool) -> bool:
        return False

    is_file = is_symlink = is_dir

    def stat(self, **_: bool) -> os.stat_result:
        raise FileNotFoundError(2, "No such file or directory", self.path)


def test_a_folder_that_may_not_be_read_costs_its_record(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.png", "b/2.png", "c/3.png"):
        image(tmp_path / "in" / name)
    Names(monkeypatch, shut="in/b")
    assert faults(tmp_path / "in") == {"b/": "the folder 'b/' cannot be read: Permission denied"}
    summary = run(tmp_path / "in", tmp_path / "o.jsonl")
    assert (summary.records, summary.failed) == (3, 1)
    assert [line["id"] for line in read_lines(tmp_path / "o.jsonl")] == ["a/1.png", "b/", "c/3.png"]


def test_the_folder_itself_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "in" / "a.png")
    Names(monkeypatch, shut="/in")
    with pytest.raises(BatchError, match="cannot be read: Permission denied"):
        scan(open_inputs(tmp_path / "in"))


def test_a_file_that_goes_away_once_it_is_listed_costs_its_record(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        image(tmp_path / "in" / name)
    Names(monkeypatch, gone="b.png")
    summary = run(tmp_path / "in", tmp_path / "o.jsonl")
    assert (summary.records, summary.failed) == (3, 1)
    (line,) = (line for line in read_lines(tmp_path / "o.jsonl") if "error" in line)
    assert (line["id"], line["error"]["type"]) == ("b.png", "ImageError")
    assert "went away while its folder was read" in line["error"]["message"]


def test_a_file_that_goes_away_under_the_run_costs_its_record(run: Runner, tmp_path: Path) -> None:
    for i in range(20):
        image(tmp_path / "in" / f"{i:02}.png")
    identity = scan(open_inputs(tmp_path / "in"))
    reading = entries(open_inputs(tmp_path / "in"), identity)
    next(reading)
    (tmp_path / "in" / "15.png").unlink()
    assert [entry.id for entry in reading] == [f"{i:02}.png" for i in range(1, 20)]


def test_what_is_passed_over_is_told(run: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    image(folder / "a.png")
    for name in ("1.heic", "2.HEIC", "sub/3.heic", "sub/4.heic", "notes.txt", "README", ".DS_Store", "x.psd"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    image(folder / ".git" / "b.png")
    image(folder / ".git" / "c.png")
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "gone.txt").symlink_to("nowhere")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe")
    assert run(folder, tmp_path / "o.jsonl").records == 1
    (line,) = (line for line in run.report.getvalue().splitlines() if "passed over" in line)
    assert line == (
        "pumice: passed over 14: 4 .heic ('1.heic', '2.HEIC', 'sub/3.heic', …), "
        "2 dangling link ('gone.png', 'gone.txt'), 2 hidden ('.DS_Store', '.git'), "
        "2 pipe, socket or device ('pipe', 'pipe.png'), 1 .psd ('x.psd'), 1 .txt ('notes.txt'), "
        "1 link to a folder ('loop'), 1 without a suffix ('README')"
    )


def test_a_folder_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.psd").write_bytes(b"x")
    with pytest.raises(BatchError, match=r"has no records: .*; passed over 1: 1 \.psd \('a\.psd'\)"):
        scan(open_inputs(tmp_path))


def test_what_is_told_has_a_bound() -> None:
    passed = PassedOver()
    for i in range(100_000):
        passed.add(f".{i}", "x" * 300)
    assert passed.count == 100_000
    assert len(str(passed)) < 1000
    assert "of other kinds" in str(passed)
    assert len(passed._kinds) < 200
    passed = PassedOver()
    passed.add(".a", "line\nend\x1b[2J")
    assert "\n" not in str(passed)
    assert "\x1b" not in str(passed)
    assert str(PassedOver()) == ""


def test_folders_in_folders_in_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    depth = 1500
    for _ in range(
        depth
    ):  # deeper than Python calls functions, and a path than the system takes in one piece
        Path("d").mkdir()
        os.chdir("d")
    image(Path("a.png"))
    (entry,) = read(tmp_path)
    assert entry.id == "d/" * depth + "a.png"
    Path("a.png").unlink()
    for _ in range(depth):  # pytest's own cleaning would call itself as often
        os.chdir("..")
        Path("d").rmdir()


def test_names_that_look_like_addresses(run: Runner, tmp_path: Path) -> None:
    image(tmp_path / "in" / "data:a.png")
    image(tmp_path / "in" / "data:image" / "png;base64,AAAA.png")
    assert run(tmp_path / "in", tmp_path / "o.jsonl").failed == 0
    assert [line["id"] for line in read_lines(tmp_path / "o.jsonl")] == [
        "data:a.png",
        "data:image/png;base64,AAAA.png",
    ]


@pytest.mark.parametrize("name", ["a.png", "A.JPG", "picture", "data:a.png"])
def test_one_image_alone(name: str, run: Runner, tmp_path: Path) -> None:
    image(tmp_path / "in" / name)
    image(tmp_path / "in" / "other.png")
    for _ in range(2):
        summary = run(tmp_path / "in" / name, tmp_path / "o.jsonl")
        assert (summary.records, summary.failed) == (1, 0)
    (line,) = read_lines(tmp_path / "o.jsonl")
    assert line["id"] == name
    image(tmp_path / "in" / name).write_bytes(b"\x89PNG\r\n changed")
    with pytest.raises(BatchError, match="the inputs have changed"):
        run(tmp_path / "in" / name, tmp_path / "o.jsonl")


@pytest.mark.parametrize("data", [b"\0\1\2\3" * 100, '{"prompt": "a"}'.encode("utf-16"), b"PK\3\4\0\0"])
def test_a_file_that_is_neither(data: bytes, run: Runner, tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(data)
    with pytest.raises(
        UsageError, match="is no text: expected a JSONL file, a folder of images, or one image"
    ):
        run(tmp_path / "in.bin", tmp_path / "o.jsonl")
    assert not list(tmp_path.glob("o.*"))


def test_suffixes_are_those_of_the_formats_that_are_read() -> None:
    formats = Image.registered_extensions()
    assert {formats[suffix] for suffix in SUFFIXES} == set(FORMATS) & set(formats.values())
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif"} <= set(SUFFIXES)


def test_a_link_to_itself_as_the_input(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "in").symlink_to("in")
    with pytest.raises(BatchError, match="Too many levels"):
        run(tmp_path / "in", tmp_path / "o.jsonl")
    write_lines(tmp_path / "in.jsonl", [{}])
    with pytest.raises(BatchError, match="cannot be read: Not a directory"):
        run(tmp_path / "in.jsonl" / "x", tmp_path / "o.jsonl")
