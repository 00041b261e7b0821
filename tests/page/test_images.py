"""Images on their way in: what the server would not take is made into what it does, or refused with a sentence."""

from __future__ import annotations

import base64
import re
from io import BytesIO

import pytest
from PIL import Image, features
from playwright.sync_api import expect

from tests.page.conftest import Opener, file_of
from tests.page.scripted import Script
from tests.runtime.serve.running import png

HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64)
ON_A_LAN = "Object.defineProperty(Crypto.prototype, 'subtle', {value: undefined}); delete Crypto.prototype.randomUUID;"
"""Of what browsers keep from pages over plain http, unless they are this machine's."""


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def sent(script: Script) -> Image.Image:
    """The first image that was asked about."""
    url = script.asked[0]["messages"][0]["content"][0]["image_url"]["url"]
    image = Image.open(BytesIO(base64.b64decode(url.partition(",")[2])))
    assert url.startswith(f"data:image/{str(image.format).lower()};base64,")
    return image


@pytest.mark.parametrize(("size", "then"), [((4000, 3000), (2048, 1536)), ((300, 5000), (123, 2048))])
def test_a_large_image_becomes_a_jpeg(
    opened: Opener, script: Script, size: tuple[int, int], then: tuple[int, int]
) -> None:
    it = opened()
    it.attach(file_of("big.png", png("#336699", size)))
    wide, high = (f"{side:,}" for side in then)
    expect(it.page.locator("#attached .size")).to_have_text(f"JPEG {wide} × {high}")
    expect(it.page.locator("#attached li")).to_have_attribute(
        "title",
        re.compile(rf"^{wide} × {high}, \d+ KB \(a JPEG made of PNG, {size[0]:,} × {size[1]:,}, \d+ KB\)$"),
    )
    it.ask("What?")
    it.answered("Hello.")
    image = sent(script)
    assert (image.format, image.size) == ("JPEG", then)
    assert max(abs(a - b) for a, b in zip(image.getpixel((5, 5)), (0x33, 0x66, 0x99), strict=True)) <= 3


def test_a_small_image_is_sent_byte_by_byte(opened: Opener, script: Script) -> None:
    data = encoded(Image.new("RGB", (2048, 10), "red"), "WEBP")
    it = opened()
    it.ask("What?", file_of("wrong-name.txt", data, "text/plain"))
    it.answered("Hello.")
    assert encoded(sent(script), "PNG") == encoded(Image.open(BytesIO(data)), "PNG")
    assert base64.b64encode(data).decode() in script.asked[0]["messages"][0]["content"][0]["image_url"]["url"]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_avif_becomes_a_jpeg(opened: Opener, script: Script) -> None:
    it = opened()
    it.ask("What?", file_of("a.avif", encoded(Image.new("RGB", (64, 48), "#336699"), "AVIF"), "image/avif"))
    it.answered("Hello.")
    assert (sent(script).format, sent(script).size) == ("JPEG", (64, 48))


def test_what_is_transparent_is_white_where_it_is_made_anew(opened: Opener, script: Script) -> None:
    it = opened()
    it.ask("What?", file_of("a.png", encoded(Image.new("RGBA", (3000, 20), (0, 0, 0, 0)), "PNG")))
    it.answered("Hello.")
    assert sent(script).getpixel((9, 9)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("name", "data", "kind", "said"),
    [
        (
            "IMG_1.HEIC",
            HEIC,
            "image/heic",
            "is a HEIC photo, which this browser cannot read. Save it as JPEG",
        ),
        ("photo.jpg", HEIC, "image/jpeg", "is a HEIC photo"),
        ("cut.png", png()[:40], "image/png", "is damaged"),
        ("notes.txt", b"Dear diary", "text/plain", "is no image. JPEG, PNG, WebP and GIF"),
        ("empty.jpg", b"", "image/jpeg", "is damaged"),
    ],
)
def test_what_is_no_image_is_refused_kindly(
    opened: Opener, script: Script, name: str, data: bytes, kind: str, said: str
) -> None:
    it = opened()
    it.page.locator("#files").set_input_files([file_of(name, data, kind), file_of("good.png", png())])
    expect(it.page.locator("#notice")).to_contain_text(f"“{name}” {said}")
    expect(it.page.locator("#attached li")).to_have_count(1)  # the other one
    it.page.get_by_role("button", name="Dismiss").click()
    expect(it.page.locator("#notice")).to_be_hidden()
    it.ask("What?")
    it.answered("Hello.")


def test_the_camera(opened: Opener, script: Script) -> None:
    it = opened()
    it.page.get_by_role("button", name="Take a photo").click()
    it.page.wait_for_selector("#camera video")
    expect(it.page.locator("#camera")).to_be_visible()
    it.page.evaluate("""() => new Promise((done) => {
      const video = document.querySelector("video");
      video.readyState > 1 ? done() : (video.onloadeddata = () => done());
    })""")
    it.page.get_by_role("button", name="Take the photo").click()
    expect(it.page.locator("#attached img")).to_have_attribute("alt", "photo.jpg")
    assert (
        it.page.evaluate("() => document.querySelector('video').srcObject.getTracks()[0].readyState")
        == "ended"
    )
    it.ask("What?")
    it.answered("Hello.")
    assert sent(script).format == "JPEG"
    it.page.get_by_role("button", name="Take a photo").click()
    it.page.get_by_role("button", name="Cancel").click()
    expect(it.page.locator("#camera")).to_be_hidden()
    expect(it.page.locator("#attached li")).to_have_count(0)


def test_over_plain_http(opened: Opener, script: Script) -> None:
    """Where browsers give neither SHA-256 nor a camera: images get names of their own, a phone its own camera."""
    no_camera = "Object.defineProperty(Navigator.prototype, 'mediaDevices', {value: undefined});"
    it = opened(
        init=ON_A_LAN + no_camera, has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844}
    )
    it.attach(*[file_of(f"{color}.png", png(color)) for color in ("red", "blue", "green")])
    it.ask("What?")
    it.answered("Hello.")
    urls = [part["image_url"]["url"] for part in script.asked[0]["messages"][0]["content"][:-1]]
    assert len(set(urls)) == len(urls) == 3
    with it.page.expect_file_chooser() as chosen:
        it.page.get_by_role("button", name="Take a photo").click()
    assert chosen.value.element.get_attribute("capture") == "environment"
