"""Losses of given answers against transformers: its processor, its template, its model of the same checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

import pumice
from pumice.decoder.decoder import Decoder
from pumice.errors import PromptError
from pumice.lmms.documents import Asked, from_context
from pumice.lmms.likelihood import Scorer
from tests import oracle

HELDOUT = Path(__file__).parents[3] / "pebble" / "heldout"
TOLERANCE = 1e-4
CASES = [
    ("What do you see?", ["scene-00.png"], "A black triangle."),
    ("What do you see?", ["scene-00.png"], "A purple cross and a star."),
    ("Is there a black cross in this picture?", ["scene-00.png"], "No."),
    ("Is there a black cross in this picture?", ["scene-00.png"], "Yes."),
    ("Is there a black cross in this picture?", ["scene-01.png"], "Yes."),
    ("Which picture has more shapes?", ["pair-01-a.png", "pair-01-b.png"], "The second one."),
    ("What do you see?", [], "N"),
]


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> pumice.Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


@pytest.fixture(scope="module")
def reference(pebble_checkpoint: Path) -> Any:
    """(loss, greedy) of an answer, by transformers alone."""
    processor, model = AutoProcessor.from_pretrained(pebble_checkpoint), oracle.theirs(pebble_checkpoint)

    def ids(messages: list[Any], **ending: Any) -> Any:
        return processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", **ending
        )

    @torch.no_grad()
    def score(question: str, images: list[Image.Image], answer: str) -> tuple[float, bool]:
        content = [
            *({"type": "image", "image": image} for image in images),
            {"type": "text", "text": question},
        ]
        asked = [{"role": "user", "content": content}]
        said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        begins = ids(asked, add_generation_prompt=True)["input_ids"].shape[1]
        whole = ids([*asked, said], continue_final_message=True)
        tokens = whole["input_ids"][0, begins:]
        assert len(tokens)
        logits = model(**whole).logits[0, begins - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, tokens)
        return float(loss), bool((logits.argmax(-1) == tokens).all())

    return score


def opened(names: list[str]) -> list[Image.Image]:
    return [Image.open(HELDOUT / name).convert("RGB") for name in names]


def test_losses_are_transformers_losses(model: pumice.Model, reference: Any) -> None:
    scorer = Scorer(model)
    verdicts = set()
    for question, names, answer in CASES * 2:  # the second time with what the first has left in the cache
        found = scorer.score(from_context(question, opened(names)), answer)
        loss, greedy = reference(question, opened(names), answer)
        assert found.loss == pytest.approx(loss, abs=TOLERANCE), (question, answer)
        assert found.greedy == greedy
        verdicts.add(greedy)
    assert verdicts == {True, False}


def test_choices_share_their_prompt(model: pumice.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prefilled: list[int] = []
    prefill = Decoder.prefill

    def counted(self: Decoder, ids: Any, *rest: Any, **more: Any) -> Any:
        prefilled.append(len(ids))
        return prefill(self, ids, *rest, **more)

    monkeypatch.setattr(Decoder, "prefill", counted)
    scorer, asked = Scorer(model), from_context("What do you see?", opened(["scene-00.png"]))
    prompt = model.prepare(list(asked.messages), list(asked.images)).tokens
    scorer.score(asked, "A black triangle.")
    assert sum(prefilled) == prompt - 1
    prefilled.clear()
    scorer.score(asked, "A purple cross.")
    assert sum(prefilled) <= 8


def test_an_answer_without_tokens_has_no_loss(model: pumice.Model) -> None:
    with pytest.raises(PromptError, match="the answer '' has no tokens behind the prompt"):
        Scorer(model).score(Asked(messages=({"role": "user", "content": "Hi"},)), "")
