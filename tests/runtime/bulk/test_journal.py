import errno
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from pumice.bulk.journal import Journal, read_records
from pumice.bulk.record import Record, encode_record, failed
from pumice.errors import BatchError, ImageError


def record(index: int) -> Record:
    if index % 3 == 1:
        return failed(index, f"é{index}", ImageError("broken"))
    return Record(index=index, id=f"é{index}", text="line\nend\u2028", finish_reason="stop", seconds=0.1)


def write(path: Path, number: int) -> bytes:
    journal = Journal(path)
    for index in range(journal.records, number):
        journal.append(record(index))
    journal.close()
    return path.read_bytes()


def test_a_journal_cut_at_any_byte_is_gone_on_from(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", 7)
    path = tmp_path / "cut"
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        journal = Journal(path)
        assert journal.records == whole[:length].count(b"\n")
        assert journal.failed == len([i for i in range(journal.records) if i % 3 == 1])
        journal.close()
        assert write(path, 7) == whole


@pytest.mark.parametrize(
    "tail", [b"\0" * 100 + b"\n", b"{}\n", b"[1]\n", encode_record(record(5)), b"\xff\n"]
)
def test_what_is_no_next_record_is_cut_off(tail: bytes, tmp_path: Path) -> None:
    whole = write(tmp_path / "j", 2)
    (tmp_path / "j").write_bytes(whole + tail + encode_record(record(2)))
    journal = Journal(tmp_path / "j")
    assert journal.records == 2
    journal.close()
    assert (tmp_path / "j").read_bytes() == whole


def test_read_records(tmp_path: Path) -> None:
    write(tmp_path / "j", 4)
    assert list(read_records(tmp_path / "j")) == [record(index) for index in range(4)]
    (tmp_path / "j").write_bytes((tmp_path / "j").read_bytes()[:-5])
    with pytest.raises(BatchError, match=r"line 4 of .* was changed"):
        list(read_records(tmp_path / "j"))
    with pytest.raises(BatchError, match="cannot be read: No such file"):
        list(read_records(tmp_path / "missing"))


def open_journal(path: Path, answers: Any) -> None:
    try:
        Journal(path)
        answers.put("opened")
    except BatchError as error:
        answers.put(str(error))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()

    def ask() -> Any:
        process = context.Process(target=open_journal, args=(tmp_path / "j", answers))
        process.start()
        process.join()
        return answers.get()

    journal = Journal(tmp_path / "j")
    assert "another process writes" in ask()
    journal.close()
    assert ask() == "opened"


def test_a_journal_that_was_renamed_meanwhile_is_not_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: (tmp_path / "j").rename(tmp_path / "other"))
    with pytest.raises(BatchError, match="another process"):
        Journal(tmp_path / "j")


def test_a_full_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append(record(0))

    class Full:
        def write(self, data: bytes) -> int:
            if len(data) > 5:
                real.write(data[:5])
                raise OSError(errno.ENOSPC, "No space left on device")
            return len(data)

    real, journal._file = journal._file, Full()  # type: ignore[assignment]
    with pytest.raises(
        BatchError, match=r"No space left on device; free some space, and run the same command"
    ):
        journal.append(record(1))
    real.close()
    assert write(tmp_path / "j", 3) == write(tmp_path / "fresh", 3)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="cannot be written: No such file or directory"):
        Journal(tmp_path / "missing" / "j")


@pytest.mark.parametrize("data", [b"mine\n", b"{}\n", b'{"index":1,"id":"a"}\n', b"\0" * 9])
def test_what_is_no_journal_is_left_alone(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(data)
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("j", "link"):
        with pytest.raises(BatchError, match="pumice did not write it"):
            Journal(tmp_path / name)
    assert (tmp_path / "j").read_bytes() == data
    assert (tmp_path / "link").is_symlink()


def test_a_journal_that_stays_empty_goes_if_it_was_made_for_nothing(tmp_path: Path) -> None:
    Journal(tmp_path / "made").close()
    assert not (tmp_path / "made").exists()
    (tmp_path / "found").write_bytes(b"")
    Journal(tmp_path / "found").close()
    assert (tmp_path / "found").exists()
