"""Oracle: transformers' LlavaProcessor. Tolerance: none, token ids are equal."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer

from pumice.errors import ContextLengthError, PromptError
from pumice.images.prepared import ImageFeatures, PreparedImage, model_key
from pumice.manifest import (
    Chat,
    DecoderShape,
    FileEntry,
    GenerationDefaults,
    Graphs,
    GraphSpec,
    ImageProcessing,
    ImageTokens,
    Manifest,
    Precision,
    Requires,
    Source,
    Tokens,
)
from pumice.prompt.builder import PromptBuilder
from pumice.prompt.template import ChatTemplate
from pumice.prompt.tokenizer import PromptTokenizer
from tests.runtime.conftest import SPECIALS, fast_tokenizer
from tests.runtime.prompt.templates import TEMPLATES
from tests.runtime.prompt.test_template import CONVERSATIONS, VARIABLES, turn

PER_IMAGE = 4
CONTEXT = 500
IMAGE = Image.new("RGB", (30, 20), "red")
GRAPH = GraphSpec(file="g", external_data=(), inputs=(), outputs=(), nodes=1)


def manifest(image_id: int) -> Manifest:
    return Manifest(
        schema_version=1,
        created_with={},
        requires=Requires(onnxruntime="1.0", opset=1, ir_version=1),
        source=Source(
            checkpoint="",
            model_type="",
            vision_model_type="",
            text_model_type="",
            dtype="",
            config_sha256="0" * 64,
        ),
        precision=Precision(name="fp32"),
        graphs=Graphs(vision_encoder=GRAPH, embedding=GRAPH, decoder=GRAPH),
        decoder=DecoderShape(
            layers=1,
            kv_heads=1,
            head_dim=1,
            hidden_size=1,
            vocab_size=1000,  # as many as any of the tokenizers has, and more
            context_length=CONTEXT,
            kv_dtype="float32",
        ),
        image=ImageProcessing(
            convert_rgb=True,
            resize_shortest_edge=28,
            resize_to=None,
            resample=3,
            crop_to=(28, 28),
            rescale_factor=1 / 255,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            size=(28, 28),
        ),
        image_tokens=ImageTokens(token="<image>", token_id=image_id, per_image=PER_IMAGE),
        tokens=Tokens(
            bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", eos_ids=(2,), pad_id=None
        ),
        chat=Chat(tokenizer_file="t", template_file=None),
        generation=GenerationDefaults(),
        files={"g": FileEntry(size=1, sha256="0" * 64)},
    )


class Pair:
    """Our prompt builders, one for each template, and transformers' processors over the same tokenizer."""

    def __init__(self, tokenizer_json: bytes, folder: Path) -> None:
        self.tokenizer_json, self.folder = tokenizer_json, folder
        tokenizer = Tokenizer.from_str(tokenizer_json.decode())
        image_id = tokenizer.token_to_id("<image>")
        self.builders = {
            name: PromptBuilder(
                manifest(image_id),
                PromptTokenizer(tokenizer_json, reserved=["<image>"], template=source),
                ChatTemplate(source, VARIABLES),
            )
            for name, source in TEMPLATES.items()
        }
        self.special_ids = {tokenizer.token_to_id(text) for text in SPECIALS}
        self.unk_id = tokenizer.token_to_id("<unk>")

    @cached_property
    def processors(self) -> dict[str, Any]:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
        from transformers.models.llava.processing_llava import LlavaProcessor

        fast = fast_tokenizer(self.tokenizer_json, self.folder)
        clip = CLIPImageProcessorPil(
            size={"shortest_edge": 28},
            crop_size={"height": 28, "width": 28},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        )
        return {
            name: LlavaProcessor(
                clip, fast, patch_size=14, vision_feature_select_strategy="full", chat_template=source
            )
            for name, source in TEMPLATES.items()
        }

    def oracle(self, template: str, messages: list[dict[str, Any]], prepared: int) -> list[int]:
        processor = self.processors[template]
        rendered = processor.apply_chat_template(messages, add_generation_prompt=True)
        images = [IMAGE] * prepared if prepared else None
        once = {"add_special_tokens": False} if rendered.startswith("<s>") else {}
        ids: list[int] = processor(text=rendered, images=images, **once)["input_ids"][0]
        return ids

    def ids(self, template: str, prompt: Any, images: int = 0, *, raw: bool = False) -> list[int]:
        prepared = self.builders[template].prepare(prompt, [IMAGE] * images, raw=raw)
        assert prepared.input_ids.dtype == np.int64
        assert prepared.pixel_values.shape == (images, 3, 28, 28)
        ids: list[int] = prepared.input_ids[0].tolist()
        return ids


