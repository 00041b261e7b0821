"""`pumice batch` with a model, as a process of its own that is ended in every way."""

import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.bulk.conftest import read_lines
from tests.runtime.bulk.images import write_images

PROMPT = "What is in this picture?"


def command(bundle: Path, inputs: Path, output: Path, *more: str) -> list[str]:
    arguments = ("--prompt", PROMPT, "--max-new-tokens", "3", "--device", "cpu", "--threads", "1", *more)
    return [sys.executable, "-m", "pumice", "batch", str(bundle), str(inputs), "-o", str(output), *arguments]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process: subprocess.Popen[Any], partial: Path, least: int) -> None:
    """Until there are so many lines, or the process has ended."""
    while process.poll() is None and lines(partial) < least:
        time.sleep(0.01)


@pytest.mark.slow
def test_two_thousand_images_and_ten_kills(pebble_bundle: Path, tmp_path: Path) -> None:
    broken = write_images(tmp_path / "images", 2000)
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    rng = random.Random(4)
    for kill in range(10):
        process = subprocess.Popen(
            command(pebble_bundle, tmp_path / "images", output), stderr=subprocess.DEVNULL
        )
        wait_for(process, partial, kill * 170 + rng.randrange(170))
        time.sleep(rng.random() / 10)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    last = subprocess.run(
        command(pebble_bundle, tmp_path / "images", output), capture_output=True, check=True
    )
    assert b"2,000 records, 1,940 answered, 60 failed" in last.stderr
    found = read_lines(output)
    assert len(found) == len({line["id"] for line in found}) == 2000
    assert [line["id"] for line in found if "error" in line] == broken
    whole = tmp_path / "whole.jsonl"
    subprocess.run(command(pebble_bundle, tmp_path / "images", whole), capture_output=True, check=True)
    assert found == read_lines(whole)


@pytest.mark.slow
def test_ctrl_c(pebble_bundle: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images", 400)
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    arguments = command(pebble_bundle, tmp_path / "images", output)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE)
    wait_for(process, partial, 50)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130
    assert said.splitlines()[-1] == b"pumice: interrupted: the same command goes on where it stopped"
    assert 50 <= lines(partial) < 400
    subprocess.run(arguments, capture_output=True, check=True)
    assert len(read_lines(output)) == 400
    again = subprocess.run(arguments, capture_output=True, check=True)
    assert b"nothing to do" in again.stderr
    refused = subprocess.run([*arguments, "--seed", "1"], capture_output=True, check=False)
    assert refused.returncode == 1
    assert re.fullmatch(
        rb"pumice: error: .* belongs to another run \(do_sample was not given, .*\n", refused.stderr
    )


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_ctrl_c_and_kills_with_overwrite(suffix: str, pebble_bundle: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images", 400)
    output, partial = tmp_path / f"out{suffix}", tmp_path / f"out{suffix}.partial"
    output.write_text("of another time\n")
    arguments = command(pebble_bundle, tmp_path / "images", output, "--overwrite")
    kept = 0
    for end in (signal.SIGINT, signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE)
        wait_for(process, partial, kept + 30)
        process.send_signal(end)
        _, said = process.communicate(timeout=600)
        if end == signal.SIGINT:
            assert process.returncode == 130
            assert said.splitlines()[-1] == b"pumice: interrupted: the same command goes on where it stopped"
        assert kept + 30 <= lines(partial) < 400
        kept = lines(partial)
        assert output.read_text() == "of another time\n"
    last = subprocess.run(arguments, capture_output=True, check=True)
    assert f"pumice: {400 - kept} records in ".encode() in last.stderr
    assert b"400 records, 388 answered, 12 failed" in last.stderr
    assert not partial.exists()


@pytest.mark.slow
def test_the_bar_on_a_terminal(pebble_bundle: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images", 100)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(pebble_bundle, tmp_path / "images", tmp_path / "out.jsonl"), stderr=theirs, close_fds=True
    )
    os.close(theirs)
    said = b""
    while select.select([ours], [], [], 300)[0]:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux's end of a terminal
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    assert process.wait() == 0
    *_, last = said.split(b"\r\x1b[K")
    bar, work, summary = (line.decode() for line in last.splitlines())
    assert bar.startswith("pumice: 100 of 100 [====================] 100% | 3 failed | ")
    assert work.startswith("pumice: 100 records in ")
    assert summary.endswith("100 records, 97 answered, 3 failed; --retry-errors tries them again")
    assert said.count(b"\r\x1b[K") > 2


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--temperature", "-1"], 2),
        (["--num-beams", "9"], 2),
        (["--regex", "("], 2),
        (["--slots", "0"], 2),
        (["--device", "cuda"], 3),
        (["-o", "out.txt"], 2),
        (["-o", "/missing/out.jsonl"], 2),
    ],
)
def test_bad_use_is_one_line_and_leaves_nothing(
    more: list[str],
    code: int,
    pebble_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pumice.cli import main

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    write_images(tmp_path / "images", 2)
    arguments = command(pebble_bundle, tmp_path / "images", tmp_path / "out.jsonl", *more)[3:]
    assert main(arguments) == code
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if not line.startswith("pumice: running on")
    ]
    assert line.startswith("pumice: error: ")
    assert not list(tmp_path.glob("out*"))


def test_records_of_all_kinds(pebble_bundle: Path, tmp_path: Path) -> None:
    from pumice.cli import main

    write_images(tmp_path / "images", 3, broken=0)
    (tmp_path / "schema.json").write_text('{"enum": [17]}')
    records: list[dict[str, Any]] = [
        {"image": "images/0/00000.png"},
        {"id": "none", "prompt": "Hi"},
        {"id": "two", "images": ["images/0/00000.png", "images/1/00001.png"], "json_schema": None},
        {"id": "digits", "regex": "[0-9]{3}"},
        {"id": "gone", "image": "https://127.0.0.1/a.png"},
        {"id": "file", "image": "file:///etc/hostname"},
        {"id": "bad", "json_schema": {"type": "nonsense"}},
        {"id": "long", "prompt": "word " * 5000},
    ]
    inputs = tmp_path / "in.jsonl"
    inputs.write_text("".join(json.dumps(record) + "\n" for record in records))
    arguments = command(
        pebble_bundle, inputs, tmp_path / "out.jsonl", "--json-schema", str(tmp_path / "schema.json")
    )[3:]
    assert main([*arguments, "--max-new-tokens", "24"]) == 0
    found = {line["id"]: line for line in read_lines(tmp_path / "out.jsonl")}
    assert found["1"]["text"] == "17"
    assert found["none"]["image_tokens"] == 0
    assert found["two"]["image_tokens"] == 2 * found["1"]["image_tokens"]
    assert re.fullmatch("[0-9]{3}", found["digits"]["text"])
    assert {name: line["error"]["type"] for name, line in found.items() if "error" in line} == {
        "gone": "ImageError",
        "file": "ImageError",
        "bad": "UsageError",
        "long": "ContextLengthError",
    }
