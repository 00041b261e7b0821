"""Exit codes are those of the table in docs/command-line.md, of every command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pumice.cli import main
from pumice.cli.commands import COMMANDS, Command

WORDS = {
    "run": ["run", "{b}", "Hi"],
    "batch": ["batch", "{b}", "{t}/in.jsonl", "-o", "{t}/out.jsonl"],
    "serve": ["serve", "{b}", "--port", "0"],
    "info": ["info", "{b}"],
    "bench": ["bench", "{b}"],
    "optimize": ["optimize", "{b}"],
    "export": ["export", "{t}/none", "{t}/out"],
    "verify": ["verify", "{b}", "{t}/none"],
    "push": ["push", "{b}", "org/name"],
    "compare": ["compare", "{t}/none", "--prompt", "Hi"],
    "completion": ["completion", "bash"],
}
"""Of each command, words that it understands."""
SOUND = {"run", "batch", "info", "completion"}
"""Commands that can do what these words say, in a moment."""
WITH_DEVICE = {"run", "batch", "serve", "bench"}
"""Commands that look for the device before all else."""


@pytest.fixture
def places(pebble_bundle: Path, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "in.jsonl").write_text('{"prompt": "Hi", "max_new_tokens": 2}\n')
    return {"b": str(pebble_bundle), "t": str(tmp_path)}


def filled(words: list[str], places: dict[str, str]) -> list[str]:
    return [word.format(**places) for word in words]


def test_every_command_is_here() -> None:
    assert set(WORDS) == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(SOUND))
def test_0_done(name: str, places: dict[str, str]) -> None:
    if name == "completion":
        pytest.importorskip("shtab")
    assert main(filled(WORDS[name], places)) == 0


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_0_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([*([name] if name else []), "--help"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out.startswith("usage: pumice")


@pytest.mark.parametrize("name", ["run", "batch", "serve", "info", "bench", "optimize", "push"])
def test_1_no_bundle(name: str, places: dict[str, str]) -> None:
    assert main(filled(WORDS[name], places | {"b": places["t"] + "/none"})) == 1


@pytest.mark.export_extra
@pytest.mark.parametrize("name", ["export", "verify", "compare"])
def test_1_no_checkpoint(name: str, places: dict[str, str]) -> None:
    assert main(filled(WORDS[name], places)) == 1


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("more", [["--frobnicate"], ["one", "more", "word"]])
def test_2_bad_use(
    name: str, more: list[str], places: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*filled(WORDS[name], places), *more]) == 2
    assert main([name]) == 2
    out, errors = capsys.readouterr()
    assert (out, errors.count("\n")) == ("", 2)


@pytest.mark.parametrize("name", sorted(WITH_DEVICE))
def test_3_a_device_that_cannot_be_used(
    name: str, places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert main([*filled(WORDS[name], places), "--device", "cuda"]) == 3


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (MemoryError, 1), (RecursionError, 1)])
def test_130_and_what_nobody_foresaw(
    name: str,
    error: type[BaseException],
    code: int,
    places: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(Command, "run", fail)
    assert main(filled(WORDS[name], places)) == code
    out, errors = capsys.readouterr()
    assert (out, errors.count("\n")) == ("", 0 if code == 130 else 1)


def test_2_an_extra_that_is_not_installed() -> None:
    for module, words, told in (
        ("shtab", ["completion", "bash"], "pip install 'pumice[completion]'"),
        ("uvicorn", ["serve", "b"], "pip install 'pumice[serve]'"),
        ("torch", ["export", "c", "b"], "pip install 'pumice[export]'"),
        ("onnxruntime", ["bench", "b"], "pip install 'pumice[cpu]'"),
    ):
        program = f"import sys\nsys.modules['{module}'] = None\nfrom pumice.cli import main\nsys.exit(main({words}))"
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr.count("\n")) == (2, 1), ran.stderr
        assert told in ran.stderr


def test_the_table_has_them() -> None:
    page = Path(__file__).parents[3] / "docs" / "command-line.md"
    codes = re.findall(r"^\| (\d+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"0", "1", "2", "3", "130"} <= set(codes)
    assert len(codes) == len(set(codes))
