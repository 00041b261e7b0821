import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pumice.bulk.journal import Journal
from pumice.errors import BatchError, UsageError
from tests.runtime.bulk.conftest import Runner, read_lines, write_lines
from tests.runtime.bulk.engine import FakeEngine

RECORDS: list[Any] = [
    {"id": "a", "prompt": "A?"},
    {"image": "image.png"},
    {"id": "missing", "image": "missing.png"},
    {"id": "typo", "max_new_token": 3},
    {"id": "é\n", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "do_sample": True},
    {"id": "range", "max_new_tokens": 0},
    {"id": "z"},
]
FAILED = {"missing": "ImageError", "typo": "UsageError", "range": "UsageError"}


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "in" / "image.png")
    return write_lines(tmp_path / "in" / "in.jsonl", RECORDS)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "out.jsonl"


def names(output: Path) -> list[str]:
    return sorted(path.name for path in output.parent.iterdir())


def test_every_record_once_in_order(run: Runner, inputs: Path, output: Path) -> None:
    summary = run(inputs, output)
    assert (summary.records, summary.failed) == (7, 3)
    lines = read_lines(output)
    assert [line["index"] for line in lines] == list(range(7))
    assert [line["id"] for line in lines] == ["a", "2", "missing", "typo", "é\n", "range", "z"]
    assert {line["id"]: line["error"]["type"] for line in lines if "error" in line} == FAILED
    assert set(lines[0]) == {
        "index",
        "id",
        "text",
        "finish_reason",
        "prompt_tokens",
        "image_tokens",
        "completion_tokens",
    }
    assert set(lines[2]) == {"index", "id", "error"}
    assert lines[3]["error"]["message"].startswith("line 4: the record has the unknown field 'max_new_token'")
    assert names(output) == ["out.jsonl", "out.jsonl.run.json"]


def test_a_finished_run_is_left_alone(run: Runner, inputs: Path, output: Path) -> None:
    run(inputs, output)
    before = output.read_bytes()
    run.engine = lambda: pytest.fail("nothing was to be done")
    summary = run(inputs, output)
    assert (summary.records, summary.failed, summary.work) == (7, 3, None)
    assert output.read_bytes() == before


