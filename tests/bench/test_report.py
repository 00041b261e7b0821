from __future__ import annotations

from pathlib import Path

from bench.report import report, write_page
from bench.results import Measured, Run, load, save
from tests.bench.found import measured, results, runs

SOME = results(
    measured("pumice-cpu-int4", {"export_s": 20.0}, ttft_s=3.0, load_s=1.0),
    Measured(system="openvino-int4", failure="cannot be installed: ERROR: no such wheel"),
    Measured(system="genai-int4", runs=runs({"decode_100": 28.0, "missing": {"ttft_s": "text only"}})),
    Measured(
        system="llama-cpp-q4_0", runs=(Run(round=1, cold=False, load=0.0, failure="not done after 9 s"),)
    ),
)


def test_cells_have_medians_and_spreads() -> None:
    assert "| `pumice-cpu-int4` | – | – | 3.00 (2.70–3.30) | – |" in report(SOME)


def test_nothing_that_failed_is_left_out() -> None:
    text = report(SOME)
    assert "- `openvino-int4`: cannot be installed: ERROR: no such wheel" in text
    assert "- `genai-int4`, ttft_s: text only" in text
    assert "- `llama-cpp-q4_0`, round 2: not done after 9 s" in text


def test_machine_limits_and_command_are_told() -> None:
    text = report(SOME)
    assert "`python -m bench run`" in text
    assert "Instruction set: avx2. a CPU (avx2), 2 cores, 24 GiB" in text
    assert "memory reads 30.0 GB/s" in text
    assert "not measured (no round was run)" in report(results(limits=()))


def test_results_survive_their_file(tmp_path: Path) -> None:
    save(SOME, tmp_path / "some.json")
    assert load(tmp_path / "some.json") == SOME


def test_a_page_keeps_what_is_around_a_shape(tmp_path: Path) -> None:
    page = tmp_path / "cpu.md"
    page.write_text("# Title\n")
    write_page(page, "pebble", "avx2", "old \\1 words")
    write_page(page, "other", "avx2", "others")
    write_page(page, "pebble", "avx2", "new \\1 words")
    text = page.read_text()
    assert text.startswith("# Title\n\n## pebble\n\n### pebble, avx2\n")
    assert "old" not in text
    assert text.index("new \\1 words") < text.index("\n## other") < text.index("others")
    assert text.count("<!-- bench pebble avx2 -->") == 1


def test_another_kind_of_machine_has_a_section_of_its_own(tmp_path: Path) -> None:
    page = tmp_path / "cpu.md"
    for shape, kind in (("pebble", "avx2"), ("other", "avx2"), ("pebble", "avx512-vnni")):
        write_page(page, shape, kind, f"{shape} on {kind}")
    text = page.read_text()
    order = ["\n## pebble", "pebble on avx2", "pebble on avx512-vnni", "\n## other", "other on avx2"]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    assert text.count("\n## pebble\n") == 1


def test_requests_of_words_only_have_a_row_of_their_own() -> None:
    text = report(results(measured("genai-int4", throughput_8=None, text_throughput_8=30.0)))
    (row,) = [line for line in text.splitlines() if line.startswith("| `genai-int4`")]
    assert row.startswith("| `genai-int4`, words only | – | – | 30.0 (27.0–33.0) |")
