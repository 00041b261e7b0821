"""Runs that cannot work end before they begin; single faults do not end a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pumice.bulk.record import Record, failed
from pumice.bulk.trial import tried
from pumice.errors import BatchError, GenerationError, ImageError, PumiceError, UsageError
from tests.runtime.bulk.conftest import Runner, contents, read_lines, write_lines
from tests.runtime.bulk.engine import FakeEngine


def refused(run: Runner, inputs: Path, output: Path, **settings: Any) -> PumiceError:
    """The error of a run that asks nothing and leaves nothing."""
    before = contents(output.parent)
    with pytest.raises(PumiceError) as caught:
        run(inputs, output, **settings)
    assert contents(output.parent) == before
    assert run.report.getvalue() == ""
    return caught.value


@pytest.fixture
def unloaded(run: Runner) -> Runner:
    run.engine = lambda: pytest.fail("a model was loaded")
    return run


def test_a_folder_without_a_prompt(unloaded: Runner, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / "in" / f"{i}.png")
    error = refused(unloaded, tmp_path / "in", tmp_path / "o.jsonl", prompt=None)
    assert isinstance(error, UsageError)
    assert str(error) == (
        "none of the 3 records can be answered; the first: the record has neither prompt nor messages: "
        "add one, or give a prompt for all (--prompt)"
    )


@pytest.mark.parametrize(
    ("lines", "kind", "said"),
    [
        (
            ['{"id": 1}', '{"id": 2}'],
            UsageError,
            "none of the 2 records .* line 1: the record has neither prompt",
        ),
        (["Dear diary,", "today"], UsageError, "none of the 2 records .* line 1 is no JSON"),
        (["[", '  {"prompt": "a"},', "]"], UsageError, "none of the 3 records .* line 1 is no JSON"),
        (['["a"]'], UsageError, "the only record cannot be answered: line 1 is a JSON array"),
        (['{"question": "a"}'] * 9, UsageError, "none of the 9 .* line 1: the record has the unknown field"),
        (['{"prompt": 3}', '{"prompt": 4}'], UsageError, "line 1: the record's prompt is of type int"),
        (['{"image": "x.png"}', '{"image": "y.png"}'], BatchError, "line 1: there is no image '.*x.png'"),
        (["", '{"id": {}}'], UsageError, "line 2: the record's id is of type dict"),
    ],
)
def test_a_file_of_nothing_but_faults(
    lines: list[str], kind: type, said: str, unloaded: Runner, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    prompt = None if "neither" in said else "?"
    error = refused(unloaded, tmp_path / "in.jsonl", tmp_path / "o.jsonl", prompt=prompt)
    assert isinstance(error, kind)
    assert __import__("re").search(said, str(error))


def test_what_only_the_model_knows(run: Runner, tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{"max_new_tokens": 0}, {"max_new_tokens": -1}])
    error = refused(run, inputs, tmp_path / "o.jsonl")
    assert isinstance(error, UsageError)
    assert "none of the 2 records can be answered; the first: line 1: max_new_tokens is 0" in str(error)


def test_images_that_are_all_broken(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(5):
        (tmp_path / "in" / f"{i}.png").write_bytes(b"no image")
    error = refused(run, tmp_path / "in", tmp_path / "o.jsonl")
    assert isinstance(error, BatchError)
    assert "none of the 5 records" in str(error)


def test_one_that_works_is_enough(run: Runner, tmp_path: Path) -> None:
    lines: list[Any] = [{"max_new_tokens": 0}, "x", {"image": "x.png"}, {"prompt": "a"}, {"image": "y.png"}]
    summary = run(write_lines(tmp_path / "in.jsonl", lines), tmp_path / "o.jsonl")
    assert (summary.records, summary.failed) == (5, 4)
    assert [line["index"] for line in read_lines(tmp_path / "o.jsonl")] == list(range(5))


def test_errors_name_their_lines(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(
        '{"prompt": "a"}\n\n{"max_new_tokens": 0}\n{"temperatur": 1}\n{"image": "x.png"}\n{"id": []}\nno\n'
    )
    run(tmp_path / "in.jsonl", tmp_path / "o.jsonl")
    lines = [line["error"]["message"] for line in read_lines(tmp_path / "o.jsonl") if "error" in line]
    assert [line.partition(":")[0] for line in lines[:4]] == ["line 3", "line 4", "line 5", "line 6"]
    assert lines[4].startswith("line 7 is no JSON")


def test_an_unfinished_run_goes_on_whatever_its_rest(run: Runner, tmp_path: Path) -> None:
    records = [{"id": "a"}, {"id": "b", "max_new_tokens": 0}, {"id": "c", "max_new_tokens": 0}]
    inputs = write_lines(tmp_path / "in.jsonl", records)
    run(inputs, tmp_path / "o.jsonl")
    first = (tmp_path / "o.jsonl").read_bytes().splitlines(keepends=True)[0]
    (tmp_path / "o.jsonl").unlink()
    (tmp_path / "o.jsonl.partial").write_bytes(first)
    assert run(inputs, tmp_path / "o.jsonl").failed == 2


def failures(*messages: str) -> Iterator[Record]:
    for index, message in enumerate(messages):
        yield failed(index, str(index), ImageError(message))


def test_records_are_held_back_only_while_all_fail_alike() -> None:
    read: list[int] = []

    def records(errors: list[PumiceError]) -> Iterator[Record]:
        read.clear()
        for index, error in enumerate(errors):
            read.append(index)
            yield failed(index, str(index), error)

    alike: list[PumiceError] = [ImageError(f"the image 'a{i}.png' cannot be read") for i in range(2000)]
    assert len(list(tried(records(alike)))) == 2000
    tried(records(alike))
    assert len(read) == 1000
    tried(records([*alike[:3], ImageError("another"), *alike]))
    assert len(read) == 4
    tried(records([*alike[:3], GenerationError("the image 'a4.png' cannot be read"), *alike]))
    assert len(read) == 4
    with pytest.raises(BatchError, match="none of the 999 records can be answered; the first: the image 'a0"):
        tried(records(alike[:999]))
    assert list(tried(iter([]))) == []


def test_faults_of_several_kinds_are_written(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    inputs = write_lines(tmp_path / "in.jsonl", [{"image": "x.png"}, {"max_new_tokens": 0}])
    summary = run(inputs, tmp_path / "o.jsonl")
    assert (summary.records, summary.failed) == (2, 2)


@pytest.mark.parametrize("place", ["missing/o.jsonl", "file/o.jsonl", "folder.jsonl"])
def test_places_that_will_not_do(place: str, unloaded: Runner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.jsonl").mkdir()
    inputs = write_lines(tmp_path / "in.jsonl", [{}])
    with pytest.raises(UsageError):
        unloaded(inputs, tmp_path / place)


@pytest.mark.parametrize("suffix", [".partial", ".run.json.tmp"])
def test_a_disk_that_cannot_be_written(
    suffix: str, unloaded: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{}])
    real = Path.open

    def full(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if path.name.endswith(suffix) and mode[0] in "wax":
            raise OSError(28, "No space left on device")
        return real(path, mode, *more, **named)

    monkeypatch.setattr(Path, "open", full)
    error = refused(unloaded, inputs, tmp_path / "o.jsonl")
    assert "No space left on device" in str(error)


def test_a_run_that_fails_later_leaves_nothing_either(run: Runner, tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{}])

    def failing() -> FakeEngine:
        raise UsageError("no engine")

    run.engine = failing
    assert str(refused(run, inputs, tmp_path / "o.jsonl")) == "no engine"
