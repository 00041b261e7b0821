import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoProcessor, GenerationConfig

from pumice.errors import CheckpointError
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.processor import describe as companions
from pumice.export.processor import generation
from pumice.manifest import ImageProcessing
from tests.factory import CHAT_TEMPLATE, make_checkpoint

SIZE = 56


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="session")
def new(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("new"), layout="new")


@pytest.fixture
def folder(released, tmp_path):
    return Path(shutil.copytree(released, tmp_path / "checkpoint"))


@pytest.fixture
def newer(new, tmp_path):
    return Path(shutil.copytree(new, tmp_path / "newer"))


def described(folder: Path) -> companions.Parts:
    checkpoint = open_checkpoint(folder)
    return companions.describe(checkpoint, read_config(checkpoint.config))


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        described(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(folder: Path, name: str, drop: tuple[str, ...] = (), **changes: object) -> Path:
    content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    kept = {key: value for key, value in content.items() if key not in drop}
    (folder / name).write_text(json.dumps(kept | changes))
    return folder


def test_both_layouts_describe_the_same(released, new):
    assert described(released) == described(new)
    parts = described(released)
    assert parts["image"] == ImageProcessing(
        convert_rgb=True,
        resize_shortest_edge=SIZE,
        resize_to=None,
        resample=3,
        crop_to=(SIZE, SIZE),
        rescale_factor=1 / 255,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        size=(SIZE, SIZE),
    )
    assert parts["image_tokens"].token == "<image>"
    assert parts["image_tokens"].per_image == 16
    assert parts["tokens"].bos_token == "<s>"
    assert parts["tokens"].eos_ids == (2,)
    assert parts["chat"].template_file == "chat_template.jinja"


def transformers_steps(folder: Path) -> ImageProcessing:
    """What the manifest's steps say, checked by computing them with Pillow and NumPy for two images."""
    image = described(folder)["image"]
    processor = AutoProcessor.from_pretrained(folder).image_processor
    for width, height in ((90, 61), (31, 200)):
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        prepared = Image.fromarray(np.stack([x * 2, y, x * y % 256], -1).astype(np.uint8))
        expected = processor(images=prepared, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(computed(prepared, image), expected, rtol=1e-5, atol=1e-5)
    return image


def computed(image: Image.Image, spec: ImageProcessing) -> np.ndarray:
    if spec.resize_shortest_edge is not None:
        short, long = sorted(image.size)
        other = int(spec.resize_shortest_edge * long / short)
        portrait = image.width <= image.height
        size = (spec.resize_shortest_edge, other) if portrait else (other, spec.resize_shortest_edge)
        image = image.resize(size, spec.resample)
    if spec.resize_to is not None:
        image = image.resize(spec.resize_to[::-1], spec.resample)
    pixels = np.asarray(image).astype(np.float64)
    if spec.crop_to is not None:
        top, left = (pixels.shape[0] - spec.crop_to[0]) // 2, (pixels.shape[1] - spec.crop_to[1]) // 2
        pixels = pixels[top : top + spec.crop_to[0], left : left + spec.crop_to[1]]
    if spec.rescale_factor is not None:
        pixels = pixels * spec.rescale_factor
    if spec.mean is not None and spec.std is not None:
        pixels = (pixels - spec.mean) / spec.std
    return pixels.transpose(2, 0, 1)


SIZES = st.sampled_from(
    [SIZE, {"shortest_edge": SIZE}, {"height": SIZE, "width": SIZE}, {"shortest_edge": 70}]
)
CROPS = st.sampled_from([SIZE, {"height": SIZE, "width": SIZE}])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    spelling=st.sampled_from(
        ["CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "LlavaImageProcessor", None]
    ),
    size=SIZES,
    crop_size=CROPS,
    resample=st.sampled_from([0, 2, 3, None]),
    flags=st.fixed_dictionaries(
        {
            name: st.sampled_from([True, False, None])
            for name in ("do_rescale", "do_normalize", "do_convert_rgb")
        }
    ),
    nested=st.booleans(),
)
def test_settings_mean_what_they_mean_in_transformers(
    folder, newer, spelling, size, crop_size, resample, flags, nested
):
    choices = {"size": size, "crop_size": crop_size, "resample": resample, "do_center_crop": True, **flags}
    choices |= {"image_processor_type": spelling} if spelling else {}
    choices = {key: value for key, value in choices.items() if value is not None}
    if nested:
        content = {"patch_size": 14, "image_processor": choices}
        (newer / "processor_config.json").write_text(json.dumps(content))
    else:
        (folder / "preprocessor_config.json").write_text(json.dumps(choices))
    transformers_steps(newer if nested else folder)


def test_settings_left_out_are_clips(folder):
    change(folder, "preprocessor_config.json", drop=("resample", "image_mean", "rescale_factor", "do_resize"))
    image = transformers_steps(folder)
    assert image.resample == 3
    assert image.mean == (0.48145466, 0.4578275, 0.40821073)


def test_older_spelling_of_the_class(folder):
    change(
        folder,
        "preprocessor_config.json",
        drop=("image_processor_type",),
        feature_extractor_type="CLIPFeatureExtractor",
    )
    assert described(folder)["image"].size == (SIZE, SIZE)


def test_no_crop_needs_a_full_resize(folder):
    change(folder, "preprocessor_config.json", do_center_crop=False, size={"height": SIZE, "width": SIZE})
    assert transformers_steps(folder).crop_to is None
    change(folder, "preprocessor_config.json", size={"shortest_edge": SIZE})
    assert "any size" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_processor_type": "PixtralImageProcessor"}, "PixtralImageProcessor"),
        ({"image_processor_type": "LlavaNextImageProcessor"}, "LlavaNextImageProcessor"),
        ({"image_processor_type": "NoSuchProcessor"}, "cannot be used"),
        ({"crop_size": {"height": 28, "width": 28}}, "the vision tower takes (56, 56)"),
        ({"crop_size": {"height": 56, "width": 28}}, "the vision tower takes (56, 56)"),
        (
            {"size": {"shortest_edge": 56, "longest_edge": 90}},
            "supported are shortest_edge, or height and width",
        ),
        ({"do_pad": True}, "do_pad"),
        ({"size": {"shortest_edge": 10**20}}, "at most"),
        ({"size": {"shortest_edge": 56.5}}, "no sense"),
        ({"crop_size": {"height": 56.5, "width": 56}}, "the vision tower takes (56, 56)"),
        ({"crop_size": {"height": 56, "width": 100_000}}, "crops to 100,000 pixels: at most 16,384"),
        ({"size": {"height": 100_000, "width": 56}}, "resizes to 100,000 pixels: at most 16,384"),
        ({"use_square_size": True}, "use_square_size"),
        ({"mystery": 3}, "mystery"),
        ({"auto_map": {"AutoImageProcessor": "evil.Evil"}}, "never runs a checkpoint's code"),
        ({"size": "large"}, "cannot be used"),
    ],
)
def test_image_processors_that_are_refused(folder, changes, told):
    assert told in refused(change(folder, "preprocessor_config.json", **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"processor_class": "LlavaProcessor", "transformers_version": "4.40.0", "name_or_path": "org/name"},
        {"image_grid_pinpoints": [[56, 112]], "aspect_ratio_setting": "anyres", "image_aspect_ratio": "pad"},
        {"patch_size": 99, "num_additional_image_tokens": 7, "vision_feature_select_strategy": "full"},
        {"image_token": "<other>", "chat_template": "{{ 1 }}", "tokenizer_class": "LlamaTokenizer"},
        {"do_reduce_labels": False, "do_pan_and_scan": False, "do_pad": False, "mystery": None},
    ],
)
def test_settings_that_change_nothing(folder, changes):
    before = transformers_steps(folder)
    change(folder, "preprocessor_config.json", **changes)
    assert transformers_steps(folder) == before


