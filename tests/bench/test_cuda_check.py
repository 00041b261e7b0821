"""What `make cuda-check` says, with made-up measurements; and that it runs as far as it can without a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import cuda_check, cuda_page, cuda_parity
from bench.cuda_check import medians, system_commands
from bench.cuda_page import BEGIN, END, PAGE, Check, page, verdicts, write_page
from bench.cuda_parity import Asked, Parity, compare

GOOD = Parity(
    model="pebble", recipe="cuda-fp16", against="cpu", positions=58, difference=0.01, same_tokens=1.0
)
CHECK = Check(
    gpu="an imagined GPU",
    bandwidth=1e12,
    shape="llava-1.5-7b",
    parities=[GOOD, replace(GOOD, difference=0.4, same_tokens=0.5)],
    systems={
        "transformers eager": {"ttft_s": 0.30, "decode_text": 20.0, "decode_image": 18.0},
        "transformers sdpa": {"ttft_s": 0.20, "decode_text": 25.0, "decode_image": 22.0},
        "pumice cuda-int4": {
            "ttft_s": 0.12,
            "decode_text": 160.0,
            "decode_image": 150.0,
            "weight_bytes": 4_000_000_000,
        },
        "pumice cuda-fp16": {
            "ttft_s": 0.15,
            "decode_text": 50.0,
            "decode_image": 45.0,
            "weight_bytes": 10_000_000_000,
        },
    },
    failures={"pumice cuda-int4, CUDA graph": "out of memory"},
)


def test_without_a_gpu_it_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pumice.sessions.device.cuda_obstacle", lambda: "there is no NVIDIA driver")
    assert cuda_check.main([]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "cuda-check: nothing was checked, no NVIDIA GPU can be used here: there is no NVIDIA driver\n"
    )


def test_torch_without_cuda_is_an_obstacle_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pumice.sessions.device.cuda_obstacle", lambda: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "sees none" in (cuda_check.find_obstacle() or "")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert cuda_check.find_obstacle() is None


def test_systems_are_compared_with_the_better_of_transformers() -> None:
    rows = {
        line.split(" | ")[0].removeprefix("| "): line for line in page(CHECK).splitlines() if "pumice" in line
    }
    assert rows["pumice cuda-int4"] == (
        "| pumice cuda-int4 | 120.0 | 0.60 | 160.0 | 150.0 | 6.40 | 64% | met |"
    )
    assert rows["pumice cuda-fp16"] == (
        "| pumice cuda-fp16 | 150.0 | 0.75 | 50.0 | 45.0 | 2.00 | 50% | "
        "missed: decode ≥ 2.5 ×, ≥ 60% of the limit, first token ≤ 0.7 × |"
    )
    assert "pumice cuda-int4, CUDA graph could not be measured: out of memory" in page(CHECK)


def test_parity_that_fails_is_seen() -> None:
    verdicts_ = [line.rsplit(" | ", 1)[1] for line in page(CHECK).splitlines() if line.startswith("| pebble")]
    assert verdicts_ == ["passes |", "FAILS |"]


def test_without_transformers_nothing_is_claimed() -> None:
    alone = replace(CHECK, systems={"pumice cuda-int4": CHECK.systems["pumice cuda-int4"]})
    assert "| pumice cuda-int4 | 120.0 | – | 160.0 | 150.0 | – | 64% | – |" in page(alone)


def test_targets_are_met_at_their_edges() -> None:
    assert verdicts(0.7, 2.5, 0.6) == "met"
    assert verdicts(0.71, 2.5, 0.6) == "missed: first token ≤ 0.7 ×"


def test_the_page_keeps_what_is_around_the_measurements(tmp_path: Path) -> None:
    path = tmp_path / "cuda.md"
    path.write_text(PAGE.read_text())
    write_page("first", path)
    write_page("second", path)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    assert path.read_text() == f"{before}{BEGIN}\nsecond\n{END}{rest.partition(END)[2]}"


def test_the_page_has_no_numbers_that_nobody_measured() -> None:
    told = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert PAGE.with_suffix(".json").exists() or "Not measured on a GPU" in told


def test_every_recipe_is_measured_with_and_without_recordings(tmp_path: Path) -> None:
    commands = system_commands(tmp_path, dict.fromkeys(cuda_check.RECIPES, tmp_path), tmp_path)
    assert list(commands)[:3] == ["bandwidth", "transformers eager", "transformers sdpa"]
    assert [name for name, command in commands.items() if "--cuda-graph" in command] == [
        f"pumice {recipe}, CUDA graph" for recipe in cuda_check.RECIPES
    ]


def test_medians_are_of_numbers() -> None:
    lines = [{"decode_text": value, "versions": {}} for value in (1.0, 9.0, 2.0)]
    assert medians(lines) == {"decode_text": 2.0}


def test_logits_are_compared_in_units_of_their_spread() -> None:
    theirs = np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32) * 7
    ours = theirs.copy()
    ours[3] = -ours[3]
    found = compare("m", "cuda-fp16", "cpu", [theirs, ours], [theirs, theirs])
    assert found.difference == pytest.approx(2 * np.abs(theirs[3]).max() / theirs.std(), rel=1e-5)
    assert (found.positions, found.same_tokens, found.passes) == (40, 1 - 1 / 40, False)


def test_parity_runs(pebble_bundle_cuda: Path, pebble_checkpoint: Path) -> None:
    """On the CPU, where it must be exact against itself."""
    image = next((pebble_checkpoint.parent / "heldout").glob("*.png"))
    asked = [Asked(question="What is shown?", image=str(image)), Asked(question="How many?")]
    itself, theirs = cuda_parity.parity(
        "pebble", "cuda-fp16", pebble_bundle_cuda, pebble_checkpoint, asked, "cpu"
    )
    assert (itself.difference, itself.same_tokens) == (0, 1)
    assert theirs.passes
    assert 0 < theirs.difference < cuda_page.BANDWIDTH_SHARE
