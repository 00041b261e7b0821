"""What a run reads, and what others have put where it writes, is as it was afterwards."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pumice.errors import BatchError, PumiceError, UsageError
from tests.runtime.bulk.conftest import Runner, contents, read_lines, write_lines

COMPANIONS = ("", ".partial", ".run.json", ".run.json.tmp")


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"restart": True}])
@pytest.mark.parametrize(
    ("output", "suffix"),
    [
        *(("o.jsonl", suffix) for suffix in COMPANIONS),
        *(("o.csv", suffix) for suffix in (".tmp", ".partial")),
    ],
)
def test_an_input_with_the_name_of_a_file_that_is_written(
    output: str, suffix: str, flags: dict[str, bool], run: Runner, tmp_path: Path
) -> None:
    inputs = write_lines(tmp_path / f"{output}{suffix}", [{"prompt": "a"}, {"prompt": "b"}])
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="is the input"):
        run(inputs, tmp_path / output, **flags)
    assert contents(tmp_path) == before


def hard_link(inputs: Path, place: Path) -> Path:
    place.hardlink_to(inputs)
    return inputs


def link_to_the_input(inputs: Path, place: Path) -> Path:
    place.symlink_to(inputs)
    return inputs


def input_is_a_link(inputs: Path, place: Path) -> Path:
    inputs.rename(place)
    inputs.symlink_to(place)
    return inputs


def input_through_another_folder(inputs: Path, place: Path) -> Path:
    inputs.rename(place)
    (place.parent / "other").symlink_to(place.parent, target_is_directory=True)
    return place.parent / "other" / place.name


def roundabout(inputs: Path, place: Path) -> Path:
    inputs.rename(place)
    (place.parent / "sub").mkdir()
    return place.parent / "sub" / ".." / place.name


def other_capitals(inputs: Path, place: Path) -> Path:
    return inputs.rename(place.with_name(place.name.upper()))


@pytest.mark.parametrize("suffix", COMPANIONS)
@pytest.mark.parametrize(
    "arrange",
    [
        hard_link,
        link_to_the_input,
        input_is_a_link,
        input_through_another_folder,
        roundabout,
        other_capitals,
    ],
)
def test_an_input_that_is_such_a_file_under_another_name(
    arrange: Callable[[Path, Path], Path], suffix: str, run: Runner, tmp_path: Path
) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}])
    inputs = arrange(inputs, tmp_path / f"o.jsonl{suffix}")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="is the input"):
        run(inputs, tmp_path / "o.jsonl", overwrite=True)
    assert contents(tmp_path) == before


def test_a_relative_spelling(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "o.jsonl.partial", [{"prompt": "a"}])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is the input"):
        run(tmp_path / "o.jsonl.partial", Path("o.jsonl"))
    with pytest.raises(UsageError, match="is the input"):
        run(Path("o.jsonl.partial"), tmp_path / "o.jsonl")


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"restart": True}, {"retry_errors": True}])
@pytest.mark.parametrize(
    ("output", "suffix"),
    [
        *(("o.jsonl", suffix) for suffix in COMPANIONS[1:]),
        *(("o.csv", suffix) for suffix in (".partial", ".tmp")),
    ],
)
@pytest.mark.parametrize("what", ["text", "records", "folder", "dangling", "link", "pipe"])
def test_files_of_others_beside_an_output(
    what: str, output: str, suffix: str, flags: dict[str, bool], finished: bool, run: Runner, tmp_path: Path
) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}, {"id": "bad", "max_new_tokens": 0}])
    place = tmp_path / f"{output}{suffix}"
    if finished:
        run(inputs, tmp_path / output)
    place.unlink(missing_ok=True)
    if what == "text":
        place.write_text("mine\n")
    elif what == "records":
        place.write_text('{"id": "a", "prompt": "mine"}\n')
    elif what == "folder":
        place.mkdir()
    elif what == "dangling":
        place.symlink_to("nowhere")
    elif what == "link":
        (tmp_path / "theirs").write_text("")
        place.symlink_to("theirs")
    else:
        os.mkfifo(place)
    before = contents(tmp_path)
    with pytest.raises(PumiceError, match="is there already, and pumice did not write it"):
        run(inputs, tmp_path / output, **flags)
    assert contents(tmp_path) == before


def test_what_a_killed_process_left_is_no_file_of_others(run: Runner, tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}])
    for left in (b"", b"{\n", b'{\n  "bundle": "0123'):
        (tmp_path / "o.jsonl.run.json.tmp").write_bytes(left)
        (tmp_path / "o.jsonl.partial").write_bytes(b"")
        run(inputs, tmp_path / "o.jsonl", overwrite=True)
        assert sorted(path.name for path in tmp_path.glob("o.*")) == ["o.jsonl", "o.jsonl.run.json"]


def test_a_conversion_that_was_killed_is_done_again(run: Runner, tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    run(inputs, tmp_path / "o.jsonl")
    run(inputs, tmp_path / "o.csv")
    whole = read_lines(tmp_path / "o.jsonl")
    (tmp_path / "o.csv").unlink()
    (tmp_path / "o.jsonl").rename(tmp_path / "o.csv.partial")
    (tmp_path / "o.csv.tmp").write_bytes(b"index,id,te")
    assert run(inputs, tmp_path / "o.csv").records == len(whole) == 2
    assert sorted(path.name for path in tmp_path.glob("o.csv*")) == ["o.csv", "o.csv.run.json"]
    (tmp_path / "o.csv").rename(tmp_path / "o.csv.tmp")  # of a run that is not so far: somebody's copy
    with pytest.raises(BatchError, match="pumice did not write it"):
        run(inputs, tmp_path / "o.csv")
    assert (tmp_path / "o.csv.tmp").exists()


def test_the_output_may_lie_in_the_folder_of_images(run: Runner, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "a.png")
    for _ in range(2):
        assert run(tmp_path / "images", tmp_path / "images" / "o.jsonl").records == 1
    assert "passed over" not in run.report.getvalue()


@pytest.mark.parametrize("kind", ["pipe", "dangling"])
def test_an_output_that_is_no_file(kind: str, run: Runner, tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}])
    if kind == "pipe":
        os.mkfifo(tmp_path / "o.jsonl")
    else:
        (tmp_path / "o.jsonl").symlink_to("nowhere")
    before = contents(tmp_path)
    with pytest.raises(PumiceError, match=r"expected a file|is there already"):
        run(inputs, tmp_path / "o.jsonl")
    assert contents(tmp_path) == before


def test_a_name_that_has_no_room_for_its_companions(run: Runner, tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}])
    run.engine = lambda: pytest.fail("this was known before")
    with pytest.raises(BatchError, match="File name too long"):
        run(inputs, tmp_path / f"{'o' * 245}.jsonl")
    assert [path.name for path in tmp_path.glob("*.jsonl*")] == ["in.jsonl"]
