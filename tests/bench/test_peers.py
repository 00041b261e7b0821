from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.limits import product_speed, read_bandwidth
from bench.results import load
from bench.systems import PEERS
from bench.workload import write_workload

MEASURES = {
    "load_s",
    "first_token_s",
    "encode_s",
    "prefill_s",
    "prefill_tokens",
    "ttft_s",
    "decode_100",
    "decode_2000",
    "second_turn_s",
    "batch8",
    *(f"throughput_{level}" for level in (1, 4, 8)),
    *(f"burst_ttft_p{share}_{level}" for level in (1, 4, 8) for share in (50, 95)),
    "resident_mb",
    "private_mb",
    "peak_mb",
}


@pytest.mark.slow
def test_pumice_gives_every_measure(
    pebble_checkpoint: Path, pebble_bundle_int4: Path, tmp_path: Path
) -> None:
    work = write_workload(pebble_checkpoint, tmp_path)
    given = ["--model", pebble_bundle_int4, "--checkpoint", pebble_checkpoint, "--workload", work]
    command = [
        sys.executable,
        str(PEERS / "peer_pumice.py"),
        "measure",
        *given,
        "--threads",
        "1",
        "--precision",
        "cpu-int4",
    ]
    said = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout
    line = json.loads(said.splitlines()[-1])
    assert line["system"] == "pumice-cpu-int4"
    assert not line["missing"]
    assert {name for name in MEASURES if line[name] > 0} == MEASURES
    assert line["prefill_tokens"] == len(json.loads((work / "workload.json").read_text())["input_ids"])
    assert line["burst_ttft_p50_8"] <= line["burst_ttft_p95_8"]
    assert line["private_mb"] < line["resident_mb"] <= line["peak_mb"]


def test_peers_import_nothing_of_the_bench() -> None:
    for path in PEERS.glob("*.py"):
        lines = path.read_text().splitlines()
        assert not [line for line in lines if line.strip().startswith(("import bench", "from bench"))], path
        if path.stem not in ("peer_pumice", "__init__"):
            assert not [
                line for line in lines if line.strip().startswith(("import pumice", "from pumice"))
            ], path


def test_openvino_genai_is_told_the_edge_that_a_siglip_processor_does_not_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(PEERS))
    squared = importlib.import_module("peer_openvino_genai").squared
    assert squared({"size": {"height": 384, "width": 384}, "resample": 3}) == {
        "size": {"shortest_edge": 384},
        "crop_size": {"height": 384, "width": 384},
        "resample": 3,
    }
    clip = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    assert squared(clip) == clip


def test_limits_are_speeds() -> None:
    assert read_bandwidth(1, 8, 0.01) > 0
    for int8 in (False, True):
        assert product_speed((8, 64, 32), 1, 0.01, int8=int8) > 0


@pytest.mark.slow
def test_the_quick_bench_measures_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from bench import __main__ as command_line

    monkeypatch.setattr(command_line, "ROOT", tmp_path)
    asked = ["--systems", "pumice-cpu-int4,transformers-fp32", "--rounds", "1", "--threads", "1"]
    main(["run", "--quick", "--shape", "pebble", *asked])
    assert "| `pumice-cpu-int4` |" in capsys.readouterr().out
    found = load(tmp_path / "results" / "pebble.json")
    assert [system.system for system in found.systems] == ["pumice-cpu-int4", "transformers-fp32"]
    assert found.systems[0].runs[0].line is not None
    assert found.limits[0].line is not None
    assert found.systems[1].failure or found.systems[1].runs
    assert {path.name for path in (tmp_path / "results").glob("*.png")} >= {"pebble-decode.png"}
