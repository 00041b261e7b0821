"""Oracle: each released family's own processor. Tolerance: none, token ids and pixel values are equal.

A checkpoint's companions are described and copied as in an export; the runtime prepares prompts from them alone.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.processor import describe as companions
from pumice.export.processor.load import load_processor
from pumice.prompt.builder import PromptBuilder
from pumice.prompt.template import ChatTemplate
from pumice.prompt.tokenizer import PromptTokenizer
from tests.factory import FAMILIES
from tests.runtime.images.test_preprocess import noise
from tests.runtime.prompt.test_builder import manifest
from tests.runtime.prompt.test_template import turn

# rope scalings and dtypes make no difference here
NAMES = ["llava-1.5", "bakllava", "llava-interleave", "llava-llama-3", "vip-llava", "pixtral"]
IMAGES = [noise("RGB", 90, 40, 1), noise("RGBA", 33, 70, 2), noise("L", 20, 20, 3)]
CONVERSATIONS = {
    "no image": [turn("user", "What is a red circle?")],
    "one image": [turn("user", None, "What is shown here?")],
    "two images": [turn("user", None, None, "What differs? 日本 🙂")],
    "later images": [
        turn("user", None, "What is shown here?"),
        turn("assistant", "A red circle."),
        turn("user", None, None, "And in these?"),
    ],
}


class Family:
    """The runtime's view of a checkpoint, and transformers'."""

    def __init__(self, name: str, folder: Path) -> None:
        checkpoint = open_checkpoint(FAMILIES[name](folder / "checkpoint"))
        config = read_config(checkpoint.config)
        (folder / "bundle").mkdir()
        companions.copy(checkpoint, folder / "bundle")
        self.parts = companions.describe(checkpoint, config)
        self.processor = load_processor(checkpoint.path, config)
        template = (folder / "bundle" / "chat_template.jinja").read_text()
        texts = ("bos_token", "eos_token", "unk_token", "pad_token")
        tokens = self.parts["tokens"]
        variables = {text: value for text in texts if (value := getattr(tokens, text)) is not None}
        image = self.parts["image_tokens"]
        reserved = [t for t in (image.token, image.break_token, image.end_token, *variables.values()) if t]
        shape = replace(manifest(0).decoder, context_length=4_000)
        self.builder = PromptBuilder(
            replace(manifest(0), decoder=shape, **self.parts),
            PromptTokenizer(
                (folder / "bundle" / "tokenizer.json").read_bytes(), reserved=reserved, template=template
            ),
            ChatTemplate(template, variables),
        )

    def expected(self, text: str, images: list[Image.Image], *, bos: bool) -> Any:
        options = {} if bos else {"add_special_tokens": False}
        return self.processor(text=text, images=images or None, return_tensors="np", **options)


@pytest.fixture(scope="module", params=NAMES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(request.param, tmp_path_factory.mktemp(request.param))


def check(family: Family, prompt: Any, expected: Any, images: list[Image.Image], *, raw: bool) -> None:
    prepared = family.builder.prepare(prompt, images, raw=raw)
    assert prepared.input_ids.tolist() == expected["input_ids"].tolist()
    if images:
        assert np.array_equal(prepared.pixel_values, expected["pixel_values"])
        if "image_sizes" in expected:
            assert np.array_equal(prepared.image_sizes, expected["image_sizes"])


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations(family: Family, name: str) -> None:
    messages = CONVERSATIONS[name]
    images = IMAGES[: sum(part["type"] == "image" for message in messages for part in message["content"])]
    text = family.processor.apply_chat_template(messages, add_generation_prompt=True)
    bos = family.processor.tokenizer.bos_token
    expected = family.expected(text, images, bos=not (bos and text.startswith(bos)))
    check(family, messages, expected, images, raw=False)


@pytest.mark.parametrize("images", range(4))
def test_raw_prompts(family: Family, images: int) -> None:
    text = "x" + family.processor.image_token.join(["a ", " b\n", "c", " d"][: images + 1])
    check(family, text, family.expected(text, IMAGES[:images], bos=True), IMAGES[:images], raw=True)


def test_ends(family: Family) -> None:
    tokenizer, ends = family.processor.tokenizer, family.parts["tokens"].eos_ids
    assert tokenizer.eos_token_id in ends
    assert len(ends) == len(set(ends))
