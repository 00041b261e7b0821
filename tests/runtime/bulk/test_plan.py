"""Which run goes on, begins anew or is refused; and that nothing is lost meanwhile."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pumice.bulk.journal import Journal
from pumice.errors import BatchError
from tests.runtime.bulk.conftest import Runner, contents, read_lines, write_lines
from tests.runtime.bulk.engine import FakeEngine
from tests.runtime.engine.stand_ins import eventually


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "in.jsonl", [{"prompt": str(i)} for i in range(60)])


@pytest.fixture(params=[".jsonl", ".csv"])
def output(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / f"o{request.param}"


def interrupted(run: Runner, at: int, inputs: Path, output: Path, **settings: Any) -> int:
    """Ctrl-C at a record, once most of those before it are written; the number of records that are kept."""

    def pace(prompt: Any) -> float:
        if prompt == str(at):
            eventually(lambda: partial(output).read_bytes().count(b"\n") > at - 10)
            raise KeyboardInterrupt
        return 0.001

    run.engine = lambda: FakeEngine(workers=1, pace=pace)
    with pytest.raises(KeyboardInterrupt):
        run(inputs, output, **settings)
    return partial(output).read_bytes().count(b"\n")


def partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def submitted(run: Runner, inputs: Path, output: Path, **settings: Any) -> int:
    """Requests that a run makes."""
    engine = FakeEngine()
    run.engine = lambda: engine
    run(inputs, output, **settings)
    return engine.submitted


def records(output: Path) -> list[Any]:
    from pumice.bulk.output import Output

    return [record.text for record in Output(output).records()]


@pytest.mark.parametrize("before", ["nothing", "finished", "another", "foreign"])
def test_a_run_with_overwrite_goes_on_after_ctrl_c(
    before: str, run: Runner, inputs: Path, output: Path
) -> None:
    if before == "foreign":
        output.write_text("mine\n")
    elif before != "nothing":
        run(inputs, output, prompt="?" if before == "finished" else "another")
    old = output.read_bytes() if before != "nothing" else None
    kept = interrupted(run, 20, inputs, output, overwrite=True)
    assert 10 < kept <= 20
    more = interrupted(run, 40, inputs, output, overwrite=True)
    assert 30 < more <= 40
    assert (output.read_bytes() if output.exists() else None) == old
    assert submitted(run, inputs, output, overwrite=True) == 60 - more
    assert len(set(records(output))) == 60
    assert not partial(output).exists()
    before_again = contents(output.parent)
    assert submitted(run, inputs, output) == 0
    assert contents(output.parent) == before_again
    assert submitted(run, inputs, output, overwrite=True) == 60  # a finished output is begun anew


def test_without_the_flag_it_goes_on_too(run: Runner, inputs: Path, output: Path) -> None:
    run(inputs, output, prompt="another")
    kept = interrupted(run, 20, inputs, output, overwrite=True)
    assert submitted(run, inputs, output) == 60 - kept
    assert submitted(run, inputs, output) == 0


def test_overwrite_goes_on_with_a_run_that_was_begun_without(run: Runner, inputs: Path, output: Path) -> None:
    kept = interrupted(run, 20, inputs, output)
    assert submitted(run, inputs, output, overwrite=True) == 60 - kept


def test_restart_begins_anew(run: Runner, inputs: Path, output: Path) -> None:
    interrupted(run, 30, inputs, output)
    kept = interrupted(run, 20, inputs, output, restart=True)
    assert kept <= 20
    assert submitted(run, inputs, output) == 60 - kept
    assert submitted(run, inputs, output, restart=True) == 60


def test_an_unfinished_run_of_other_settings_is_refused_or_overwritten(
    run: Runner, inputs: Path, output: Path
) -> None:
    interrupted(run, 20, inputs, output)
    before = contents(output.parent)
    with pytest.raises(BatchError, match="seed was not given, now it is 3"):
        run(inputs, output, options={"seed": 3})
    assert contents(output.parent) == before
    assert submitted(run, inputs, output, options={"seed": 3}, overwrite=True) == 60


def test_an_overwriting_run_that_was_stopped_before_its_first_record(
    run: Runner, inputs: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(inputs, output, prompt="another")
    old = output.read_bytes()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, output, overwrite=True)
    assert output.read_bytes() == old
    with pytest.raises(BatchError, match="belongs to another run"):
        run(inputs, output)  # the output is not of these settings, whatever is noted beside it
    assert submitted(run, inputs, output, overwrite=True) == 60


def test_overwrite_keeps_no_answers_of_a_retry(run: Runner, tmp_path: Path, output: Path) -> None:
    images = [{"id": str(i), "prompt": str(i), "image": f"{i}.png"} for i in range(4)]
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    inputs = write_lines(tmp_path / "images.jsonl", images)
    run(inputs, output)
    for i in range(1, 4):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{i}.png")
    kept = interrupted(run, 3, inputs, output, retry_errors=True)
    assert 1 <= kept < 4
    assert submitted(run, inputs, output, overwrite=True) == 4


def test_a_retry_tells_what_it_kept(run: Runner, tmp_path: Path, output: Path) -> None:
    inputs = write_lines(tmp_path / "some.jsonl", [{"id": "a"}, {"image": "missing.png"}, {"id": "c"}])
    first = run(inputs, output)
    assert (first.records, first.failed, first.kept) == (3, 1, 0)
    again = run(inputs, output, retry_errors=True)
    assert (again.records, again.failed, again.kept) == (3, 1, 2)
    assert again.work is not None
    assert again.work.startswith("1 records in ")
    assert again.work.endswith("; 2 kept")


def hold(path: Path, held: Any, release: Any) -> None:
    journal = Journal(path)
    held.set()
    release.wait()
    journal.close()


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"restart": True}, {"retry_errors": True}])
@pytest.mark.parametrize("state", ["new", "finished", "unfinished"])
def test_a_second_process_is_refused_before_it_loads_a_model(
    state: str, flags: dict[str, bool], run: Runner, inputs: Path, output: Path
) -> None:
    if state == "finished":
        run(inputs, output)
    elif state == "unfinished":
        interrupted(run, 20, inputs, output)
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(partial(output), held, release))
    process.start()
    assert held.wait(300)
    before = contents(output.parent)
    engine: Callable[[], FakeEngine] = lambda: pytest.fail("a model was loaded")  # noqa: E731
    run.engine = engine
    with pytest.raises(BatchError, match="another process writes"):
        run(inputs, output, **flags)
    assert contents(output.parent) == before
    process.kill()  # and its lock with it
    process.join()
    run.engine = FakeEngine
    run(inputs, output, **flags)
    assert len(records(output)) == 60


def test_what_is_read_beside_an_output_has_a_bound(run: Runner, inputs: Path, output: Path) -> None:
    run(inputs, output)
    beside = output.with_name(output.name + ".run.json")
    with beside.open("ab") as file:
        file.truncate(2**36)  # of no bytes on the disk
    with pytest.raises(BatchError, match="pumice did not write it"):
        run(inputs, output)


def test_lines_of_an_overwritten_output_are_of_the_new_run(run: Runner, inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "o.jsonl", options={"max_new_tokens": 3})
    old = read_lines(tmp_path / "o.jsonl")
    run(inputs, tmp_path / "o.jsonl", overwrite=True)
    new = read_lines(tmp_path / "o.jsonl")
    assert all(one["text"] != other["text"] for one, other in zip(old, new, strict=True))