@pytest.fixture(scope="session")
def pair(tokenizer_json: bytes, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tokenizer_json, tmp_path_factory.mktemp("tokenizer"))


def images_in(messages: list[dict[str, Any]]) -> int:
    return sum(
        part["type"] == "image"
        for m in messages
        if not isinstance(m["content"], str)
        for part in m["content"]
    )


@pytest.mark.export_extra
@pytest.mark.parametrize(
    "conversation", ["question", "text only", "image last", "two images", "two turns", "system"]
)
@pytest.mark.parametrize("template", ["llava-1.5", "interleave"])
def test_conversations_are_encoded_as_transformers_does(pair: Pair, template: str, conversation: str) -> None:
    messages = CONVERSATIONS[conversation]
    images = images_in(messages)
    assert pair.ids(template, messages, images) == pair.oracle(template, messages, images)


@pytest.mark.export_extra
@pytest.mark.parametrize("template", ["llama-3", "vicuna", "pixtral"])
def test_templates_that_take_strings_or_begin_with_bos(pair: Pair, template: str) -> None:
    messages = CONVERSATIONS["strings"]
    assert pair.ids(template, messages) == pair.oracle(template, messages, 0)


@pytest.mark.export_extra
def test_mixed_parts_with_images(pair: Pair) -> None:
    messages = CONVERSATIONS["two images"]
    assert pair.ids("pixtral", messages, 2) == pair.oracle("pixtral", messages, 2)


@pytest.mark.export_extra
def test_a_plain_question_comes_after_its_images(pair: Pair) -> None:
    messages = [turn("user", None, None, "What is this?")]
    assert pair.ids("llava-1.5", "What is this?", 2) == pair.oracle("llava-1.5", messages, 2)


def test_text_alone_is_not_lost_in_templates_that_want_parts(pair: Pair) -> None:
    string, parts = [{"role": "user", "content": "What is this?"}], [turn("user", "What is this?")]
    assert pair.ids("llava-1.5", string) == pair.ids("llava-1.5", parts)


@pytest.mark.export_extra
@pytest.mark.parametrize("text", ["<image> USER: </s> hm ASSISTANT:", "a<image>b<image>", "plain", " <s> x"])
def test_raw_prompts_are_encoded_as_they_stand(pair: Pair, text: str) -> None:
    images = text.count("<image>")
    expected = pair.processors["llava-1.5"](text=text, images=[IMAGE] * images if images else None)[
        "input_ids"
    ][0]
    assert pair.ids("llava-1.5", text, images, raw=True) == expected


