"""What all systems are asked, for one checkpoint: `workload.json` and arrays in a folder.

Enters: a checkpoint. Leaves:

    image, other_image            PNG files, 640 × 480
    pixel_values, other_pixel_values  .npy files, float32 [1, 3, H, W], as the checkpoint's own processor makes them
    question, prompt, input_ids       26 words; as the chat template has them, with one `<image>`; its ids, expanded
    image_token_id
    second_question, second_turn_ids  text; `input_ids`, an answer of 32 tokens, and that question
    text_ids                          2,100 tokens of ordinary words without an image: take the first n
    new_tokens                        32
    burst_images, burst_tokens        13 PNG files for 1, 4 and 8 requests at once, each asked `question` about; 64

transformers is the reference of what a prompt's ids and an image's values are.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

QUESTION = (
    "What is shown in this picture and how many things are there? "
    "Describe the colours, shapes and places of all of them in a few sentences."
)
SECOND = "And which of these things is nearest to the middle of the picture?"
ANSWER_TOKENS = NEW_TOKENS = 32
TEXT_TOKENS = 2100
BURST, BURST_TOKENS = 1 + 4 + 8, 64
_WORD = re.compile("^Ġ[a-z]{3,}$")
_COMMON = 400
"""Words of which texts are made: the first ones of the vocabulary, which are the commonest."""


def write_workload(checkpoint: Path, folder: Path) -> Path:
    """Write the workload for a checkpoint to `folder` (made if missing) and return `folder`."""
    from transformers import AutoProcessor  # imports torch

    processor = AutoProcessor.from_pretrained(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"question": QUESTION, "second_question": SECOND, "new_tokens": NEW_TOKENS}
    for seed, name in enumerate(("image", "other_image")):
        image = draw_image(seed)
        image.save(folder / f"{name}.png")
        found[name] = f"{name}.png"
        if name == "image":
            found |= _turns(processor, image)
        values = processor(images=image, text=found["prompt"], return_tensors="np")["pixel_values"]
        array = "pixel_values" if name == "image" else "other_pixel_values"
        np.save(folder / f"{array}.npy", np.asarray(values, np.float32))
        found[array] = f"{array}.npy"
    found |= {"burst_images": _burst_images(folder), "burst_tokens": BURST_TOKENS}
    found["text_ids"] = words(processor.tokenizer, TEXT_TOKENS, seed=2)
    (folder / "workload.json").write_text(json.dumps(found) + "\n")
    return folder


def _burst_images(folder: Path) -> list[str]:
    """Images for requests at once, none twice, so that no cache of images helps."""
    names = [f"burst{number}.png" for number in range(BURST)]
    for number, name in enumerate(names):
        draw_image(2 + number).save(folder / name)
    return names


def _turns(processor: Any, image: Image.Image) -> dict[str, Any]:
    """The first question as text and ids, and the ids of the conversation up to the second."""
    tokenizer = processor.tokenizer
    prompt = processor.apply_chat_template([_asked(QUESTION, True)], add_generation_prompt=True)
    ids = processor(images=image, text=prompt)["input_ids"][0]
    answer = words(tokenizer, ANSWER_TOKENS, seed=1)
    mark = "ANSWER"
    said = {"role": "assistant", "content": [{"type": "text", "text": mark}]}
    conversation = [_asked(QUESTION, True), said, _asked(SECOND, False)]
    rendered = processor.apply_chat_template(conversation, add_generation_prompt=True)
    behind = tokenizer(rendered.rpartition(mark)[2], add_special_tokens=False)["input_ids"]
    image_token_id = tokenizer.convert_tokens_to_ids(processor.image_token)
    return {
        "prompt": prompt,
        "input_ids": list(ids),
        "image_token_id": image_token_id,
        "second_turn_ids": [*ids, *answer, *behind],
    }


def _asked(text: str, image: bool) -> dict[str, Any]:
    content: list[dict[str, str]] = [{"type": "image"}] if image else []
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


def words(tokenizer: Any, count: int, *, seed: int) -> list[int]:
    """Ids of `count` ordinary words, each a token, drawn by chance: the same of every tokenizer that has them."""
    common = sorted(i for token, i in tokenizer.get_vocab().items() if _WORD.match(token))[:_COMMON]
    return random.Random(seed).choices(common, k=count)


def draw_image(seed: int) -> Image.Image:
    """Rectangles and circles over a gradient with some noise, RGB, 640 × 480."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:480, 0:640]
    base = np.stack([x * 200 // 640, y * 200 // 480, (x + y) % 200], -1) + rng.integers(0, 56, (480, 640, 3))
    image = Image.fromarray(base.astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    for number in range(8):
        left, top = (int(v) for v in rng.integers(0, (500, 360)))
        box = (left, top, left + int(rng.integers(40, 140)), top + int(rng.integers(40, 120)))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        (canvas.ellipse if number % 2 else canvas.rectangle)(box, fill=colour)
    return image
