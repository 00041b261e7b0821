"""Completion in real shells: commands, flags, choices, files and folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pumice.cli import main
from pumice.cli.completion import SHELLS, path_kind
from pumice.cli.parsing import build

pytest.importorskip("shtab")

ASK = {
    "bash": """
source ./script
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
$(complete -p pumice | sed 's/.*-F \\([^ ]*\\).*/\\1/') pumice "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
""",
    "fish": 'source ./script\ncomplete --do-complete "$argv"',
}
"""Programs that print what a shell offers for the words of a line, the last of which is begun."""

CASES = [
    ("pumice ", {"run", "batch", "info", "bench", "optimize", "export", "verify", "compare"}, {"in.jsonl"}),
    ("pumice co", {"compare", "completion"}, {"run"}),
    ("pumice run --dev", {"--device"}, {"--context"}),
    ("pumice run bundle --device ", {"auto", "cpu", "cuda"}, {"a.png"}),
    ("pumice run b", {"bundle/"}, {"b.txt"}),
    ("pumice run bundle -i a", {"a.png"}, set()),
    ("pumice run bundle --image a", {"a.png"}, set()),
    ("pumice batch bundle i", {"in.jsonl"}, set()),
    ("pumice export bundle bundle --precision ", {"fp32", "int8", "int4"}, {"a.png"}),
    ("pumice export bundle bundle --se", {"--search"}, set()),
    ("pumice completion ", set(SHELLS), {"a.png"}),
    ("pumice bench bundle --n", set(), {"--new"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("completion")
    (place / "bundle").mkdir()
    for name in ("a.png", "b.txt", "in.jsonl"):
        (place / name).touch()
    return place


def script(shell: str, folder: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "pumice", "completion", shell], capture_output=True, check=True
    )
    assert printed.stderr == b""
    (folder / "script").write_bytes(printed.stdout)


def offered(shell: str, line: str, folder: Path) -> set[str]:
    words = [line] if shell == "fish" else [*line.split(), *([""] if line.endswith(" ") else [])]
    if shell == "bash":
        command = ["bash", "--norc", "-c", ASK[shell], "bash", *words]
    else:
        command = ["fish", "--no-config", "-c", ASK[shell], *words]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        check=False,
    )
    assert ran.stderr == ""
    return {line.partition("\t")[0].strip() for line in ran.stdout.splitlines()}


@pytest.mark.parametrize("shell", ASK)
def test_what_a_shell_offers(shell: str, folder: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    script(shell, folder)
    for line, expected, others in CASES:
        found = offered(shell, line, folder)
        found |= {f"{name}/" for name in found if (folder / name).is_dir()}
        assert expected <= found, line
        assert not others & found, line


def test_zsh_takes_its_script(folder: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("there is no zsh")
    script("zsh", folder)
    (folder / "functions").mkdir()
    (folder / "script").rename(folder / "functions" / "_pumice")
    ask = (
        "fpath=($PWD/functions $fpath); autoload -Uz compinit && compinit -u -d ./dump; "
        'print -r -- "$_comps[pumice]"; autoload -Uz +X _pumice'
    )
    ran = subprocess.run(["zsh", "-f", "-c", ask], capture_output=True, text=True, cwd=folder, check=True)
    assert (ran.stdout, ran.stderr) == ("_pumice\n", "")


def test_every_path_is_completed() -> None:
    """Metavars say what a flag takes, and each that is a path is known as one."""
    kinds = {
        action.option_strings[0]: path_kind(action)
        for command in build()[1].values()
        for action in command._actions
        if action.option_strings and path_kind(action)
    }
    assert kinds == {
        "--adapter": "folder",
        "--api-key-file": "file",
        "--calibrate": "file",
        "--config": "file",
        "--json-schema": "file",
        "--recipe": "file",
        "--text": "file",
        "--video": "file",
        "--work": "folder",
        "-i": "file",
        "-o": "file",
    }


def test_nothing_of_it_is_imported_otherwise() -> None:
    program = (
        "import sys\nfrom pumice.cli import main\nmain(['info', 'nowhere'])\nprint('shtab' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_a_shell_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "csh"]) == 2
    assert "invalid choice: 'csh'" in capsys.readouterr().err
