import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pumice.bulk import write_records
from pumice.bulk.csv_file import COLUMNS, read_csv, write_csv
from pumice.bulk.record import Answer, Record, failed
from pumice.errors import BatchError, ImageError, UsageError
from pumice.result import TokenLogprob, TokenLogprobs
from tests.runtime.bulk.conftest import Runner, contents, read_lines, write_lines

LOGPROBS = (
    TokenLogprobs(
        token_id=1, token='"', logprob=-0.5, top=(TokenLogprob(token_id=2, token="é", logprob=-1.0),)
    ),
)
RECORDS = [
    Record(
        index=0,
        id="a",
        text='He said "a, b",\r\nand left',
        finish_reason="stop",
        prompt_tokens=3,
        image_tokens=0,
        completion_tokens=2,
        seconds=0.25,
        logprobs=LOGPROBS,
        answers=(Answer(text="x", finish_reason="length", completion_tokens=1, logprobs=LOGPROBS),),
    ),
    failed(1, "b", ImageError("broken, 'x'")),
    Record(index=2, id="", text="", finish_reason="length"),
    Record(index=3, id="=1+1", text="=HYPERLINK(1)", finish_reason="stop"),
]


def test_bytes_are_those_of_rfc_4180(tmp_path: Path) -> None:
    write_csv(iter(RECORDS), tmp_path / "a.csv")
    top = '{""token_id"":2,""token"":""é"",""logprob"":-1.0}'
    logprobs = rf'[{{""token_id"":1,""token"":""\"""",""logprob"":-0.5,""top"":[{top}]}}]'
    answers = (
        '[{""text"":""x"",""finish_reason"":""length"",""completion_tokens"":1,""logprobs"":'
        + logprobs
        + "}]"
    )
    assert (tmp_path / "a.csv").read_bytes().decode() == (
        "index,id,text,finish_reason,prompt_tokens,image_tokens,completion_tokens,seconds,"
        "logprobs,answers,error_type,error_message\r\n"
        f'0,a,"He said ""a, b"",\r\nand left",stop,3,0,2,0.25,"{logprobs}","{answers}",,\r\n'
        "1,b,,,,,,,,,ImageError,\"broken, 'x'\"\r\n"
        "2,,,length,,,,,,,,\r\n"
        "3,=1+1,=HYPERLINK(1),stop,,,,,,,,\r\n"
    )


def test_records_there_and_back(tmp_path: Path) -> None:
    write_csv(iter(RECORDS), tmp_path / "a.csv")
    assert list(read_csv(tmp_path / "a.csv")) == RECORDS


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.booleans()), max_size=5))
@settings(max_examples=100, deadline=None)
def test_any_text_comes_back(texts: list[tuple[str, bool]]) -> None:
    import tempfile

    records = [
        Record(index=i, id=text, text=text, finish_reason="stop")
        if good
        else failed(i, text, ImageError(text))
        for i, (text, good) in enumerate(texts)
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_csv(iter(records), Path(folder) / "a.csv")
        assert list(read_csv(Path(folder) / "a.csv")) == records


def test_long_fields_are_read_again(tmp_path: Path) -> None:
    record = Record(index=0, id="a", text="x" * 1_000_000, finish_reason="stop", logprobs=LOGPROBS * 10_000)
    write_csv(iter([record]), tmp_path / "a.csv")
    assert list(read_csv(tmp_path / "a.csv")) == [record]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a,b\r\n1,2\r\n",
        ",".join(COLUMNS).encode() + b"\r\n0,a\r\n",
        ",".join(COLUMNS).encode() + b"\r\nx,a,,,,,,,,,,\r\n",
        ",".join(COLUMNS).encode() + b'\r\n0,"a\r\n',
        ",".join(COLUMNS).encode() + b"\r\n0,\xff,,,,,,,,,,\r\n",
    ],
)
def test_a_file_of_another_kind(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(BatchError, match="cannot be read"):
        list(read_csv(tmp_path / "a.csv"))


def test_a_run(run: Runner, tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{"id": "a"}, {"image": "missing.png"}, {"id": "c"}])
    assert run(inputs, tmp_path / "o.csv").failed == 1
    run(inputs, tmp_path / "o.jsonl")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "o.csv").read_text())))
    lines = read_lines(tmp_path / "o.jsonl")
    assert [row["text"] for row in rows] == [line.get("text", "") for line in lines]
    assert [row["error_type"] for row in rows] == ["", "ImageError", ""]
    before = contents(tmp_path)
    assert run(inputs, tmp_path / "o.csv").work is None
    assert contents(tmp_path) == before
    summary = run(inputs, tmp_path / "o.csv", retry_errors=True)
    assert (summary.records, summary.failed, summary.kept) == (3, 1, 2)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_write_records(suffix: str, tmp_path: Path) -> None:
    from pumice.bulk.formats import FORMATS

    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    path = tmp_path / f"a{suffix}"
    write_records(iter(RECORDS), path)
    assert list(FORMATS[suffix].read(path)) == RECORDS
    before = contents(tmp_path)
    with pytest.raises(BatchError, match="is there already"):
        write_records(RECORDS, path)
    assert contents(tmp_path) == before
    write_records(RECORDS[:1], str(path), overwrite=True)
    assert list(FORMATS[suffix].read(path)) == RECORDS[:1]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with pytest.raises(UsageError, match=r"ends with \.jsonl, \.csv or \.parquet"):
        write_records(RECORDS, tmp_path / "a.txt")


def test_capitals_name_the_same_kinds(run: Runner, tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{"id": "a"}])
    run(inputs, tmp_path / "o.csv")
    run(inputs, tmp_path / "O.CSV")
    (one,), (other,) = (list(read_csv(tmp_path / name)) for name in ("o.csv", "O.CSV"))
    assert one.text == other.text


def test_write_records_that_fail_leave_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_records(RECORDS, path)
    before = contents(tmp_path)

    def failing() -> object:
        yield RECORDS[0]
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError):
        write_records(failing(), path, overwrite=True)  # type: ignore[arg-type]
    assert contents(tmp_path) == before
