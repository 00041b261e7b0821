"""What becomes of a spoilt checkpoint: refused in one line, or exported, and then equal to transformers.

Enters: a checkpoint's folder and an empty folder to export into. Leaves: a `Verdict`; anything else that happens is a
fault, raised as an AssertionError or as whatever it is.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoModelForImageTextToText

import pumice
from pumice.errors import PumiceError
from pumice.export.pipeline import export_bundle
from pumice.export.processor.load import read_processor

TOLERANCE = 2e-4
LONGEST_MESSAGE = 1500
QUESTION = "What is left of the blue square?"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`refused` with the error's message; or `equal`; or `alone`, where transformers cannot load the checkpoint."""

    outcome: Literal["refused", "equal", "alone"]
    message: str = ""


def judge(checkpoint: Path, out: Path) -> Verdict:
    """Export, and hold what comes of it against what is promised."""
    bundle = out / "bundle"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers' opinions of odd values
            export_bundle(checkpoint, bundle)
    except PumiceError as error:
        _check_message(error, checkpoint)
        assert list(out.iterdir()) == [], "something is left behind"
        return Verdict(outcome="refused", message=str(error))
    assert [path.name for path in out.iterdir()] == ["bundle"]
    return _compared(checkpoint, bundle)


def _check_message(error: PumiceError, checkpoint: Path) -> None:
    message = str(error)
    assert message.isprintable(), f"not one plain line: {message!r}"
    assert 20 < len(message) < LONGEST_MESSAGE, f"{len(message)} characters: {message[:300]}"
    assert "MemoryError" not in message, message


def _compared(checkpoint: Path, bundle: Path) -> Verdict:
    """The bundle's answer on an image and a question beside transformers'."""
    model = pumice.load(bundle, device="cpu", threads=1)
    prompt, images, raw = _question(model)
    prepared, ours = model.prepare(prompt, images, raw=raw), model.logits(prompt, images, raw=raw)
    try:
        inputs = _their_inputs(checkpoint, prompt, images)
        theirs = _their_logits(checkpoint, inputs)
    except Exception as error:
        return Verdict(
            outcome="alone", message=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        )
    np.testing.assert_array_equal(prepared.input_ids, inputs["input_ids"].numpy())
    if images:
        np.testing.assert_array_equal(prepared.pixel_values, inputs["pixel_values"].numpy())
    scale = max(1.0, float(np.abs(theirs).max()) / 10)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * scale)
    return Verdict(outcome="equal")


def _question(model: pumice.Model) -> tuple[Any, list[Image.Image], bool]:
    """Messages about an image; plain text where no template takes them; a word where there is room for no more."""
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    plain = f"{model.manifest.image_tokens.token}\n{QUESTION}"
    for prompt, images, raw in ((messages, [_image()], False), (plain, [_image()], True)):
        with contextlib.suppress(PumiceError):
            model.prepare(prompt, images, raw=raw)
            return prompt, images, raw
    return "red", [], True


def _image() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    return Image.fromarray(values)


def _their_inputs(checkpoint: Path, prompt: Any, images: list[Image.Image]) -> dict[str, torch.Tensor]:
    processor = read_processor(checkpoint)
    text, specials = prompt, True
    if not isinstance(prompt, str):
        text = processor.apply_chat_template(prompt, add_generation_prompt=True)
        bos = processor.tokenizer.bos_token
        specials = not (
            bos is not None and text.startswith(bos)
        )  # as transformers does when it tokenises itself
    made = processor(text=text, images=images or None, add_special_tokens=specials, return_tensors="pt")
    return dict(made)


def _their_logits(checkpoint: Path, inputs: dict[str, torch.Tensor]) -> NDArray[np.float32]:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
        logits: NDArray[np.float32] = model.eval()(**inputs).logits[0].numpy()
    return logits
