"""Images inside messages; the oracle for their order are transformers' own rules, written out here."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pumice.errors import ImageError, PromptError
from pumice.images.prepared import ImageFeatures
from pumice.images.videos import Video
from pumice.prompt.message_images import gathered, in_folder

IMAGE = Image.new("RGB", (9, 7), "red")
URI = "data:image/png;base64,AAAA"


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("part", "image"),
    [
        ({"type": "image", "image": IMAGE}, IMAGE),
        ({"type": "image", "image": "a.png"}, "a.png"),
        ({"type": "image", "path": Path("a.png")}, Path("a.png")),
        ({"type": "image", "url": URI}, URI),
        ({"type": "image", "base64": "QUJD"}, "data:image/unknown;base64,QUJD"),
        ({"type": "image", "base64": URI}, URI),
        ({"type": "image", "image": IMAGE, "url": None, "path": None}, IMAGE),
        ({"type": "image_url", "image_url": {"url": URI}}, URI),
        ({"type": "image_url", "image_url": {"url": URI, "detail": "low"}}, URI),
        ({"type": "image_url", "image_url": URI}, URI),
    ],
)
def test_each_form_gives_its_image_and_leaves_its_place(part: dict[str, Any], image: Any) -> None:
    prompt = [user(text("before"), part, text("behind"))]
    plain, images = gathered(prompt, [])
    assert plain == [user(text("before"), {"type": "image"}, text("behind"))]
    assert images == [image]
    assert prompt[0]["content"][1] is part


VIDEO = [IMAGE, IMAGE]


@pytest.mark.parametrize(
    ("part", "video", "options"),
    [
        ({"type": "video", "video": VIDEO}, VIDEO, {}),
        ({"type": "video", "video": "a.mp4", "num_frames": 4}, "a.mp4", {"num_frames": 4}),
        ({"type": "video", "path": Path("a.mp4"), "fps": 2}, Path("a.mp4"), {"fps": 2}),
        ({"type": "video", "url": "a.mp4"}, "a.mp4", {}),
        ({"type": "video", "base64": "QUJD"}, "data:video/unknown;base64,QUJD", {}),
        (
            {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AA"}},
            "data:video/mp4;base64,AA",
            {},
        ),
        ({"type": "video_url", "video_url": "a.mp4", "fps": 1.5}, "a.mp4", {"fps": 1.5}),
    ],
)
def test_each_form_of_a_video(part: dict[str, Any], video: Any, options: dict[str, Any]) -> None:
    plain, (found,) = gathered([user(part, text("x"))], [])
    assert plain == [user({"type": "video"}, text("x"))]
    assert found.source == video
    assert (found.num_frames, found.fps) == (options.get("num_frames"), options.get("fps"))


def test_images_and_videos_take_their_own_bare_places() -> None:
    first, second = Video(VIDEO), Video("a.mp4")
    prompt = [
        user({"type": "video"}, {"type": "image"}, {"type": "image", "path": "own"}),
        user({"type": "video"}),
    ]
    plain, given = gathered(prompt, ["image", first, second])
    assert given == [first, "image", "own", second]
    assert [part["type"] for message in plain for part in message["content"]] == [
        "video",
        "image",
        "image",
        "video",
    ]
    with pytest.raises(PromptError, match=r"0 videos of their own and 2 .* but 1 video was given"):
        gathered(prompt, ["image", first])


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"type": "video", "frames": 4, "video": "a"}, "a video part with the unknown key 'frames'"),
        ({"type": "video", "video": "a", "path": "b"}, "both video and path"),
        ({"type": "video", "num_frames": 4}, "with num_frames and no video"),
        (
            {"type": "video_url", "video_url": {"url": "a", "detail": "low"}},
            "a video_url with the unknown key 'detail'",
        ),
        ({"type": "image", "image": IMAGE, "fps": 2}, "unknown key 'fps'"),
    ],
)
def test_videos_that_are_not_understood(part: dict[str, Any], told: str) -> None:
    with pytest.raises(PromptError, match=told):
        gathered([user(part)], [])


def test_bare_places_take_those_beside_in_order() -> None:
    bare = {"type": "image"}
    prompt = (
        user(bare, text("1"), {"type": "image", "path": "own"}),
        {"role": "assistant", "content": "words"},
        user({"type": "image", "image": None}, {"type": "image_url", "image_url": URI}),
    )
    plain, images = gathered(prompt, ["first", "second"])
    assert images == ["first", "own", "second", URI]
    assert plain == [user(bare, text("1"), bare), prompt[1], user(bare, bare)]


@pytest.mark.parametrize("beside", [[], ["one"], ["one", "two", "three"]])
def test_another_number_beside_is_refused(beside: list[str]) -> None:
    prompt = [user({"type": "image"}, {"type": "image", "path": "own"}, {"type": "image"})]
    with pytest.raises(PromptError, match=rf"1 image of their own and 2 .* but {len(beside)} image"):
        gathered(prompt, beside)


@pytest.mark.parametrize(
    "prompt", ["question", 5, None, [], ["text"], [{"role": "user"}], [user(5, None, text("x"))]]
)
def test_what_has_no_images_of_its_own_stays_as_it_is(prompt: Any) -> None:
    images = ["one"]
    assert gathered(prompt, images) == (prompt, images)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"type": "image", "picture": IMAGE}, "message 0 has an image part with the unknown key 'picture'"),
        ({"type": "image", "image_url": URI}, "unknown key 'image_url'"),
        ({"type": "image", "text": "x"}, "unknown key 'text'"),
        ({"type": "image", "image": IMAGE, "path": "a"}, "both image and path"),
        ({"type": "image", "url": 5}, "whose url is a int, expected text"),
        ({"type": "image", "base64": b"QUJD"}, "whose base64 is a bytes, expected text"),
        ({"type": "image_url"}, "an image_url of a NoneType"),
        ({"type": "image_url", "url": URI}, "unknown key 'url'"),
        ({"type": "image_url", "image_url": {"detail": "low"}}, "an image_url of a NoneType"),
        ({"type": "image_url", "image_url": {"url": URI, "x": 1}}, "unknown key 'x'"),
        ({"type": "image_url", "image_url": {"url": URI, "detail": "most"}}, "unknown detail 'most'"),
        ({"type": "image_url", "image_url": [URI]}, "an image_url of a list"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(part: dict[str, Any], told: str) -> None:
    with pytest.raises(PromptError, match=told):
        gathered([user(part)], [IMAGE])


def test_paths_begin_at_the_folder_and_nothing_else_does(tmp_path: Path) -> None:
    features = object.__new__(ImageFeatures)
    moved = [
        ({"type": "image", "path": "a.png"}, {"type": "image", "path": str(tmp_path / "a.png")}),
        ({"type": "image", "image": "b/a.png"}, {"type": "image", "image": str(tmp_path / "b/a.png")}),
        ({"type": "image", "path": "/a.png"}, {"type": "image", "path": "/a.png"}),
        (
            {"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": str(tmp_path / "a.png"), "detail": "low"}},
        ),
    ]
    same = [
        {"type": "image", "base64": "a"},
        {"type": "image", "url": "DATA:image/png;base64,AAAA"},
        {"type": "image", "url": "https://a/b.png"},
        {"type": "image", "image": "iVBORw0K" + "A" * 60},
        {"type": "image", "image": features},
        {"type": "image"},
        text("a.png"),
    ]
    messages = [user(*(part for part, _ in moved), *same), {"role": "assistant", "content": "a.png"}]
    expected = [user(*(part for _, part in moved), *same), messages[1]]
    assert in_folder(messages, tmp_path) == expected


def test_addresses_are_refused_when_they_are_opened() -> None:
    from pumice.images.files import open_image

    _, images = gathered([user({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}})], [])
    with pytest.raises(ImageError, match=r"remote images are not fetched \(https://…\): download it"):
        open_image(images[0])
