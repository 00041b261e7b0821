"""The table of accuracy: which kind of pebble is compared with what, and how rows become a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pumice
from bench import accuracy
from bench.accuracy import KINDS, Kind, Row, measure_recipes, table
from pebble.heldout import FOLDER, QUESTIONS
from pebble.records import load_records, to_messages


def test_a_kind_is_compared_with_pebble_or_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    references: list[Path] = []
    rows: list[tuple[str, str, Any]] = []

    def reference(source: Path, bundle: Path, records: Any) -> Path:
        references.append(source)
        return source

    def row(recipe: str, kind: Kind, bundle: Path, records: Any, against: Any) -> Row:
        rows.append((recipe, kind.name, against))
        return _row(recipe, kind.name, 0.5)

    monkeypatch.setattr(accuracy, "_reference", reference)
    monkeypatch.setattr(accuracy, "_export", lambda source, bundle, recipe: bundle)
    monkeypatch.setattr(accuracy, "_row", row)
    made = Path("made")
    kinds = [
        Kind(name="plain"),
        Kind(name="same", make=lambda source, folder: Path("elsewhere")),
        Kind(name="other", make=lambda source, folder: made, own_reference=True),
    ]
    found = measure_recipes(["a", "b"], kinds, [])
    assert references == [accuracy.CHECKPOINT, made]
    against = {"plain": accuracy.CHECKPOINT, "same": accuracy.CHECKPOINT, "other": made}
    assert rows == [(recipe, name, against[name]) for name in against for recipe in "ab"]
    assert [(row.recipe, row.kind) for row in found] == [(recipe, name) for recipe, name, _ in rows]


def test_a_line_a_recipe_and_four_columns_a_kind() -> None:
    rows = [_row(recipe, kind, 0.5) for kind in ("x", "y") for recipe in ("a", "b")]
    head, rule, *lines = table(rows, 10).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["`a`", "`b`"]
    assert {line.count("|") for line in (head, rule, *lines)} == {2 + 2 * 4 + 1}
    assert "x: accuracy | same answers of 10" in head
    assert lines[0].count("50.0% | 7 | 1.0e-03 | 2.0e-02") == 2


def test_kinds_are_told_apart_and_massive_channels_are_a_model_of_their_own() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert [kind.name for kind in KINDS if kind.own_reference] == ["massive channels"]


def test_an_answer_is_chosen_by_the_logits_that_are_compared(pebble_bundle: Path) -> None:
    """The answer's own tokens are the most likely ones, and its first logits those of the prompt's end."""
    (record,) = load_records(QUESTIONS)[:1]
    asked, images = to_messages(record), [FOLDER / name for name in record.images]
    model = pumice.load(pebble_bundle, device="cpu")
    answer = list(model.generate(asked, images, max_new_tokens=6).token_ids)
    logits_TV = accuracy._answer_logits(model, asked, images, answer)
    assert logits_TV.argmax(-1).tolist() == answer
    np.testing.assert_allclose(logits_TV[0], model.logits(asked, images)[-1], rtol=0, atol=1e-4)


def _row(recipe: str, kind: str, right: float) -> Row:
    return Row(
        recipe=recipe,
        kind=kind,
        megabytes=1.0,
        accuracy=right,
        same_tokens=7,
        answer_kl=1e-3,
        prompt_kl=2e-2,
    )
