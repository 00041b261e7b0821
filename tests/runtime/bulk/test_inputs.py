import hashlib
import os
from pathlib import Path

import pytest

from pumice.bulk import inputs
from pumice.bulk.inputs import Entry, entries, open_inputs, scan
from pumice.errors import BatchError, PumiceError, UsageError


def read(path: Path) -> list[Entry]:
    return list(open_inputs(path).read(hashlib.sha256()))


def message(entry: Entry) -> str:
    assert isinstance(entry.fields, PumiceError)
    return str(entry.fields)


def test_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes('\ufeff{"id": "a", "prompt": "é"}\n\n  \r\n{"id": 7}\r\n{"prompt": "last"}'.encode())
    found = read(path)
    assert [(entry.index, entry.id, entry.where) for entry in found] == [
        (0, "a", "line 1"),
        (1, "7", "line 4"),
        (2, "5", "line 5"),
    ]
    assert found[0].fields == {"id": "a", "prompt": "é"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "line 2 is no JSON"),
        (b"[1]", "line 2 is a JSON array, expected an object"),
        (b"null", "line 2 is a JSON null, expected an object"),
        (b'{"id": NaN}', "line 2 is no JSON"),
        (b'{"id": "\xff"}', "line 2 is no JSON"),
        (b'{"id": "\\ud800"}', "line 2 is no JSON"),
        (b"[" * 100_000, "line 2 is no JSON"),
        (b'{"id": true}', "the record's id is of type bool, expected text or a whole number"),
        (b'{"id": {}}', "the record's id is of type dict"),
        (b'{"id": 1e3}', "the record's id is of type float"),
        (b'{"id": 99999999999999999999}', "the record's id is"),
        (b"x" * 5000, "line 2 has more than 1,000 bytes"),
        (b"x" * 1001, "line 2 has more than 1,000 bytes"),
    ],
)
def test_bad_lines_are_entries_of_their_own(
    line: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if b"x" in line:
        monkeypatch.setattr(inputs, "MAX_LINE", 1000)
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"id": "a"}\n' + line + b'\n{"id": "c"}\n')
    found = read(path)
    assert [entry.id for entry in found] == ["a", "2", "c"]
    assert message(found[1]).startswith(said)
    assert scan(open_inputs(path)).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_images_of_a_folder(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.JPG", "a.webp", "c.gif", "b.jpeg", ".hidden.png", ".git/x.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    found = read(tmp_path)
    assert [entry.id for entry in found] == ["a.webp", "b/1.JPG", "b/2.png", "b.jpeg", "c.gif"]
    assert [entry.fields for entry in found] == [{"image": entry.id} for entry in found]


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"x")
    (entry,) = read(tmp_path)
    assert entry.id == r"\udcff.png"
    assert (tmp_path / entry.fields["image"]).exists()  # type: ignore[index]
    scan(open_inputs(tmp_path))


def test_what_cannot_be_inputs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no "):
        open_inputs(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="no regular file"):
        open_inputs(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BatchError, match="has no records"):
        scan(open_inputs(tmp_path / "empty"))


@pytest.mark.parametrize("lines", [b'{"id": "b"}\n{"id": "b"}\n', b'{"id": "3"}\n{}\n'])
def test_two_records_with_the_same_id(lines: bytes, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"id": "a"}\n' + lines)
    with pytest.raises(BatchError, match=r"line 2 and line 3 of .* have the same id '[b3]'"):
        scan(open_inputs(path))


def test_ids_whose_digests_clash_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_digest_of", lambda text: len(text))
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "b"}\n{"id": "cc"}\n')
    assert scan(open_inputs(path)).records == 3


@pytest.mark.parametrize("change", [b'{"id": "x"}\n', b'{"id": "a"}\n{"id": "b"}\n', b'{"id": "b"}\n'])
def test_inputs_that_change_while_they_are_read(change: bytes, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"id": "a"}\n')
    identity = scan(open_inputs(path))
    assert len(list(entries(open_inputs(path), identity))) == 1
    path.write_bytes(change)
    seen = []
    with pytest.raises(BatchError, match="was changed while it was read"):
        seen.extend(entries(open_inputs(path), identity))
    assert len(seen) <= 1


def test_a_folder_that_changes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    first = scan(open_inputs(tmp_path))
    assert scan(open_inputs(tmp_path)) == first
    (tmp_path / "b.txt").write_bytes(b"x")
    assert scan(open_inputs(tmp_path)) == first
    (tmp_path / "a.png").write_bytes(b"xy")
    assert scan(open_inputs(tmp_path)) != first