def test_a_run_cut_at_any_byte_is_gone_on_from(run: Runner, inputs: Path, output: Path) -> None:
    write_lines(inputs, RECORDS[1:5])
    run(inputs, output)
    expected = read_lines(output)
    whole = output.read_bytes()
    for length in range(len(whole) + 1):
        output.unlink()
        output.with_name("out.jsonl.partial").write_bytes(whole[:length])
        engine = FakeEngine()
        run.engine = lambda engine=engine: engine  # type: ignore[misc]
        run(inputs, output)
        assert read_lines(output) == expected
        kept = whole[:length].count(b"\n")
        assert output.read_bytes().startswith(whole[: whole[:length].rfind(b"\n") + 1])
        assert engine.submitted <= 4 - kept


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("pass_", ["first", "retry"])
def test_a_run_stopped_before_any_change_of_a_file(
    pass_: str, suffix: str, run: Runner, inputs: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename, removal and write is, once, the one that does not happen any more."""
    output = output.with_suffix(suffix)
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    expected = None
    for stop in itertools.count():
        for path in output.parent.iterdir():
            path.unlink()
        if pass_ == "retry":
            run(inputs, output)
        with monkeypatch.context() as patch:
            left = _stop_after(stop, patch)
            try:
                run(inputs, output, retry_errors=True)
            except KeyboardInterrupt:
                pass
            else:
                break
        assert left() == 0
        run(inputs, output, retry_errors=pass_ == "retry")
        records = _open(output)
        expected = expected or records
        assert records == expected
        assert names(output) == [output.name, output.name + ".run.json"]
    assert stop > 8


def _open(output: Path) -> list[Any]:
    import dataclasses

    from pumice.bulk.output import Output

    return [dataclasses.replace(record, seconds=None) for record in Output(output).records()]


def _stop_after(steps: int, patch: pytest.MonkeyPatch) -> Any:
    """Let so many changes happen; whatever comes after is as if the process were killed."""
    left = steps

    def guarded(real: Any) -> Any:
        def act(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left <= 0:
                raise KeyboardInterrupt
            left -= 1
            return real(*args, **kwargs)

        return act

    for name in ("replace", "unlink"):
        patch.setattr(Path, name, guarded(getattr(Path, name)))
    for name in ("append", "clear", "__init__"):
        patch.setattr(Journal, name, guarded(getattr(Journal, name)))
    return lambda: left


def test_ctrl_c_keeps_what_is_done(run: Runner, tmp_path: Path, output: Path) -> None:
    inputs = write_lines(tmp_path / "many.jsonl", [{"prompt": str(i)} for i in range(100)])

    def interrupted(prompt: Any) -> float:
        if prompt == "40":
            raise KeyboardInterrupt
        return 0.001

    run.engine = lambda: FakeEngine(workers=1, pace=interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(inputs, output)
    assert names(output) == ["out.jsonl.partial", "out.jsonl.run.json"]
    kept = len(output.with_name("out.jsonl.partial").read_text().splitlines())
    assert 30 < kept <= 40
    engine = FakeEngine()
    run.engine = lambda: engine
    run(inputs, output)
    assert engine.submitted == 100 - kept
    assert len(read_lines(output)) == 100


def test_errors_are_tried_again_on_request(run: Runner, inputs: Path, output: Path) -> None:
    run(inputs, output)
    before = read_lines(output)
    Image.new("RGB", (4, 4), "blue").save(inputs.parent / "missing.png")
    engine = FakeEngine()
    run.engine = lambda: engine
    summary = run(inputs, output, retry_errors=True)
    assert engine.submitted == 1  # the others are refused before
    assert (summary.records, summary.failed) == (7, 2)
    after = read_lines(output)
    assert "text" in after[2]
    assert [line for line in after if line["id"] != "missing"] == [
        line for line in before if line["id"] != "missing"
    ]
    write_lines(inputs, RECORDS[:1])
    output.unlink()
    run.engine = FakeEngine
    run(inputs, output, overwrite=True)
    run.engine = lambda: pytest.fail("nothing has failed")
    assert run(inputs, output, retry_errors=True).work is None


@pytest.mark.parametrize("state", ["finished", "unfinished"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "other"}, "prompt was '?', now it is 'other'"),
        ({"options": {"max_new_tokens": 9}}, "max_new_tokens was not given, now it is 9"),
        ({"raw": True}, "raw was False, now it is True"),
        ("bundle", "it was begun with another bundle"),
        ("more", "the inputs have changed: 7 records then, 8 now"),
        ("edited", "the inputs have changed"),
    ],
)
def test_another_run_is_refused(
    change: Any, said: str, state: str, run: Runner, inputs: Path, output: Path, bundle: Path
) -> None:
    run(inputs, output)
    if state == "unfinished":
        output.rename(output.with_name("out.jsonl.partial"))
    before = {path.name: path.read_bytes() for path in output.parent.iterdir()}
    settings: dict[str, Any] = {}
    if change == "bundle":
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["decoder"]["layers"] += 1
        (bundle / "manifest.json").write_text(json.dumps(manifest))
    elif change == "more":
        write_lines(inputs, [*RECORDS, {}])
    elif change == "edited":
        write_lines(inputs, [*RECORDS[:-1], {"id": "y"}])
    else:
        settings = change
    with pytest.raises(BatchError, match="belongs to another run") as caught:
        run(inputs, output, **settings)
    assert said in str(caught.value)
    assert {path.name: path.read_bytes() for path in output.parent.iterdir()} == before
    assert run(inputs, output, overwrite=True, **settings).work is not None


def test_verified_since_and_other_slots_are_the_same_run(
    run: Runner, inputs: Path, output: Path, bundle: Path
) -> None:
    run(inputs, output)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["parity"] = {"decoder": {"cosine": 1.0}}
    manifest["files"]["PARITY.md"] = {"size": 3, "sha256": "0" * 64}
    (bundle / "manifest.json").write_text(json.dumps(manifest, indent=1))
    assert run(inputs, output, slots=2, device="cpu", threads=1).work is None


def test_an_output_of_others_is_overwritten_on_request_only(run: Runner, inputs: Path, output: Path) -> None:
    output.write_text("mine\n")
    with pytest.raises(BatchError, match=r"is there already, and no .* says what it was made from"):
        run(inputs, output)
    assert output.read_text() == "mine\n"
    run(inputs, output, overwrite=True)
    assert len(read_lines(output)) == 7


def test_a_run_that_did_nothing_yet_binds_nobody(run: Runner, inputs: Path, output: Path) -> None:
    def failing() -> FakeEngine:
        raise UsageError("no engine")

    run.engine = failing
    with pytest.raises(UsageError):
        run(inputs, output)
    run.engine = FakeEngine
    run(inputs, output, prompt="another")
    assert len(read_lines(output)) == 7


def test_a_record_changed_by_hand_is_noticed_before_it_is_copied(
    run: Runner, inputs: Path, output: Path
) -> None:
    run(inputs, output)
    lines = output.read_text().splitlines(keepends=True)
    output.write_text("".join([*lines[:6], lines[6].replace('"z"', '"y"')]))
    with pytest.raises(BatchError, match=r"record 7 of .* was changed"):
        run(inputs, output, retry_errors=True)


@pytest.mark.parametrize("name", ["out.json", "out", "missing/out.jsonl", "in.jsonl", "."])
def test_outputs_that_will_not_do(name: str, run: Runner, inputs: Path) -> None:
    with pytest.raises(UsageError):
        run(inputs, inputs.parent / name)
    assert len(inputs.read_text().splitlines()) == 7


def test_an_input_that_changes_under_the_run(run: Runner, inputs: Path, output: Path) -> None:
    def change() -> FakeEngine:
        write_lines(inputs, [*RECORDS[:-1], {"id": "z", "prompt": "B?"}])
        return FakeEngine()

    run.engine = change
    with pytest.raises(BatchError, match="was changed while it was read"):
        run(inputs, output)
    assert not output.exists()


def test_a_folder_of_images(run: Runner, tmp_path: Path, output: Path) -> None:
    for i in range(20):
        path = tmp_path / "images" / str(i % 3) / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(path)
    path.write_bytes(path.read_bytes()[:40])
    run(tmp_path / "images", output)
    lines = read_lines(output)
    assert [line["id"] for line in lines] == sorted(f"{i % 3}/{i:02}.png" for i in range(20))
    assert [line["id"] for line in lines if "error" in line] == ["1/19.png"]
    assert len({line["text"] for line in lines if "text" in line}) == 19
    shutil.rmtree(tmp_path / "images" / "0")
    with pytest.raises(BatchError, match="the inputs have changed: 20 records then, 13 now"):
        run(tmp_path / "images", output)


def test_memory_does_not_grow_with_the_records(run: Runner, tmp_path: Path, output: Path) -> None:
    import tracemalloc

    with (tmp_path / "in.jsonl").open("w") as file:
        file.writelines(f'{{"prompt": "{i:020000}"}}\n' for i in range(1500))
    run(write_lines(tmp_path / "few.jsonl", RECORDS), output)
    tracemalloc.start()
    try:
        run(tmp_path / "in.jsonl", output.with_name("many.jsonl"))
        assert tracemalloc.get_traced_memory()[1] < 5e6  # of 30e6
    finally:
        tracemalloc.stop()
