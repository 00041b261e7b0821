"""Oracle: transformers' LlavaProcessor and PixtralProcessor. Tolerance: none, token ids and images are equal."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import AddedToken, Tokenizer

from pumice.errors import ContextLengthError, ImageError, PromptError
from pumice.manifest import ImageProcessing, ImageTokens, Manifest
from pumice.prompt.builder import PromptBuilder
from pumice.prompt.template import ChatTemplate
from pumice.prompt.tokenizer import PromptTokenizer
from tests.runtime.conftest import fast_tokenizer
from tests.runtime.images.test_preprocess import noise
from tests.runtime.prompt.templates import PIXTRAL
from tests.runtime.prompt.test_builder import PER_IMAGE, Pair, manifest
from tests.runtime.prompt.test_template import VARIABLES, turn

LONGEST, PATCH = 40, 8
TEMPLATE = PIXTRAL.replace("<image>", "[IMG]")
IMAGE_TOKENS = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
IMAGES = st.builds(noise, st.sampled_from(["RGB", "L", "RGBA"]), st.integers(4, 90), st.integers(4, 90))
WORDS = st.lists(
    st.sampled_from(["a", " ", "\n", "red square", "[IMG", "BREAK]", "日本", "[/INST]", "?"]), max_size=6
).map("".join)


class Pixtral:
    """Our prompt builder and transformers' PixtralProcessor over the same tokenizer."""

    def __init__(self, tokenizer_json: bytes, folder: Path) -> None:
        from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

        from pumice.export.processor.load import pixtral_processor

        tokenizer = Tokenizer.from_str(tokenizer_json.decode())
        tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in IMAGE_TOKENS])
        definition = tokenizer.to_str().encode()
        images = PixtralImageProcessorPil(size={"longest_edge": LONGEST})
        self.processor = pixtral_processor()(
            images, fast_tokenizer(definition, folder), patch_size=PATCH, chat_template=TEMPLATE
        )
        self.manifest = pixtral_manifest([tokenizer.token_to_id(text) for text in IMAGE_TOKENS])
        self.tokenizer = PromptTokenizer(definition, reserved=IMAGE_TOKENS, template=TEMPLATE)
        self.builder = self.with_context(self.manifest.decoder.context_length)

    def with_context(self, context: int) -> PromptBuilder:
        shape = replace(self.manifest.decoder, context_length=context)
        return PromptBuilder(
            replace(self.manifest, decoder=shape), self.tokenizer, ChatTemplate(TEMPLATE, VARIABLES)
        )


def pixtral_manifest(ids: list[int]) -> Manifest:
    return replace(
        manifest(ids[0]),
        image=ImageProcessing(
            convert_rgb=True,
            resize_shortest_edge=None,
            resize_to=None,
            resize_longest_edge=LONGEST,
            multiple_of=PATCH,
            resample=3,
            crop_to=None,
            rescale_factor=1 / 255,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
            size=None,
        ),
        image_tokens=ImageTokens(
            token="[IMG]",
            token_id=ids[0],
            per_image=None,
            patch_size=PATCH,
            break_token="[IMG_BREAK]",
            break_token_id=ids[1],
            end_token="[IMG_END]",
            end_token_id=ids[2],
        ),
    )


@pytest.fixture(scope="session")
def pixtral(tokenizer_json: bytes, tmp_path_factory: pytest.TempPathFactory) -> Pixtral:
    return Pixtral(tokenizer_json, tmp_path_factory.mktemp("pixtral"))