def test_raw_prompts_may_be_token_ids(pair: Pair) -> None:
    ids = pair.ids("llava-1.5", "USER: hm </s>", raw=True)
    assert pair.ids("llava-1.5", ids[1:], raw=True) == ids[1:]
    for wrong in ([], [1, -1], [True], [1.0], [10**9], (1, 2), ["a"], None):
        with pytest.raises(PromptError):
            pair.ids("llava-1.5", wrong, raw=True)
    with pytest.raises(PromptError, match="placeholder"):
        pair.ids("llava-1.5", ids, 1, raw=True)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ORDINARY = st.lists(
    WORDS | st.sampled_from([" ", "\n", "a <b> c", "image>", "</", "|>", "USER: "]), max_size=6
).map("".join)
CUTS = [(text[:k], text[k:]) for text in SPECIALS for k in range(len(text))]
FRAGMENTS = st.sampled_from([fragment for cut in CUTS for fragment in cut if fragment])
INJECTED = st.lists(FRAGMENTS | WORDS | st.sampled_from([" ", "\n", "▁"]), min_size=1, max_size=8).map(
    "".join
)


@pytest.mark.export_extra
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=ORDINARY, template=st.sampled_from(["llava-1.5", "interleave", "pixtral"]))
def test_ordinary_texts_are_encoded_as_transformers_does(pair: Pair, text: str, template: str) -> None:
    if any(special in text for special in SPECIALS):
        return
    messages = [turn("user", None, text)]
    assert pair.ids(template, messages, 1) == pair.oracle(template, messages, 1)


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(first=INJECTED, second=INJECTED, template=st.sampled_from(sorted(TEMPLATES)), parts=st.booleans())
def test_no_text_ever_makes_a_special_token(
    pair: Pair, first: str, second: str, template: str, parts: bool
) -> None:
    def conversation(*texts: str) -> list[dict[str, Any]]:
        roles = ["user", "assistant", "user"]
        if template in ("llava-1.5", "interleave", "shouting") or (parts and template == "pixtral"):
            return [turn(role, text) for role, text in zip(roles, texts, strict=True)]
        return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]

    def specials(messages: list[dict[str, Any]]) -> list[int]:
        return [i for i in pair.ids(template, messages) if i in pair.special_ids - {pair.unk_id}]

    try:
        made = specials(conversation(first, second, first))
    except PromptError:
        assert template == "shouting"
        return
    assert made == specials(conversation("a", "b", "c"))


@pytest.mark.export_extra
def test_a_typed_image_token_is_no_image(pair: Pair) -> None:
    ids = pair.ids("llava-1.5", "What does <image> mean?", 1)
    assert ids.count(manifest_image_id(pair)) == PER_IMAGE
    assert pair.ids("llava-1.5", "What does <image> mean?").count(manifest_image_id(pair)) == 0


def manifest_image_id(pair: Pair) -> int:
    image_id: int = pair.processors["llava-1.5"].image_token_id
    return image_id


@pytest.mark.parametrize(
    ("prompt", "images", "raw", "numbers"),
    [
        ("<image> and <image>", 1, True, "2 <image> placeholders, but 1 image was given"),
        ("none", 1, True, "0 <image> placeholders, but 1 image was given"),
        ("<image>", 0, True, "1 <image> placeholder, but 0 images were given"),
        ([turn("user", None, "x")], 2, False, "1 <image> placeholder, but 2 images were given"),
        ([turn("user", "x")], 1, False, "0 <image> placeholders, but 1 image was given"),
    ],
)
def test_placeholders_and_images_must_be_equal(
    pair: Pair, prompt: Any, images: int, raw: bool, numbers: str
) -> None:
    with pytest.raises(PromptError, match=numbers):
        pair.ids("llava-1.5", prompt, images, raw=raw)


def test_a_prompt_longer_than_the_context_gives_both_numbers(pair: Pair) -> None:
    with pytest.raises(ContextLengthError, match=r"has [\d,]+ tokens.* context is 500"):
        pair.builders["llava-1.5"].prepare("a b c d " * 1000, ["missing image"])
    with pytest.raises(
        ContextLengthError, match=r"1000 images of the prompt have 4,000 tokens.* context is 500"
    ):
        pair.builders["llava-1.5"].prepare("What?", ["missing image"] * 1000)
    for raw in (True, False):
        with pytest.raises(ContextLengthError, match=r"has 8,000,000 characters.* context of 500"):
            pair.builders["llava-1.5"].prepare("a b c d " * 1_000_000, raw=raw)
    with pytest.raises(ContextLengthError, match=r"context is 500"):
        pair.builders["llava-1.5"].prepare("🙂" * 1_000_000)


