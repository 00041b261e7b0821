import json
from pathlib import Path

import pytest

from pumice.cli import main

SMALL = (
    "--prompt",
    "20",
    "--context",
    "10",
    "--new",
    "2",
    "--repeats",
    "1",
    "--threads",
    "1",
    "--device",
    "cpu",
)


def test_speeds(pebble_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(pebble_bundle), *SMALL]) == 0
    table = capsys.readouterr().out
    assert "decode, 10 tokens of context" in table
    assert "decode, 100 tokens" not in table
    assert main(["bench", str(pebble_bundle), *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bundle"] == str(pebble_bundle)
    assert found["figures"]["prefill, 20 tokens"]["unit"] == "tokens/s"


def test_a_profile(pebble_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(pebble_bundle), *SMALL, "--profile"]) == 0
    assert "prefill, 20 tokens: " in capsys.readouterr().out
    assert main(["bench", str(pebble_bundle), *SMALL, "--profile", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["phases"]) == 3


def test_bad_use_is_one_line(pebble_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(pebble_bundle), "--prompt", "0"]) == 2
    assert capsys.readouterr().err == "pumice: error: prompt is 0, expected 1 or more\n"
    assert main(["bench", str(pebble_bundle), "-i", "no-such.png", *SMALL]) == 1
