from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import rounds, systems
from bench.rounds import Plan, run, turned
from bench.systems import SYSTEMS, System, chosen

FAKE = """
import json, pathlib, sys
verb, export = sys.argv[1], [word for word in sys.argv if word.startswith("--export=")]
words = [word for word in sys.argv if word not in export]
given = dict(zip(words[2::2], words[3::2]))
if verb == "prepare":
    if given["--precision"] == "unpreparable":
        sys.exit("no such precision")
    pathlib.Path(given["--out"]).mkdir(parents=True)
    (pathlib.Path(given["--out"]) / "weights").write_text("w")
    print(json.dumps({"export_s": 1.0, "export": "".join(export)[9:], "bundle": given.get("--bundle", "")}))
else:
    if given["--precision"] == "fails":
        sys.exit("it broke")
    bursts = "--no-bursts" not in sys.argv
    print(json.dumps({"ttft_s": float(given["--threads"]), "bursts": bursts}))
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "peer_fake.py").write_text(FAKE)
    monkeypatch.setattr(systems, "PEERS", tmp_path / "peers")
    monkeypatch.setattr(rounds, "_limits_command", lambda plan: ["echo", json.dumps({"read_gb_s": 1.0})])
    monkeypatch.setattr(rounds, "write_workload", lambda checkpoint, folder: folder)
    return Plan(
        shape="pebble",
        systems=(),
        rounds=3,
        threads=2,
        timeout_s=60,
        minutes=None,
        root=tmp_path / "build",
        environments="own",
        reuse="none",
        quick_limits=True,
        command="",
    )


def fake(name: str, **given: object) -> System:
    return replace(System(name=name, peer="peer_fake", precision=name), **given)  # type: ignore[arg-type]


def test_every_round_begins_with_another() -> None:
    orders = [turned(["a", "b", "c"], number) for number in range(4)]
    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_systems_are_measured_in_every_round_with_their_failures(plan: Plan) -> None:
    asked = (
        fake("good"),
        fake("fails"),
        fake("unpreparable"),
        fake("missing", peer="peer_none"),
        fake("large", gb_per_billion=1e6),
    )
    found = run(replace(plan, systems=asked))
    by_name = {system.system: system for system in found.systems}
    assert [one.line for one in by_name["good"].runs] == [{"ttft_s": 2.0, "bursts": True}] * 3
    assert sorted(one.round for one in by_name["good"].runs) == [0, 1, 2]
    assert not by_name["good"].runs[1].cold
    assert [one.failure for one in by_name["fails"].runs] == ["failed with exit code 1: it broke"] * 2
    assert by_name["unpreparable"].failure == "preparing: failed with exit code 1: no such precision"
    assert by_name["missing"].failure == "there is no bench/peers/peer_none.py"
    assert str(by_name["large"].failure).startswith("needs about 3029 GB of memory")
    assert [one.line for one in found.limits] == [{"read_gb_s": 1.0}] * 3


def test_what_was_prepared_is_reused_if_asked_for(plan: Plan) -> None:
    plan = replace(plan, systems=(fake("good"),), rounds=1)
    run(plan)
    weights = plan.root / "models" / "pebble" / "good" / "weights"
    weights.write_text("kept")
    for reuse in ("all", "peers"):
        run(replace(plan, reuse=reuse))
        assert weights.read_text() == "kept"
    run(plan)
    assert weights.read_text() == "w"


def test_pumice_is_prepared_again_where_only_peers_are_reused(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(System, "ours", True)
    plan = replace(plan, systems=(fake("good"),), rounds=1)
    run(plan)
    weights = plan.root / "models" / "pebble" / "good" / "weights"
    weights.write_text("old")
    run(replace(plan, reuse="peers"))
    assert weights.read_text() == "w"


def test_a_slow_system_takes_part_in_fewer_rounds(plan: Plan) -> None:
    found = run(replace(plan, systems=(fake("good"), fake("slow", most_rounds=1))))
    assert [len(system.runs) for system in found.systems] == [3, 1]


def test_requests_at_once_are_measured_in_as_many_rounds_as_asked_for(plan: Plan) -> None:
    asked = (fake("good"), fake("never", bursts=False))
    for most, expected in ((2, [True, True, False]), (None, [True] * 3)):
        found = run(replace(plan, systems=asked, burst_rounds=most))
        by_name = {
            system.system: [one.line["bursts"] for one in system.runs if one.line] for system in found.systems
        }
        assert by_name == {"good": expected, "never": [False] * 3}


def test_systems_say_how_they_are_exported(plan: Plan) -> None:
    plan = replace(plan, systems=(fake("good", export=("--kv-cache", "int8")),), rounds=1)
    assert run(plan).systems[0].prepared["export"] == "--kv-cache int8"  # type: ignore[index]


def test_an_optimised_copy_is_made_of_the_bundle_that_is_there(plan: Plan) -> None:
    plain, copy = fake("good"), fake("good+optimized", optimized=True)
    asked = run(replace(plan, systems=(plain, copy), rounds=1)).systems[1].prepared
    assert asked is not None
    assert asked["bundle"] == str(plan.root / "models" / "pebble" / "good")
    alone = run(replace(plan, systems=(copy,), rounds=1)).systems[0].prepared
    assert alone is not None
    assert alone["bundle"] == ""


def test_systems_are_chosen_by_name_and_by_group() -> None:
    assert [system.name for system in chosen("genai-int4,genai-int4,quick")][:2] == [
        "genai-int4",
        systems.QUICK[0],
    ]
    assert len(chosen("all")) == len(SYSTEMS)
    with pytest.raises(
        SystemExit, match="there is no system nothing: expected names among leading, quick, all"
    ):
        chosen("nothing")


def test_no_round_begins_after_its_time(plan: Plan) -> None:
    found = run(replace(plan, systems=(fake("good"),), minutes=0.0))
    assert found.rounds == 1
    assert len(found.systems[0].runs) == 1