def test_all_unknown_settings_are_in_one_message(folder):
    change(folder, "preprocessor_config.json", mystery=3, sharpen={"by": "two\nthirds"}, do_pan_and_scan=True)
    message = refused(folder)
    for said in ("3 for mystery", '{"by": "two\\nthirds"} for sharpen', "true for do_pan_and_scan"):
        assert said in message
    assert str(folder) in message


def test_images_become_rgb_whatever_the_processor_says(folder):
    change(folder, "preprocessor_config.json", do_convert_rgb=False)
    assert described(folder)["image"].convert_rgb  # older readers want the field, and took nothing from it


def test_no_image_processor(folder):
    (folder / "preprocessor_config.json").unlink()
    assert "neither preprocessor_config.json nor" in refused(folder)


@pytest.mark.parametrize(
    "name", ["preprocessor_config.json", "tokenizer_config.json", "generation_config.json"]
)
@pytest.mark.parametrize("content", ["{", "[1]", "\x00"])
def test_damaged_files(folder, name, content):
    (folder / name).write_text(content)
    assert name in refused(folder)


def test_files_of_others_are_let_alone(folder):
    (folder / "all_results.json").write_text("[1, 2")
    described(folder)


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in refused(folder)


@pytest.mark.parametrize("content", ["{", "{}", '{"model": {"type": "Mystery"}}'])
def test_damaged_tokenizer(folder, content):
    (folder / "tokenizer.json").write_text(content)
    assert "cannot be used" in refused(folder)