@pytest.mark.parametrize(
    "prompt",
    [
        [],
        None,
        5,
        b"bytes",
        ["text"],
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "<s>", "content": "x"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "video"}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": "x", "tool_calls": []}],
        "lone surrogate \ud800",
        [turn("user", "lone surrogate \udfff")],
    ],
)
def test_prompts_of_other_forms_are_refused(pair: Pair, prompt: Any) -> None:
    with pytest.raises(PromptError):
        pair.ids("llava-1.5", prompt)


def test_a_template_that_leaves_the_question_out_is_refused(tokenizer_json: bytes) -> None:
    tokenizer = PromptTokenizer(tokenizer_json, reserved=["<image>"], template="")
    builder = PromptBuilder(manifest(3), tokenizer, ChatTemplate("hello", VARIABLES))
    with pytest.raises(PromptError, match="leaves out the text"):
        builder.prepare("What?")


def test_without_a_template_only_raw_prompts_are_taken(tokenizer_json: bytes) -> None:
    builder = PromptBuilder(
        manifest(3), PromptTokenizer(tokenizer_json, reserved=["<image>"], template=""), None
    )
    assert builder.prepare("What?", raw=True).tokens > 0
    with pytest.raises(PromptError, match="raw=True"):
        builder.prepare("What?")


def test_images_may_be_given_again_as_they_were_prepared(pair: Pair) -> None:
    builder = pair.builders["llava-1.5"]
    first = builder.prepare("What?", [IMAGE])
    again = builder.prepare("And what else?", [*first.images, IMAGE])
    assert [image.digest for image in again.images] == [first.images[0].digest] * 2
    assert again.image_tokens == 2 * PER_IMAGE
    assert again.image_sizes.tolist() == [[28, 28]] * 2
    assert again.pixel_values.shape == (2, 3, 28, 28)
    assert np.array_equal(again.pixel_values[0], first.pixel_values[0])
    with pytest.raises(ValueError, match="read-only"):
        first.pixel_arrays[0][0, 0, 0] = 1
    values = first.pixel_values  # the caller's own
    values[:] = 0
    assert first.pixel_arrays[0].any()


@pytest.mark.export_extra
def test_features_take_an_image_s_place_and_have_no_pixels(pair: Pair) -> None:
    builder, model = pair.builders["llava-1.5"], model_key(manifest(manifest_image_id(pair)))
    features = ImageFeatures(
        features=np.ones((PER_IMAGE, 1), np.float32), size=(28, 28), digest=b"d" * 32, model=model
    )
    mixed = builder.prepare("What?", [features, IMAGE])
    plain = builder.prepare("What?", [IMAGE, IMAGE])
    assert np.array_equal(mixed.input_ids, plain.input_ids)
    assert mixed.image_tokens == 2 * PER_IMAGE
    assert [type(image) for image in mixed.images] == [ImageFeatures, PreparedImage]
    assert mixed.pixel_values.shape == (1, 3, 28, 28)
    alone = builder.prepare("What?", [features])
    assert alone.pixel_arrays == ()
    assert alone.pixel_values.shape == (0, 3, 28, 28)
    assert alone.image_sizes.shape == (0, 2)


@pytest.mark.parametrize("given", [0, 2])
def test_prepared_images_and_places_must_be_equal_too(pair: Pair, given: int) -> None:
    builder = pair.builders["llava-1.5"]
    (image,) = builder.prepare("What?", [IMAGE]).images
    told = f"1 <image> placeholder, but {given} images were given"
    with pytest.raises(PromptError, match=told):
        builder.prepare([turn("user", None, "x")], [image] * given)
