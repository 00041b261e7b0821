"""The bench of equality: what it compares by hand-made logits, and all of it once on pebble in float32."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.equality import operators, page, promises
from bench.equality.__main__ import main
from bench.equality.difference import Difference, difference
from bench.equality.following import Follower
from bench.equality.ways import WAYS
from bench.marks import replace_part
from pumice.manifest import load_manifest

BITS = Difference(same_bits=True, largest_difference=0.0, largest=40.0, kl=0.0, same=3, answers=3)
ROWS = "answered together: lists, the engine"
DRAFTS = "8 drafts verified at once"


def found(**others: Any) -> Difference:
    return dataclasses.replace(BITS, same_bits=False, **others)


def test_difference() -> None:
    theirs = np.array([[0.0, 1.0, -2.0], [3.0, 0.0, 0.0]], np.float32)
    assert difference([(theirs, theirs.copy())] * 2) == Difference(
        same_bits=True, largest_difference=0.0, largest=3.0, kl=0.0, same=2, answers=2
    )
    ours = theirs.copy()
    ours[1] = (1.0, 1.5, 0.0)
    apart = difference([(theirs, theirs), (theirs, ours)])
    p, q = (np.exp(x) / np.exp(x).sum() for x in (theirs[1].astype(np.float64), ours[1].astype(np.float64)))
    assert not apart.same_bits
    assert apart.largest_difference == 2.0
    assert (apart.same, apart.answers, apart.same_tokens) == (1, 2, False)
    assert apart.kl == pytest.approx((p * np.log(p / q)).sum() / 4)


def test_a_follower_goes_on_with_what_it_was_given() -> None:
    logits = np.zeros(9, np.float32)
    follower = Follower([5, 6, 7, 8], most=4, drafts=2)
    steps = [follower.advance([logits]) for _ in range(4)]
    assert [[(step.token, step.draft) for step in row] for row in steps] == [
        [(5, (6, 7))],
        [(6, (7,))],
        [(7, ())],
        [],
    ]
    assert follower.logits.shape == (4, 9)


def test_a_follower_without_an_answer_takes_the_likeliest() -> None:
    follower = Follower(None, most=5, ends=[2])
    tokens = [3, 1, 2]
    rows = [np.eye(4, dtype=np.float32)[token] for token in tokens]
    assert [len(follower.advance([row])) for row in rows] == [1, 1, 0]
    assert follower.answer == tokens


@pytest.mark.parametrize(
    ("promise", "difference", "expected"),
    [
        ("same bits", BITS, True),
        ("same bits", found(largest_difference=1e-7), False),
        ("same tokens", found(largest_difference=1e-4), True),
        ("same tokens", found(largest_difference=1e-3), False),
        ("same tokens", found(largest_difference=1e-4, same=2), False),
        ("near", found(largest_difference=2.0, same=1, kl=0.004), True),
        ("near", found(largest_difference=2.0, kl=0.4), False),
        ("near", found(largest_difference=2.0, kl=float("nan")), False),
    ],
)
def test_what_keeps_a_promise(promise: Any, difference: Difference, expected: bool) -> None:
    assert promises.holds(promise, difference) is expected


def test_promises_by_kind(pebble_bundle: Path) -> None:
    manifest = load_manifest(pebble_bundle)

    def with_precision(**others: Any) -> Any:
        return dataclasses.replace(manifest, precision=dataclasses.replace(manifest.precision, **others))

    eight, four = with_precision(bits=8, block_size=32), with_precision(bits=4, block_size=64)
    half = dataclasses.replace(manifest, decoder=dataclasses.replace(manifest.decoder, kv_dtype="float16"))
    assert [promises.kind(m) for m in (manifest, eight, four, half)] == [
        "float32",
        "8 bits",
        "4 bits",
        "float16",
    ]
    assert promises.kind(with_precision(bits=8, block_size=128)) == "4 bits"
    rounded = dict.fromkeys(WAYS, BITS) | {ROWS: found(kl=0.004), DRAFTS: found(same=1, kl=0.004)}
    assert [failure.partition(":")[0] for failure in promises.broken(manifest, rounded)] == [
        "answered together",
        DRAFTS,
    ]
    assert len(promises.broken(eight, rounded)) == 1
    assert promises.broken(four, rounded) == []


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="promised for x86")
def test_operators_that_prompts_rely_on() -> None:
    """Runs of an even number of rows, and integer products of any."""
    found = operators.measure()
    assert [row.operator for row in found if not row.even] == []
    names = ("MatMulIntegerToFloat", "8 bits in blocks of 32", "8 bits in blocks of 64")
    exact = [row for row in found if any(name in row.operator for name in names)]
    assert len(exact) == 3
    assert all(row.alone and row.odd for row in exact)
    assert operators.table(found).count("\n") == len(found) + 1


def test_the_check_says_whether_promises_hold(
    pebble_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "equality.md"
    written.write_text(page.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(page, "PAGE", written)
    asked = [str(pebble_bundle), "--threads", "1", "--every", "7"]
    assert main([*asked, "--check", "--write"]) == 0
    assert "all promises hold" in capsys.readouterr().out
    text = written.read_text(encoding="utf-8")
    assert f"| {ROWS} | same bits |\n" in text.partition("<!-- measured -->")[2]
    monkeypatch.setattr(promises, "promised", lambda kind, way: "same bits")
    assert main(asked) == 0
    assert main([*asked, "--check"]) == 1
    assert f"{DRAFTS}: promised same bits for float32, found same tokens" in capsys.readouterr().out


def test_another_processor_is_compared_with(
    pebble_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.equality.instructions.QUESTIONS", 2)
    asked = [str(pebble_bundle), "--threads", "1"]
    assert main([*asked, "--save", str(tmp_path)]) == 0
    assert main([*asked, "--beside", str(tmp_path), "--emulated"]) == 0
    assert f"| `{pebble_bundle.name}` | same bits |" in capsys.readouterr().out


def test_the_page_promises_what_is_checked() -> None:
    assert promises.table() in page.PAGE.read_text(encoding="utf-8")


def test_the_page_has_all_parts(tmp_path: Path) -> None:
    copy = tmp_path / "page.md"
    copy.write_text(page.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    for part in ("promises", "operators", "operators, emulated", "measured", "instruction sets"):
        replace_part(copy, part, "made")
        assert f"<!-- {part} -->\nmade\n<!-- /{part} -->" in copy.read_text(encoding="utf-8")
