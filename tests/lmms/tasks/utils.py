"""What the tasks beside this file ask of a document; lmms-eval looks for it under this name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

HELDOUT = Path(__file__).parents[3] / "pebble" / "heldout"


def images(doc: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(HELDOUT / name).convert("RGB") for name in doc["images"]]


def question(doc: dict[str, Any]) -> str:
    return doc["turns"][0]["question"]


def answer(doc: dict[str, Any]) -> str:
    return doc["turns"][0]["answer"]


def right(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    return {"right": float(results[0] == answer(doc))}


def yes_or_no(dataset: Any) -> Any:
    return dataset.filter(lambda doc: doc["kind"] == "exists")


def chosen(doc: dict[str, Any]) -> int:
    return ["Yes.", "No."].index(answer(doc))


def follow_ups(dataset: Any) -> Any:
    return dataset.filter(lambda doc: doc["kind"] == "follow-up: another")


def rounds(
    doc: dict[str, Any],
    lmms_eval_specific_kwargs: Any = None,
    previous_output: list[str] | None = None,
    round_idx: int | None = None,
    previous_round_info: Any = None,
) -> Any:
    """The first question; then (what to see, the question, whether that was all, the answers, anything)."""
    if round_idx is None:
        return question(doc)
    assert previous_output is not None
    if round_idx == len(doc["turns"]):
        return None, None, True, previous_output, None
    return images(doc), doc["turns"][round_idx]["question"], False, previous_output, previous_round_info


def both_right(doc: dict[str, Any], results: list[list[str]]) -> dict[str, float]:
    return {"right": float(results[0] == [turn["answer"] for turn in doc["turns"]])}