def test_code_in_the_tokenizer_config(folder):
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    assert "never runs a checkpoint's code" in refused(folder)


def test_image_token_that_tokenizer_and_model_know_differently(folder):
    change(folder, "config.json", image_token_index=5)
    assert "has id 382 in the tokenizer and 5 in config.json" in refused(folder)


def test_image_token_that_the_tokenizer_lacks(folder):
    change(folder, "processor_config.json", image_token="<picture>")
    assert "'<picture>' has id None" in refused(folder)


def test_image_token_of_another_name(folder):
    text = (folder / "tokenizer.json").read_text().replace("<image>", "<picture>")
    (folder / "tokenizer.json").write_text(text)
    change(folder, "processor_config.json", image_token="<picture>")
    assert described(folder)["image_tokens"].token == "<picture>"


TEMPLATES = {"processor": "P", "json": "J", "jinja": "N", "tokenizer": "T"}


@pytest.mark.parametrize("mask", range(16))
def test_template_precedence_is_transformers(folder, tmp_path, mask):
    """Every subset of the places where a template can stand."""
    change(folder, "tokenizer_config.json", drop=("chat_template",))
    (folder / "chat_template.json").unlink()
    if mask & 1:
        change(folder, "processor_config.json", chat_template=TEMPLATES["processor"])
    if mask & 2:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATES["json"]}))
    if mask & 4:
        (folder / "chat_template.jinja").write_text(TEMPLATES["jinja"])
    if mask & 8:
        change(folder, "tokenizer_config.json", chat_template=TEMPLATES["tokenizer"])
    processor = AutoProcessor.from_pretrained(folder)
    expected = processor.chat_template or processor.tokenizer.chat_template
    (tmp_path / "bundle").mkdir()
    companions.copy(open_checkpoint(folder), tmp_path / "bundle")
    written = tmp_path / "bundle" / "chat_template.jinja"
    assert (described(folder)["chat"].template_file is not None) == written.exists() == (expected is not None)
    if expected is not None:
        assert written.read_text() == expected
        assert AutoProcessor.from_pretrained(tmp_path / "bundle").chat_template == expected


def test_named_templates(folder, tmp_path):
    named = [{"name": "tool_use", "template": "U"}, {"name": "default", "template": "D"}]
    (folder / "chat_template.json").unlink()
    change(folder, "tokenizer_config.json", chat_template=named)
    companions.copy(open_checkpoint(folder), tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == "D"


@pytest.mark.parametrize(
    ("generation", "whole", "text", "expected"),
    [
        ({"eos_token_id": [2, 7]}, {"eos_token_id": 3}, {}, (2, 7)),
        ({}, {"eos_token_id": 3}, {"eos_token_id": 4}, (3,)),
        ({}, {}, {"eos_token_id": 4}, (4,)),
        (None, {}, {"eos_token_id": [4, 5]}, (4, 5)),
        ({"eos_token_id": None}, {}, {"eos_token_id": None}, (2,)),
        ({"eos_token_id": []}, {}, {}, ()),
    ],
)
def test_ends_come_from_the_first_file_that_knows(folder, generation, whole, text, expected):
    (folder / "generation_config.json").unlink()
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    config = json.loads((folder / "config.json").read_text())
    change(
        folder, "config.json", **whole, text_config={**config["text_config"], "eos_token_id": None, **text}
    )
    assert described(folder)["tokens"].eos_ids == expected


@pytest.mark.parametrize("value", ["2", 2.5, True, [1, "2"], {"a": 1}])
def test_ends_that_are_no_ids(folder, value):
    assert "expected an id" in refused(change(folder, "generation_config.json", eos_token_id=value))


def test_padding_that_is_negative_is_none(folder):
    change(folder, "generation_config.json", pad_token_id=-1)
    assert described(folder)["tokens"].pad_id is None


def test_generation_defaults(folder):
    assert described(folder)["generation"].max_new_tokens is None
    change(folder, "generation_config.json", max_new_tokens=77)
    assert described(folder)["generation"].max_new_tokens == 77
    assert "max_new_tokens is 0" in refused(change(folder, "generation_config.json", max_new_tokens=0))


def test_every_generation_default_is_read(folder, caplog):
    given = {
        "max_new_tokens": 7, "min_new_tokens": 1, "do_sample": True, "temperature": 1, "top_k": 20, "top_p": 0.8,
        "min_p": 0.1, "typical_p": 0.9, "repetition_penalty": 1.05, "no_repeat_ngram_size": 3,
        "bad_words_ids": [[5], [6, 7]], "stop_strings": "END", "num_beams": 2, "length_penalty": 0.5,
        "early_stopping": "never",
    }  # fmt: skip
    change(
        folder,
        "generation_config.json",
        **given,
        top_h=None,
        guidance_scale=1.0,
        suppress_tokens=[],
        use_cache=False,
    )
    expected = given | {"bad_words_ids": ((5,), (6, 7)), "stop_strings": ("END",)}
    assert dataclasses.asdict(described(folder)["generation"]) == expected
    assert not caplog.records


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("temperature", -1, "expected 0 to 100"),
        ("temperature", "hot", "got `str`"),
        ("top_p", float("nan"), "expected 0 to 1"),
        ("top_k", -1, "expected 0 to 1000000"),
        ("top_k", 5.5, "got `float`"),
        ("num_beams", True, "got `bool`"),
        ("do_sample", 1, "got `int`"),
        ("early_stopping", "soon", "invalid"),
        ("bad_words_ids", [[]], "length >= 1"),
        ("bad_words_ids", [[384]], "has token id 384, expected 0 to 383"),
        ("stop_strings", "", "length >= 1"),
    ],
)
def test_generation_defaults_outside_their_interval(folder, key, value, told):
    message = refused(change(folder, "generation_config.json", **{key: value}))
    assert f"generation_config.json: {key}" in message
    assert told in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("guidance_scale", 1.5), ("suppress_tokens", [3]), ("min_length", 2), ("num_return_sequences", 2),
        ("renormalize_logits", True), ("max_length", 4096), ("cache_implementation", "quantized"),
        ("of_another_library", 3),
    ],
)  # fmt: skip
def test_generation_defaults_that_pumice_does_not_have_are_left_out(folder, key, value, caplog):
    described(change(folder, "generation_config.json", **{key: value}))
    assert [f"default {key} is left out" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    "given",
    [
        {"renormalize_logits": False}, {"max_length": 20}, {"max_length": 99, "max_new_tokens": 9},
        {"cache_implementation": "static"}, {"pad_token_id": 1, "use_cache": True}, {"of_another_library": None},
    ],
)  # fmt: skip
def test_generation_defaults_that_change_nothing_are_no_news(folder, given, caplog):
    described(change(folder, "generation_config.json", **given))
    assert not caplog.records


