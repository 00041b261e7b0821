"""What CUDA computes, beside what the CPU computes from the same bundle, and transformers from the checkpoint.

Enters: a bundle, its checkpoint, questions with images. Leaves: differences of logits in units of their spread, and
how often the most likely token is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]

CLOSE = {"cpu": 0.05, "transformers": 0.15}
"""The largest difference of a logit that passes, in standard deviations of the logits: of the same numbers added up in
another order, and of numbers rounded to float16 on the way. Quantised weights are not held to transformers'."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question and its image, if it has one."""

    question: str
    image: str | None = None

    @property
    def images(self) -> list[str]:
        """As `generate` takes them."""
        return [] if self.image is None else [self.image]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Of one bundle against one other: the largest difference, and the share of equal most likely tokens."""

    model: str
    recipe: str
    against: str
    positions: int
    difference: float
    same_tokens: float

    @property
    def passes(self) -> bool:
        """Whether it is close enough, where something is promised."""
        quantized = "int" in self.recipe and self.against == "transformers"
        return quantized or self.difference <= CLOSE[self.against]


def compare(
    model: str, recipe: str, against: str, ours: Sequence[Logits], theirs: Sequence[Logits]
) -> Parity:
    """Logits of several prompts, each [T, V]."""
    differences = [np.abs(a - b).max() / b.std() for a, b in zip(ours, theirs, strict=True)]
    same = [a.argmax(-1) == b.argmax(-1) for a, b in zip(ours, theirs, strict=True)]
    return Parity(
        model=model,
        recipe=recipe,
        against=against,
        positions=sum(len(a) for a in ours),
        difference=float(max(differences)),
        same_tokens=float(np.concatenate(same).mean()),
    )


def pumice_logits(bundle: Path, device: str, asked: Sequence[Asked]) -> tuple[list[Logits], list[Any]]:
    """Logits after each token, and the prompts as the graphs take them."""
    from pumice import load

    model = load(bundle, device=device)
    logits = [model.logits(one.question, one.images) for one in asked]
    return logits, [model.prepare(one.question, one.images) for one in asked]


def transformers_logits(checkpoint: Path, prepared: Sequence[Any], device: str) -> list[Logits]:
    """The same in float32 by the checkpoint's own model."""
    import torch
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).to(device).eval()
    found = []
    for prompt in prepared:
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(prompt.input_ids).to(device)}
        if len(prompt.pixel_values):
            inputs["pixel_values"] = torch.from_numpy(prompt.pixel_values).to(device)
        with torch.no_grad():
            found.append(model(**inputs).logits[0].float().cpu().numpy())
    return found


def parity(
    name: str, recipe: str, bundle: Path, checkpoint: Path, asked: Sequence[Asked], device: str = "cuda"
) -> list[Parity]:
    """A bundle on `device` against itself on the CPU, and against transformers on `device`."""
    ours, prepared = pumice_logits(bundle, device, asked)
    there, _ = pumice_logits(bundle, "cpu", asked)
    theirs = transformers_logits(checkpoint, prepared, device)
    return [
        compare(name, recipe, "cpu", ours, there),
        compare(name, recipe, "transformers", ours, theirs),
    ]
