"""What scripts are told: exit codes, and one line of what came of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pumice.cli import main
from tests.runtime.bulk.conftest import Runner, contents, write_lines
from tests.runtime.bulk.engine import FakeEngine

Batch = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def batch(run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Batch:
    def call(lines: list[Any], *more: str) -> tuple[int, list[str]]:
        inputs = write_lines(tmp_path / "in.jsonl", lines)
        code = main(["batch", str(run.bundle), str(inputs), "-o", str(tmp_path / "o.jsonl"), *more])
        return code, capsys.readouterr().err.splitlines()

    return call


GOOD, BAD, UNFIT = {"prompt": "a"}, {"image": "missing.png"}, {"max_new_tokens": 0}


def test_all_well(batch: Batch) -> None:
    assert batch([GOOD, GOOD])[0] == 0
    code, said = batch([GOOD, GOOD], "--strict")
    assert code == 0
    assert said[-1].endswith("2 records, 2 answered, 0 failed")


def test_some_failed(batch: Batch) -> None:
    code, said = batch([GOOD, BAD], "--prompt", "?")
    assert code == 0
    assert said[-1].endswith("2 records, 1 answered, 1 failed; --retry-errors tries them again")
    assert batch([GOOD, BAD], "--prompt", "?", "--strict")[0] == 4  # also where there is nothing to do
    code, said = batch([GOOD, BAD], "--prompt", "?", "--strict", "--retry-errors")
    assert code == 4
    assert said[-1].endswith("2 records, 1 kept, 0 answered, 1 failed; --retry-errors tries them again")


def test_none_was_answered(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "missing.png").write_bytes(b"no image")
    assert batch([UNFIT, BAD], "--prompt", "?")[0] == 1
    assert batch([UNFIT, BAD], "--prompt", "?")[0] == 1


@pytest.mark.parametrize(
    ("lines", "more", "code"),
    [
        ([GOOD], ["--prompt"], 2),
        ([{}], [], 2),
        ([UNFIT, UNFIT], ["--prompt", "?"], 2),
        ([BAD], ["--prompt", "?"], 1),
    ],
)
def test_it_could_not_work(
    batch: Batch, lines: list[Any], more: list[str], code: int, tmp_path: Path
) -> None:
    write_lines(tmp_path / "in.jsonl", lines)
    before = set(contents(tmp_path))
    found, said = batch(lines, *more)
    assert found == code
    (line,) = said
    assert line.startswith("pumice: error: ")
    assert set(contents(tmp_path)) == before


@pytest.mark.parametrize(
    ("flag", "again"),
    [("--overwrite", "the same command"), ("--restart", "the same command without --restart")],
)
def test_ctrl_c(batch: Batch, flag: str, again: str, run: Runner) -> None:
    def stop() -> FakeEngine:
        raise KeyboardInterrupt

    run.engine = stop
    code, said = batch([GOOD], flag)
    assert code == 130
    assert said == [f"pumice: interrupted: {again} goes on where it stopped"]
