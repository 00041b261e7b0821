"""What was typed, over sessions."""

import json
import stat
from pathlib import Path

import pytest

from pumice.cli.conversation import history
from pumice.cli.conversation.history import History, history_path


def test_entries_outlive_a_session_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "chat_history"
    first = History(path)
    for text in ("one", "two\nlines 猫", "two\nlines 猫", " ", "\udc80", "x" * 30_000):
        first.add(text)
    assert History(path).entries == ["one", "two\nlines 猫", "\udc80"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    History(path).add("three")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_where_it_lies_and_how_it_is_switched_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PUMICE_NO_HISTORY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert history_path() == tmp_path / ".local/state/pumice/chat_history"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert history_path() == tmp_path / "state/pumice/chat_history"
    monkeypatch.setenv("PUMICE_NO_HISTORY", "1")
    assert history_path() is None


def test_a_history_that_cannot_be_kept_disturbs_nobody(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", tmp_path / "pipe" / "x", None):
        kept = History(path)
        kept.add("one")
        assert kept.entries == ["one"]


def test_lines_that_are_none_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "chat_history"
    path.write_bytes(b'"one"\n{\n7\n\xff\n"two"\n"cut')
    assert History(path).entries == ["one", "two"]


def test_a_long_history_is_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chat_history"
    path.write_text("".join(json.dumps(f"entry {i}") + "\n" for i in range(2_500)))
    assert History(path).entries == [f"entry {i}" for i in range(1_500, 2_500)]
    assert len(path.read_bytes().splitlines()) == 1_000
    assert [other.name for other in tmp_path.iterdir()] == ["chat_history"]
    monkeypatch.setattr(history, "MOST_BYTES", 100)
    assert History(path).entries[-1] == "entry 2499"
    assert path.stat().st_size <= 100