def check(pixtral: Pixtral, prompt: Any, text: str, images: list[Image.Image], *, raw: bool) -> None:
    """Our `prompt` is what transformers makes of `text`."""
    once = {} if raw else {"add_special_tokens": False}
    expected = pixtral.processor(text=text, images=images or None, return_tensors="np", **once)
    prepared = pixtral.builder.prepare(prompt, images, raw=raw)
    assert prepared.input_ids.tolist() == expected["input_ids"].tolist()
    image_id = pixtral.manifest.image_tokens.token_id
    assert prepared.image_tokens == int((prepared.input_ids == image_id).sum())
    assert len(prepared.pixel_arrays) == len(images)
    if images:
        assert prepared.image_sizes.dtype == np.int64
        assert np.array_equal(prepared.image_sizes, expected["image_sizes"])
        assert np.array_equal(prepared.pixel_values, expected["pixel_values"])
        assert prepared.image_tokens == (prepared.image_sizes // PATCH).prod(1).sum()


@pytest.mark.export_extra
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(images=st.lists(IMAGES, max_size=3), words=st.lists(WORDS, min_size=4, max_size=4))
def test_raw_prompts_with_images(pixtral: Pixtral, images: list[Image.Image], words: list[str]) -> None:
    text = "x" + "".join(word + "[IMG]" for word in words[: len(images)]) + words[3]
    check(pixtral, text, text, images, raw=True)


@pytest.mark.export_extra
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(turns=st.lists(st.tuples(WORDS, st.lists(IMAGES, max_size=2)), min_size=1, max_size=3), answer=WORDS)
def test_conversations_with_images_in_any_turn(
    pixtral: Pixtral, turns: list[tuple[str, list[Image.Image]]], answer: str
) -> None:
    messages = []
    for words, images in turns:
        messages += [
            turn("user", *[None] * len(images), "What? " + words),
            turn("assistant", "It " + answer),
        ]
    messages = messages[:-1]
    rendered = pixtral.processor.apply_chat_template(messages, add_generation_prompt=True)
    check(pixtral, messages, rendered, [p for _, images in turns for p in images], raw=False)


@pytest.mark.export_extra
def test_one_image_is_rows_of_tokens(pixtral: Pixtral) -> None:
    ids = pixtral.builder.prepare("[IMG]", [noise("RGB", 24, 16)], raw=True).input_ids[0].tolist()
    image = pixtral.manifest.image_tokens
    row = [image.token_id] * 3
    assert ids[-8:] == [*row, image.break_token_id, *row, image.end_token_id]


@pytest.mark.export_extra
def test_typed_image_tokens_are_words(pixtral: Pixtral) -> None:
    prepared = pixtral.builder.prepare("Is [IMG][IMG_BREAK][IMG_END] one?", [noise("RGB", 8, 8)])
    image, ids = pixtral.manifest.image_tokens, prepared.input_ids[0].tolist()
    assert [ids.count(i) for i in (image.token_id, image.break_token_id, image.end_token_id)] == [1, 0, 1]


@pytest.mark.export_extra
def test_a_later_prompt_needs_no_earlier_image(pixtral: Pixtral) -> None:
    first, second = noise("RGB", 30, 12), noise("RGB", 9, 33)
    messages = [turn("user", None, "What?"), turn("assistant", "It"), turn("user", None, "And?")]
    whole = pixtral.builder.prepare(messages, [first, second])
    later = pixtral.builder.prepare(messages, [whole.images[0], second])
    assert np.array_equal(later.input_ids, whole.input_ids)
    assert later.images[0] is whole.images[0]
    assert np.array_equal(later.pixel_arrays[1], whole.pixel_arrays[1])
    assert later.image_tokens == whole.image_tokens


@pytest.mark.export_extra
def test_places_are_counted_before_an_image_is_opened(pixtral: Pixtral) -> None:
    with pytest.raises(PromptError, match=r"1 \[IMG\] placeholder, but 2 images were given"):
        pixtral.builder.prepare("[IMG]", ["missing", "missing"], raw=True)
    with pytest.raises(ImageError, match="no image 'missing'"):
        pixtral.builder.prepare("What?", ["missing"])


@pytest.mark.export_extra
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(images=st.lists(IMAGES, max_size=3))
def test_a_prompt_is_counted_by_the_sizes_of_its_images(pixtral: Pixtral, images: list[Image.Image]) -> None:
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": content}]
    sizes = [(image.height, image.width) for image in images]
    assert pixtral.builder.count(messages, sizes) == pixtral.builder.prepare(messages, images).tokens
    alone = [{"role": "user", "content": [{"type": "text", "text": "What?"}]}]
    of_images = pixtral.builder.count_images(sizes)
    assert of_images >= pixtral.builder.prepare(messages, images).image_tokens
    assert pixtral.builder.count(messages, sizes) == of_images + pixtral.builder.prepare(alone).tokens


@pytest.mark.export_extra
def test_no_image_is_opened_behind_a_full_context(pixtral: Pixtral) -> None:
    builder = pixtral.with_context(100)
    large = noise("RGB", LONGEST, LONGEST)
    with pytest.raises(ContextLengthError, match=r"4 images of the prompt have 120 tokens.* context is 100"):
        builder.prepare("What?", [large] * 4 + ["missing"])
    with pytest.raises(ContextLengthError, match=r"the prompt has [\d,]+ tokens"):
        builder.prepare("What is this? " * 20, [large])


@pytest.fixture(scope="session")
def llava(tokenizer_json: bytes, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tokenizer_json, tmp_path_factory.mktemp("llava"))


@pytest.mark.export_extra
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(images=st.lists(IMAGES, max_size=3), words=st.lists(WORDS, min_size=4, max_size=4))
def test_images_of_one_size(llava: Pair, images: list[Image.Image], words: list[str]) -> None:
    text = "x" + "".join(word + "<image>" for word in words[: len(images)]) + words[3]
    expected = llava.processors["llava-1.5"](text=text, images=images or None, return_tensors="np")
    prepared = llava.builders["llava-1.5"].prepare(text, images, raw=True)
    assert prepared.input_ids.tolist() == expected["input_ids"].tolist()
    assert prepared.image_tokens == len(images) * PER_IMAGE
    assert prepared.image_sizes.tolist() == [[28, 28]] * len(images)
    if images:
        assert np.array_equal(prepared.pixel_values, expected["pixel_values"])
