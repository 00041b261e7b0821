from pathlib import Path

import pytest

from pumice.bulk import parquet
from pumice.bulk.parquet import read_parquet, write_parquet
from pumice.bulk.record import Answer, Record, decode_record, encode_record, failed
from pumice.errors import BatchError, ImageError, UsageError
from pumice.result import TokenLogprob, TokenLogprobs
from tests.runtime.bulk.conftest import Runner, write_lines

arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")

LOGPROBS = (
    TokenLogprobs(
        token_id=1, token="a", logprob=-0.5, top=(TokenLogprob(token_id=2, token="b", logprob=-1.0),)
    ),
)
RECORDS = [
    Record(
        index=0,
        id="a",
        text="é\n",
        finish_reason="stop",
        prompt_tokens=3,
        image_tokens=0,
        completion_tokens=2,
        seconds=0.25,
        logprobs=LOGPROBS,
        answers=(Answer(text="x", finish_reason="length", completion_tokens=1, logprobs=LOGPROBS),),
    ),
    failed(1, "b", ImageError("broken")),
    Record(index=2, id="c", text="", finish_reason="length"),
]


def test_records_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS", 2)
    write_parquet(iter(RECORDS), tmp_path / "a.parquet")
    assert list(read_parquet(tmp_path / "a.parquet")) == RECORDS
    assert [decode_record(encode_record(record)) for record in RECORDS] == RECORDS


def test_columns(run: Runner, tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{"id": "a"}, {"image": "missing.png"}])
    run(inputs, tmp_path / "out.parquet")
    table = arrow.parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names == [
        *(
            "index",
            "id",
            "text",
            "finish_reason",
            "prompt_tokens",
            "image_tokens",
            "completion_tokens",
            "seconds",
        ),
        *("logprobs", "answers", "error_type", "error_message"),
    ]
    assert table["error_type"].to_pylist() == [None, "ImageError"]
    assert run(inputs, tmp_path / "out.parquet").work is None
    assert not (tmp_path / "out.parquet.partial").exists()


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BatchError, match="cannot be read"):
        list(read_parquet(tmp_path / "a.parquet"))
    arrow.parquet.write_table(arrow.table({"a": [1]}), tmp_path / "b.parquet")
    with pytest.raises(BatchError, match="cannot be read"):
        list(read_parquet(tmp_path / "b.parquet"))


def test_without_pyarrow_nothing_is_begun(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'pumice\[parquet\]'"):
        run(write_lines(tmp_path / "in.jsonl", [{}]), tmp_path / "out.parquet")
    assert not list(tmp_path.glob("out*"))


def test_a_failing_conversion_leaves_the_journal(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{"id": "a"}])

    def full(*_: object) -> None:
        (tmp_path / "out.parquet.tmp").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pumice.bulk.formats.write_parquet", full)
        with pytest.raises(BatchError, match="No space left on device; free some space"):
            run(inputs, tmp_path / "out.parquet")
    assert sorted(path.name for path in tmp_path.glob("out*")) == [
        "out.parquet.partial",
        "out.parquet.run.json",
    ]
    assert run(inputs, tmp_path / "out.parquet").records == 1
