"""What is wrong with a command is told before a bundle is loaded, or torch imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pumice.cli import main


class Loaded(BaseException):
    """A bundle was loaded all the same."""


def refuse(*_: object, **__: object) -> None:
    raise Loaded


@pytest.fixture
def places(pebble_bundle: Path, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "in.jsonl").write_text('{"prompt": "Hi"}\n')
    Image.new("RGB", (9, 9)).save(tmp_path / "sound.png")
    return {"b": str(pebble_bundle), "t": str(tmp_path)}


RUN, BENCH = ["run", "{b}", "Hi"], ["bench", "{b}"]
BATCH = ["batch", "{b}", "{t}/in.jsonl", "-o", "{t}/out.jsonl"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([*RUN, "-i", "{t}/missing.png"], 1, "there is no image"),
        ([*RUN, "-i", "{t}/sound.png", "-i", "{t}"], 1, "is not a file"),
        ([*RUN, "-i", "{t}/damaged.png"], 1, "cannot be read"),
        ([*RUN, "-i", "https://example.org/a.png"], 1, "remote images are not fetched"),
        ([*RUN, "--video", "{t}/missing.mp4"], 2, "takes images alone"),
        ([*RUN, "--frames", "4"], 2, "--frames is for --video"),
        ([*RUN, "--top-p", "1.5"], 2, "top_p is 1.5"),
        ([*RUN, "--num-return-sequences", "2"], 2, "num_return_sequences is 2, expected 1"),
        ([*RUN, "--num-beams", "2", "--logprobs", "1"], 2, "logprobs with num_beams"),
        ([*RUN, "--regex", "("], 2, "the regular expression cannot be used"),
        ([*RUN, "--context-length", "0"], 2, "context_length is 0"),
        ([*RUN, "--threads", "0"], 2, "threads is 0"),
        ([*RUN, "--device", "cuda"], 3, "device 'cuda' cannot be used"),
        (["run", "{t}", "Hi"], 1, "manifest.json"),
        ([*BATCH, "--top-p", "1.5"], 2, "top_p is 1.5"),
        ([*BATCH, "--threads", "0"], 2, "threads is 0"),
        ([*BATCH, "--context-length", "0"], 2, "context_length is 0"),
        ([*BATCH, "--device", "cuda"], 3, "device 'cuda' cannot be used"),
        ([*BENCH, "-i", "{t}/missing.png"], 1, "there is no image"),
        ([*BENCH, "--threads", "0"], 2, "threads is 0"),
        ([*BENCH, "--repeats", "0"], 2, "repeats is 0"),
        ([*BENCH, "--device", "cuda"], 3, "device 'cuda' cannot be used"),
    ],
)
def test_before_a_bundle_is_loaded(
    words: list[str],
    code: int,
    told: str,
    places: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    # the first is imported here: later, it would keep what is in place of the second
    for loader in (
        "pumice.benchmark.measurement.load",
        "pumice.load",
        "pumice.loading.load",
        "pumice.loading.open_sessions",
    ):
        monkeypatch.setattr(loader, refuse)
    assert main([word.format(**places) for word in words]) == code
    out, errors = capsys.readouterr()
    assert (out, errors.count("\n")) == ("", 1)
    assert told in errors


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["verify", "{b}", "c", "--prompt", "Hi", "-i", "{t}/missing.png"], 1, "missing.png as an image"),
        (["verify", "{b}", "c", "-i", "{t}/sound.png"], 2, "--image is for a --prompt"),
        (["verify", "{b}", "c", "--text", "{t}/missing.txt"], 2, "cannot read the text"),
        (["verify", "{b}", "c", "--max-new-tokens", "0"], 2, "--max-new-tokens is 0"),
        (["compare", "c", "--prompt", "Hi", "-i", "{t}/damaged.png"], 1, "damaged.png as an image"),
        (["compare", "c", "--text", "{t}/missing.txt"], 2, "cannot read the text"),
        (["compare", "c", "--recipes", "cpu-int4,cpu-int5", "--prompt", "Hi"], 2, "recipe is 'cpu-int5'"),
        (["export", "c", "{t}/out", "--recipe", "{t}/missing.toml"], 2, "cannot read the recipe"),
        (["export", "c", "{t}/out", "--recipe", "int5"], 2, "recipe is 'int5'"),
    ],
)
def test_before_torch_is_imported(words: list[str], code: int, told: str, places: dict[str, str]) -> None:
    program = (
        "import sys\nsys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from pumice.cli import main\nsys.exit(main())"
    )
    command = [sys.executable, "-c", program, *(word.format(**places) for word in words)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (code, "", 1), ran.stderr
    assert told in ran.stderr
