"""Videos as frames, of every family that takes them, as users run them. Oracle: transformers, and a fresh prompt.

Ids and frames' pixels are equal, features within 1e-6, logits within 2e-4, greedy tokens equal.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

import pumice
from pumice.bundle.plan import plan
from pumice.cli import main
from pumice.engine import Engine
from pumice.errors import ContextLengthError, PromptError, UsageError, VideoError
from pumice.export.bundle.writing import write_manifest
from pumice.export.calibration.drawn import drawn_image
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from pumice.export.processor.load import load_processor
from pumice.export.recipes.recipe import load_recipe
from pumice.export.verify.comparison import verify_bundle
from pumice.images.videos import Video, open_video
from tests import oracle
from tests.export.test_families import NEW_TOKENS, TOLERANCE, Exported, Reference, export
from tests.factory import FAMILIES, WITH_VIDEOS
from tests.factory.processors import OPENAI_MEAN, OPENAI_STD
from tests.runtime.images.test_videos import encoded
from tests.video_oracle import TorchVideos, with_videos

pytestmark = pytest.mark.slow

VIDEOS = {
    "llava-onevision": TorchVideos(size=(42, 42), crop=None, mean=[0.5] * 3, std=[0.5] * 3),
    "llava-next-video": TorchVideos(size=56, crop=56, mean=list(OPENAI_MEAN), std=list(OPENAI_STD)),
}


@pytest.fixture(scope="module", params=WITH_VIDEOS)
def exact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    made = export(request.param, "fp32", tmp_path_factory.mktemp("family"))
    with_videos(made.reference.processor, VIDEOS[request.param])
    return made


def video(seed: int, frames: int, size: tuple[int, int]) -> list[Image.Image]:
    """Frames of (width, height)."""
    return [drawn_image(10 * seed + number, size) for number in range(frames)]


LONG, FLAT, TINY = video(1, 4, (90, 60)), video(2, 3, (30, 111)), video(3, 1, (1, 2))
IMAGE = drawn_image(0, (120, 70))
TEXT = {"type": "text", "text": "what happens?"}


def of(given: Any) -> dict[str, Any]:
    return {"type": "video", "video": given} if isinstance(given, list) else {"type": "image", "image": given}


def user(*given: Any) -> dict[str, Any]:
    return {"role": "user", "content": [*map(of, given), TEXT]}


CONVERSATIONS = {
    "a video": [user(LONG)],
    "another shape": [user(FLAT)],
    "one frame of two pixels": [user(TINY)],
    "an image first": [user(IMAGE, LONG)],
    "an image between": [user(FLAT, IMAGE)],
    "images and a video": [user(IMAGE, IMAGE, FLAT)],
    "videos in turns": [user(LONG), {"role": "assistant", "content": [TEXT]}, user(LONG[::-1])],
    "an image, then a video": [user(IMAGE), {"role": "assistant", "content": [TEXT]}, user(FLAT)],
}


def expected(exact: Exported, messages: Any) -> dict[str, torch.Tensor]:
    return dict(
        exact.reference.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    )


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations(exact: Exported, name: str) -> None:
    messages = CONVERSATIONS[name]
    inputs = expected(exact, messages)
    prepared = exact.model.prepare(messages)
    assert prepared.input_ids.tolist() == inputs["input_ids"].tolist()
    assert np.array_equal(np.stack(prepared.video_arrays), inputs["pixel_values_videos"].numpy())
    if "pixel_values" in inputs:
        assert np.array_equal(prepared.pixel_values, inputs["pixel_values"].numpy())
    logits = exact.model.logits(messages)
    assert np.abs(logits - exact.reference.logits(inputs)).max() < TOLERANCE
    answer = exact.model.generate(messages, max_new_tokens=NEW_TOKENS)
    assert list(answer.token_ids) == exact.reference.tokens(inputs)[: len(answer.token_ids)]


@pytest.mark.parametrize("frames", [LONG, FLAT, TINY], ids=len)
def test_features(exact: Exported, frames: list[Image.Image]) -> None:
    pixels = VIDEOS[exact.family].pixels(frames)[None]
    with torch.no_grad():
        outputs = exact.reference.model.model.get_video_features(pixels, return_dict=True)
    wanted = outputs.pooler_output[0].numpy()
    found = exact.model.encode_video(frames)
    assert found.features.shape == wanted.shape
    assert found.frames == len(frames)
    assert np.abs(found.features - wanted).max() < 1e-6 * max(1.0, np.abs(wanted).max())


def test_a_video_in_a_later_turn_is_as_in_a_fresh_prompt(exact: Exported) -> None:
    chat = exact.model.chat(max_new_tokens=8)
    chat.send("what is it?", IMAGE)
    said = chat.send("and this?", videos=[LONG])
    fresh = exact.model.generate(list(chat.messages[:-1]), chat.images, max_new_tokens=8)
    assert said.token_ids == fresh.token_ids
    assert said.usage.cached_tokens > 0  # a video changes nothing about the image before it
    assert [image.frames for image in chat.images] == [None, len(LONG)]
    messages = [*chat.messages[:-1]]
    wanted = expected(exact, [given_in(message, [IMAGE], [LONG]) for message in messages])
    assert list(said.token_ids) == exact.reference.tokens(wanted)[: len(said.token_ids)]
    later = chat.send("and both?", videos=FLAT)
    other = exact.model.chat(max_new_tokens=8)
    other.restore(chat.messages[:-2], [IMAGE, *chat.images[1:2]])
    assert other.send("and both?", videos=[FLAT]).token_ids == later.token_ids
    assert chat.edit(2, "and both?", videos=[FLAT]).token_ids == later.token_ids


def given_in(message: Any, images: list[Any], videos: list[Any]) -> dict[str, Any]:
    """A message with images and videos in its places, each of them once at most."""
    given = {"image": images[0], "video": videos[0]}
    parts = [
        part if part["type"] == "text" else {**part, part["type"]: given[part["type"]]}
        for part in message["content"]
    ]
    return {**message, "content": parts}


def test_lists_engine_and_features_answer_as_one_by_one(exact: Exported) -> None:
    asked: list[dict[str, Any]] = [
        {"videos": [LONG]},
        {"images": [IMAGE], "videos": [FLAT]},
        {},
        {"videos": [TINY, LONG]},
        {"videos": [exact.model.encode_video(FLAT)]},
        {"videos": list(exact.model.prepare("what?", videos=[FLAT]).images)},
    ]
    alone = [exact.model.generate("what?", **given, max_new_tokens=6).token_ids for given in asked]
    assert alone[4] == alone[5] == exact.model.generate("what?", videos=FLAT, max_new_tokens=6).token_ids
    images, videos = ([given.get(kind) for given in asked] for kind in ("images", "videos"))
    together = exact.model.generate(["what?"] * len(asked), images, videos=videos, max_new_tokens=6)
    assert [answer.token_ids for answer in together] == alone
    with Engine(exact.model, slots=3) as engine:
        futures = [engine.submit("what?", **given, max_new_tokens=6) for given in asked]
        assert [future.result().token_ids for future in futures] == alone


def test_a_frame_is_not_an_image(exact: Exported) -> None:
    """Nor a video of other frames: each has a key of its own, by which features and positions are known."""
    frame = LONG[0]
    (still,), (clip,) = (
        exact.model.prepare("what?", **given).images for given in ({"images": frame}, {"videos": [[frame]]})
    )
    assert still.digest != clip.digest
    twice = exact.model.prepare("what?", videos=[[frame, frame], [frame, frame], LONG[:2]]).images
    assert twice[0].digest == twice[1].digest != twice[2].digest
    answers = {
        exact.model.generate("what?", **given, max_new_tokens=6).usage.image_tokens
        for given in ({"images": frame}, {"videos": [[frame]]})
    }
    assert len(answers) == 2


def test_a_raw_prompt_with_both(exact: Exported) -> None:
    text = "a <video> and <image> b <video>"
    wanted = dict(
        exact.reference.processor(images=[[IMAGE]], videos=[LONG, LONG[::-1]], text=text, return_tensors="pt")
    )
    given: dict[str, Any] = {"images": IMAGE, "videos": [LONG, LONG[::-1]], "raw": True}
    assert exact.model.prepare(text, **given).input_ids.tolist() == wanted["input_ids"].tolist()
    assert np.abs(exact.model.logits(text, **given) - exact.reference.logits(wanted)).max() < TOLERANCE


def test_words_and_places_that_do_not_fit(exact: Exported) -> None:
    assert exact.model.prepare([{"role": "user", "content": "<video>"}]).image_tokens == 0
    with pytest.raises(PromptError, match=r"has 2 <video> placeholders, but 1 video was given"):
        exact.model.prepare("<video><video>", videos=[LONG], raw=True)
    with pytest.raises(PromptError, match=r"has <video> written in it 2 times, and there is 1 video"):
        exact.model.prepare("<video> <video>", videos=[LONG])
    between = exact.model.prepare("first <video> then", videos=[LONG]).input_ids[0].tolist()
    assert between != exact.model.prepare("first  then", videos=[LONG]).input_ids[0].tolist()
    with pytest.raises(
        ContextLengthError, match=r"videos of the prompt have .* tokens, but the model's context is 512"
    ):
        exact.model.prepare("what?", videos=[["nowhere.png"] * 200])
    with pytest.raises(VideoError, match=r"frame 0 of a video: there is no image 'nowhere\.png'"):
        exact.model.prepare("what?", videos=[["nowhere.png"]])


def test_altered_and_foreign_videos_are_refused(exact: Exported) -> None:
    (clip,) = exact.model.prepare("what?", videos=[LONG]).images
    with pytest.raises(UsageError, match="was changed, or prepared for another model"):
        exact.model.prepare("what?", videos=[replace(clip, frames=3)])
    features = exact.model.encode_video(LONG)
    with pytest.raises(UsageError, match="image features are float32"):
        exact.model.prepare("what?", videos=[replace(features, frames=3)])


def test_files_by_every_door(exact: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    path = encoded(tmp_path / "clip.mp4")
    frames = list(open_video(Video(path, num_frames=3)).frames())
    wanted = exact.model.generate("what?", videos=[frames], max_new_tokens=6)
    whole = {"type": "video_url", "video_url": str(path), "num_frames": 3}
    messages = [{"role": "user", "content": [whole, {"type": "text", "text": "what?"}]}]
    assert exact.model.generate(messages, max_new_tokens=6).token_ids == wanted.token_ids
    bundle = str(exact.model.path)
    main(
        [
            "run",
            bundle,
            "what?",
            "--video",
            str(path),
            "--frames",
            "3",
            "--max-new-tokens",
            "6",
            "--device",
            "cpu",
        ]
    )
    assert capsys.readouterr().out.strip() == wanted.text.strip()
    records = [
        {"id": "a", "prompt": "what?", "video": "clip.mp4", "num_frames": 3},
        {
            "id": "b",
            "messages": [
                {"role": "user", "content": [{**whole, "video_url": "clip.mp4"}, messages[0]["content"][1]]}
            ],
        },
        {"id": "c", "prompt": "what?", "video": "nowhere.mp4"},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    main(
        [
            "batch",
            bundle,
            str(tmp_path / "in.jsonl"),
            "-o",
            str(tmp_path / "out.jsonl"),
            "--max-new-tokens",
            "6",
            "--device",
            "cpu",
        ]
    )
    found = {
        record["id"]: record for record in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    }
    assert found["a"]["text"] == found["b"]["text"] == wanted.text
    assert "there is no video" in found["c"]["error"]["message"]


def test_info_says_what_videos_cost(exact: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", str(exact.model.path)])
    assert re.search(r"video +4 tokens a frame.*, up to 127 frames", capsys.readouterr().out)
    plain, with_video = (
        plan(exact.model.manifest, frames=frames).answering.get("video", 0) for frames in (0, 8)
    )
    pixels = exact.model.prepare("what?", videos=[LONG * 2]).video_arrays[0].nbytes
    assert plain == 0
    assert with_video >= pixels
    with pytest.raises(UsageError, match="frames is 257, expected 0 to 256"):
        plan(exact.model.manifest, frames=257)


@pytest.mark.parametrize("change", ["rotated", "max", "new"])
@pytest.mark.parametrize("family", WITH_VIDEOS)
def test_variants(family: str, change: str, tmp_path: Path) -> None:
    """The residual stream turned, the other pooling, and files as transformers writes them today."""
    if change == "max" and family == "llava-onevision":
        pytest.skip("it pools in one way alone")
    options: dict[str, Any] = {"rotated": {}, "max": {"video_pool": "max"}, "new": {"layout": "new"}}[change]
    folder = FAMILIES[family](tmp_path / "checkpoint", **options)
    recipe = msgspec.structs.replace(load_recipe("portable-fp32"), rotate=change == "rotated")
    export_bundle(folder, tmp_path / "bundle", recipe=recipe)
    config = read_config(open_checkpoint(folder).config)
    processor = with_videos(load_processor(folder, config), VIDEOS[family])
    reference = Reference(processor=processor, model=oracle.theirs(folder))
    model = pumice.load(tmp_path / "bundle", device="cpu", threads=1)
    exact = Exported(family=family, precision="fp32", model=model, reference=reference)
    inputs = expected(exact, CONVERSATIONS["an image between"])
    prepared = model.prepare(CONVERSATIONS["an image between"])
    assert prepared.input_ids.tolist() == inputs["input_ids"].tolist()
    assert np.array_equal(np.stack(prepared.video_arrays), inputs["pixel_values_videos"].numpy())
    logits = model.logits(CONVERSATIONS["an image between"])
    assert np.abs(logits - reference.logits(inputs)).max() < TOLERANCE


@pytest.mark.parametrize(
    ("family", "recipe"), [("llava-onevision", "cpu-fast"), ("llava-next-video", "portable-fp32")]
)
def test_it_is_verified_part_by_part(family: str, recipe: str, tmp_path: Path) -> None:
    """With a video, and with one beside an image; what is wrong about videos alone is told."""
    checkpoint = FAMILIES[family](tmp_path / "checkpoint")
    manifest = export_bundle(checkpoint, tmp_path / "bundle", recipe=recipe)
    cases = {
        case.name: case
        for case in verify_bundle(tmp_path / "bundle", checkpoint, max_new_tokens=8).report.cases
    }
    assert {"a video", "image and video"} < cases.keys()
    for case in cases.values():
        assert case.same_input_ids
        assert case.same_pixel_values
        assert case.vision_encoder is None or manifest.precision.bits or case.vision_encoder.max < 1e-4
        assert manifest.precision.bits or case.first_difference is None
    assert cases["a video"].vision_encoder is not None
    video = manifest.videos
    assert video is not None
    other = replace(manifest, video=replace(video, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)))
    write_manifest(tmp_path / "bundle", other)
    wrong = {
        case.name: case
        for case in verify_bundle(tmp_path / "bundle", checkpoint, max_new_tokens=1).report.cases
    }
    assert not wrong["a video"].same_pixel_values
    assert wrong["a video"].input_differences == (
        "video 1 has other pixel values, or another shape, than transformers'",
    )
    assert wrong["one image"].same_pixel_values
