"""Text from manifests, checkpoints and file names reaches a terminal without control characters."""

from __future__ import annotations

import json
import logging
import shutil
import unicodedata
from pathlib import Path

import pytest

from pumice.cli import main
from pumice.cli.failures import guarded
from pumice.cli.terminal import as_json, json_lines, print_stream, printable, printable_lines

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\r\u202egnp\u2028é 画"
"""A title, a cleared screen, a colour in one byte, a deletion, a return, a change of direction and a line's end."""


def harmless(text: str) -> bool:
    return all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp", "Cs") for c in text)


@pytest.fixture
def evil_bundle(pebble_bundle: Path, tmp_path: Path) -> Path:
    """Its manifest says things, and so does its name."""
    folder = tmp_path / "b\x1b[31m\x9b"
    shutil.copytree(pebble_bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["source"] |= {"checkpoint": EVIL, "vision_model_type": EVIL, "text_model_type": EVIL}
    manifest["created_with"] = {"torch" + EVIL: EVIL}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_manifest(evil_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(evil_bundle)]) == 0
    table = capsys.readouterr().out
    assert harmless(table)
    assert r"a\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\r\u202egnp\u2028é 画" in table
    assert main(["info", str(evil_bundle), "--json"]) == 0
    shown = capsys.readouterr().out
    assert harmless(shown)
    assert "é 画" in shown
    assert json.loads(shown)["source"]["checkpoint"] == EVIL


def test_a_file_name(evil_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["info", f"{evil_bundle}{EVIL}"],
        ["run", str(evil_bundle), "Hi", "-i", EVIL],
        ["run", str(evil_bundle), "Hi", f"--{EVIL}"],
        ["optimize", str(evil_bundle), "--remove"],
        ["bench", str(evil_bundle), "--prompt", "5", "--context", "5", "--new", "2", "--repeats", "1", "-q"],
        ["run", str(evil_bundle), "Hi", "--device", "cpu", "--max-new-tokens", "2", "--temperature", "2"],
    ):
        main(words)
        out, errors = capsys.readouterr()
        assert harmless(out), words
        assert harmless(errors), words


def test_warnings_and_what_nobody_foresaw(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        logging.getLogger("pumice").warning("there is %s", EVIL)
        raise RuntimeError(EVIL)

    assert guarded(fail) == 1
    errors = capsys.readouterr().err
    assert errors.count("\n") == 2
    assert harmless(errors)
    assert errors.startswith("pumice: there is a\\x1b]0;owned")


def test_json_keeps_its_value() -> None:
    value = {EVIL: [EVIL, "\U000e0001", 1, None]}
    for indent in (None, 2):
        shown = as_json(value, indent=indent)
        assert harmless(shown)
        assert json.loads(shown) == value
    assert json_lines('{\n "é": "\x7f"\n}') == '{\n "é": "\\u007f"\n}'


def test_tables_keep_their_lines() -> None:
    assert printable("plain é") == "plain é"
    assert printable("a\nb") == r"a\nb"
    assert printable_lines("a\x1b\nb") == "a\\x1b\nb"


@pytest.mark.parametrize(
    ("terminal", "shown"), [(True, "a\\x1b[2J\\x9b\tb\u200dc\n"), (False, "a\x1b[2J\x9b\tb\u200dc\n")]
)
def test_an_answer(
    terminal: bool, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file gets it as it is; joiners are parts of words."""
    import sys

    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    print_stream([" ", " a\x1b[2J", "\x9b\tb\u200dc"])
    assert capsys.readouterr().out == shown