def test_every_field_of_transformers_is_honoured_harmless_or_warned_of():
    known = {*generation._NAMES, *generation._NEUTRAL, *generation._HARMLESS}
    assert {*vars(GenerationConfig()), *GenerationConfig().to_dict()} <= known
    assert not {*generation._NEUTRAL} & {*generation._HARMLESS}


@pytest.mark.parametrize("layout", ["released", "new"])
def test_the_bundles_files_load_in_transformers(request, tmp_path, layout):
    folder = request.getfixturevalue(layout)
    (folder / "LICENSE").write_text("terms")
    (folder / "README.md").write_text("not copied")
    checkpoint = open_checkpoint(folder)
    companions.copy(checkpoint, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
        "processor_config.json",
        "LICENSE",
    } <= names
    assert not any(name.endswith((".safetensors", ".md")) for name in names)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert processor.chat_template == CHAT_TEMPLATE
    assert companions.nbytes(checkpoint) >= sum(path.stat().st_size for path in tmp_path.iterdir()) - len(
        CHAT_TEMPLATE
    )


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=st.text(max_size=60))
def test_the_written_tokenizer_encodes_as_transformers_does(released, tmp_path_factory, text):
    target = tmp_path_factory.getbasetemp() / "tokenizer-check"
    if not target.exists():
        target.mkdir()
        companions.copy(open_checkpoint(released), target)
    ours = Tokenizer.from_file(str(target / "tokenizer.json"))
    theirs = AutoProcessor.from_pretrained(released).tokenizer
    assert ours.encode(text).ids == theirs(text)["input_ids"]


def test_tokenizer_settings_outside_its_file_are_written_into_it(folder, tmp_path):
    """transformers adds tokens of tokenizer_config.json that tokenizer.json lacks; so does the bundle."""
    definition = json.loads((folder / "tokenizer.json").read_text())
    pad = next(token for token in definition["added_tokens"] if token["content"] == "<pad>")
    definition["added_tokens"].remove(pad)
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    added = {str(pad.pop("id")): pad}
    change(folder, "tokenizer_config.json", added_tokens_decoder=added)
    companions.copy(open_checkpoint(folder), tmp_path)
    theirs = AutoProcessor.from_pretrained(folder).tokenizer
    ours = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert ours.encode("a<pad>b").ids == theirs("a<pad>b")["input_ids"]
    assert 383 in ours.encode("a<pad>b").ids
