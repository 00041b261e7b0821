"""What is waited for is said on a terminal, at once, and gone afterwards."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from pumice.cli.main import main
from pumice.cli.waiting import waiting


class Terminal(io.StringIO):
    """A standard error that a person sees."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> str:
        """What stands in its last line."""
        line = ""
        for part in self.getvalue().split("\n")[-1].split("\r"):
            line = part + line[len(part) :]
        return line.rstrip()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    shown = Terminal()
    monkeypatch.setattr("pumice.cli.waiting.sys", SimpleNamespace(stderr=shown))
    return shown


def test_it_stands_there_while_the_block_runs(terminal: Terminal) -> None:
    with waiting("loading pebble", quiet=False):
        assert terminal.screen() == "pumice: loading pebble …"
    assert terminal.screen() == ""


def test_a_failure_stands_in_its_place(terminal: Terminal) -> None:
    with pytest.raises(ValueError, match="no"), waiting("loading pebble", quiet=False):
        raise ValueError("no")
    print("pumice: error: no", file=terminal, end="")
    assert terminal.screen() == "pumice: error: no"


def test_a_narrow_terminal_has_no_second_line(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    with waiting("loading a/long/way/to/pebble", quiet=False):
        assert terminal.screen() == "pumice: loading a/l"
    assert terminal.screen() == ""


def test_names_do_not_steer_the_terminal(terminal: Terminal) -> None:
    with waiting("loading \x1b[31mred", quiet=False):
        assert "\x1b" not in terminal.getvalue()


def test_nothing_is_said_where_nobody_looks(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with waiting("loading pebble", quiet=True):
        pass
    assert terminal.getvalue() == ""
    for stream in (io.StringIO(), None):
        monkeypatch.setattr("pumice.cli.waiting.sys", SimpleNamespace(stderr=stream))
        with waiting("loading pebble", quiet=False):
            pass
        assert stream is None or stream.getvalue() == ""


def test_run_says_it_before_it_loads(
    pebble_bundle: Path,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import pumice

    seen: list[str] = []
    real = pumice.load

    def load(*arguments: object, **options: object) -> object:
        seen.append(terminal.screen())
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pumice, "load", load)
    asked = ["run", str(pebble_bundle), "What is a circle?", "--device", "cpu", "--max-new-tokens", "2"]
    assert main(asked) == 0
    assert seen == [f"pumice: loading {pebble_bundle} …"[:79]]
    assert terminal.screen() == ""
    assert capsys.readouterr().out
    assert main([*asked, "--quiet"]) == 0
    assert seen[1] == ""
