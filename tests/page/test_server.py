"""The page and its server: pebble's own answers, keys, a model that is being loaded, a server that goes and comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from pumice.serve import moving
from tests.page.conftest import Opener
from tests.page.scripted import Script, scripted
from tests.runtime.engine.stand_ins import Gate
from tests.runtime.serve.running import Running, image_part, running, text

QUESTION = "Describe the picture in detail."


def test_pebble_answers(opened: Opener, server: Running, stop_sign: Path) -> None:
    expected = server.chat([image_part(stop_sign.read_bytes()), text(QUESTION)]).text
    it = opened(server.url)
    expect(it.page.get_by_role("heading", name=server.loaded.name)).to_be_visible()
    it.ask(QUESTION, stop_sign)
    it.answered(expected)
    it.ask("What color is the star?")
    it.answered("Yellow.")
    expect(it.page.locator(".figures").last).to_contain_text("cached")


def test_pebble_fills_a_schema_in(opened: Opener, server: Running, stop_sign: Path) -> None:
    it = opened(server.url)
    it.page.get_by_role("button", name="Settings", exact=True).click()
    it.page.get_by_label("Answer as JSON").fill(
        '{"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"],'
        ' "additionalProperties": false}'
    )
    it.page.keyboard.press("Escape")
    it.ask("What color is the stop sign?", stop_sign)
    expect(it.page.locator(".tree dt")).to_have_text("color")
    expect(it.page.locator(".tree dd")).to_have_text("red")


def test_what_the_server_refuses_is_said_in_its_words(opened: Opener, server: Running) -> None:
    it = opened(server.url, expected="400 (Bad Request)")
    it.page.get_by_role("button", name="Settings", exact=True).click()
    it.page.get_by_label("Answer as JSON").fill('{"type": "string", "pattern": "("}')
    it.page.keyboard.press("Escape")
    it.ask("What?")
    expect(it.page.locator(".error")).to_contain_text("schema")
    it.page.get_by_role("button", name="Settings", exact=True).click()
    it.page.get_by_label("Answer as JSON").fill("")
    it.page.keyboard.press("Escape")
    it.page.get_by_role("button", name="Try again").click()
    expect(it.page.locator(".figures")).to_be_attached()
    expect(it.page.locator(".error")).to_have_count(0)


def test_a_key_is_asked_for_and_forgotten_with_the_tab(
    opened: Opener, pebble_bundle: Path, tmp_path: Path
) -> None:
    with running(pebble_bundle, api_key="sk-right") as server:
        it = opened(server.url, expected="401 (Unauthorized)", ready=False)
        expect(it.page.locator("#state")).to_have_text("needs a key")
        it.ask("What?")
        expect(it.page.locator(".error")).to_contain_text("There is no API key")
        it.page.get_by_role("button", name="Enter the key").click()
        expect(it.page.get_by_label("Access key")).to_be_focused()
        it.page.keyboard.type("sk-wrong")
        it.page.keyboard.press("Enter")
        expect(it.page.locator("#settings")).to_be_hidden()
        expect(it.page.locator("#state")).to_have_text("needs a key")
        it.page.get_by_role("button", name="Enter the key").click()
        it.page.get_by_label("Access key").fill("sk-right")
        it.page.keyboard.press("Enter")
        expect(it.page.locator("#state")).to_have_text("ready")
        it.ask("What is this?")
        expect(it.page.locator(".figures")).to_be_attached()
        it.page.reload()
        expect(it.page.locator("#state")).to_have_text("ready")
        assert "sk-right" not in it.page.evaluate("() => JSON.stringify(localStorage)")
        other = it.context.new_page()
        other.goto(server.url)
        expect(other.locator("#state")).to_have_text("needs a key")


def test_a_model_that_is_still_being_loaded(
    opened: Opener, pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, real = Gate(), moving.load_bundle

    def held(*of: Any) -> Any:
        gate.pass_through()
        return real(*of)

    monkeypatch.setattr(moving, "load_bundle", held)
    with running(pebble_bundle, ready=False, gate=gate) as server:
        it = opened(server.url, expected="503 (Service Unavailable)", ready=False)
        expect(it.page.locator("#state")).to_have_text("loading")
        it.ask("What is this?")
        expect(it.page.locator(".waiting")).to_have_text("The model is still being loaded")
        gate.open()
        expect(it.page.locator("#state")).to_have_text("ready")
        expect(it.page.locator(".figures")).to_be_attached()


def test_the_server_goes_and_comes_back(opened: Opener, stop_sign: Path) -> None:
    with scripted() as script:
        port = int(script.url.rpartition(":")[2])
        it = opened(script.url, expected="net::ERR_")
        it.ask("First", stop_sign)
        it.answered("Hello.")
    it.ask("Second")
    expect(it.page.locator(".error")).to_contain_text(
        "The server does not answer. Your question is kept here."
    )
    expect(it.page.locator("#state")).to_have_text("no answer")
    with scripted(port) as script:
        expect(it.page.locator("#state")).to_have_text("ready")
        it.page.get_by_role("button", name="Try again").click()
        it.answered("Hello.")
        assert [message["role"] for message in script.asked[0]["messages"]] == ["user", "assistant", "user"]


def test_an_answer_that_is_cut_off(opened: Opener, script: Script) -> None:
    script.pieces, script.cut = ["It is a"], True
    it = opened()
    it.ask("What?")
    expect(it.page.locator(".error")).to_contain_text("The answer was cut off")
    expect(it.page.locator(".body").last).to_have_text("It is a")


def test_the_end_of_the_tokens_is_said(opened: Opener, script: Script) -> None:
    script.finish = "length"
    it = opened()
    it.ask("What?")
    it.answered("Hello.")
    expect(it.page.locator(".figures li").last).to_have_text("ended at the most tokens")


@pytest.mark.parametrize(
    "refusal", [(429, "queue_full", "rate limit: try again in 3 s"), (500, "", "inside")]
)
def test_refusals(opened: Opener, script: Script, refusal: tuple[int, str, str]) -> None:
    script.refusal = refusal
    it = opened(expected="Failed to load resource")
    it.ask("What?")
    expect(it.page.get_by_role("alert").filter(has_text=refusal[2][1:])).to_be_visible()
    script.refusal = None
    it.page.get_by_role("button", name="Try again").click()
    it.answered("Hello.")


def test_requests_of_a_chat_name_it(opened: Opener, script: Script) -> None:
    """So that Ray sends them to the replica that has its images."""
    it = opened()
    seen: list[str] = []
    it.page.on("request", lambda request: seen.append(request.headers.get("x-session-id", "")))
    for _ in range(2):
        it.ask("What?")
        it.answered("Hello.")
        expect(it.page.get_by_role("button", name="Send")).to_be_visible()
    named = {name for name in seen if name}
    assert len(named) == 1
    assert it.page.url.endswith("#" + named.pop())


def test_one_of_several_models_is_chosen(opened: Opener, script: Script) -> None:
    script.others = ("granite", "<img src=x onerror=alert(1)>")
    it = opened(script.url)
    chosen = it.page.get_by_label("Model", exact=True)
    expect(chosen.locator("option")).to_have_text(["llava-7b", *script.others])
    it.ask("What?")
    it.answered("Hello.")
    chosen.select_option("granite")
    expect(it.page.locator("#state")).to_have_text("ready")
    it.ask("And now?")
    expect(it.page.locator(".figures")).to_have_count(2)
    assert [asked["model"] for asked in script.asked] == ["llava-7b", "granite"]


def test_a_model_that_is_loading_is_waited_for_and_another_one_is_not(opened: Opener, script: Script) -> None:
    script.others, script.status = ("granite",), "loading"
    it = opened(script.url, ready=False)
    expect(it.page.locator("#state")).to_have_text("loading")
    it.page.get_by_label("Model", exact=True).select_option("granite")
    expect(it.page.locator("#state")).to_have_text("ready")
