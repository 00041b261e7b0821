from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import environments
from bench.environments import PeerUnavailableError, parse, python_for

TEXT = """
# A comment.
# env CMAKE_ARGS=-DGGML_NATIVE=ON -DX=1
openvino==1.2
  --extra-index-url https://example.org/simple
# no-deps optimum-intel==9 --no-build-isolation
"""


def test_lines_settings_and_bare_requirements() -> None:
    found = parse(TEXT)
    assert found.lines == ("openvino==1.2", "--extra-index-url https://example.org/simple")
    assert found.settings == {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DX=1"}
    assert found.bare == ("optimum-intel==9 --no-build-isolation",)


def test_without_requirements_a_peer_has_the_projects_python(tmp_path: Path) -> None:
    assert python_for(tmp_path / "none.txt", tmp_path) == Path(sys.executable)


def test_what_is_not_installed_is_told(tmp_path: Path) -> None:
    (tmp_path / "peer_x.txt").write_text("x")
    with pytest.raises(PeerUnavailableError, match="environment peer_x is not installed"):
        python_for(tmp_path / "peer_x.txt", tmp_path / "env", install=False)


def test_environments_are_made_once_and_again_when_requirements_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], log: Path, settings: dict[str, str]) -> None:
        commands.append(command)
        (tmp_path / "env" / "peer_x" / "bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "env" / "peer_x" / "bin" / "python").touch()

    monkeypatch.setattr(environments, "_run", run)
    listed = tmp_path / "peer_x.txt"
    listed.write_text(TEXT)
    python = python_for(listed, tmp_path / "env")
    assert python == tmp_path / "env" / "peer_x" / "bin" / "python"
    assert len(commands) == 3
    assert commands[2][-3:] == ["--no-deps", "optimum-intel==9", "--no-build-isolation"]
    python_for(listed, tmp_path / "env")
    assert len(commands) == 3
    listed.write_text("torch==1.2")
    python_for(listed, tmp_path / "env")
    assert [command[-1] for command in commands[4:]] == ["torch==1.2+cpu", commands[1][-1]]


def test_the_reason_is_pips_error(tmp_path: Path) -> None:
    code = "import sys; print('Collecting'); print('ERROR: no matching distribution'); print('note'); sys.exit(1)"
    with pytest.raises(PeerUnavailableError, match="cannot be installed: ERROR: no matching distribution"):
        environments._run([sys.executable, "-c", code], tmp_path / "log", {})
