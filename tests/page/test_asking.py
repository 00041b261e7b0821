"""Questions and answers: every way for an image to come in, and what can be done with an answer."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Opener
from tests.page.scripted import Script
from tests.runtime.serve.running import eventually

GIVE = """([data, name, how]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, {type: "image/png"}));
  const made = how === "paste"
    ? [new ClipboardEvent("paste", {clipboardData: carried, bubbles: true, cancelable: true})]
    : ["dragenter", "dragover", "drop"].map(
        (kind) => new DragEvent(kind, {dataTransfer: carried, bubbles: true, cancelable: true}));
  made.forEach((event) => document.body.dispatchEvent(event));
}"""


def test_a_question_is_answered_piece_by_piece(opened: Opener, script: Script, stop_sign: Path) -> None:
    script.pieces = ["A **red** ", "octagon.\n\n", "- one\n", "- two"]
    it = opened()
    it.ask("What is this?", stop_sign)
    expect(it.page.locator(".body strong")).to_have_text("red")
    expect(it.page.locator(".body li")).to_have_text(["one", "two"])
    expect(it.page.locator(".figures li")).to_have_text(
        ["queue 1.2 s", "image 0.8 s", "first token 2.3 s", "14.2 tokens/s", "42 tokens", "729 image tokens",
         "512 of 800 cached"]
    )  # fmt: skip
    (asked,) = script.asked
    image, text = asked["messages"][0]["content"]
    assert (
        image["image_url"]["url"]
        == "data:image/png;base64," + base64.b64encode(stop_sign.read_bytes()).decode()
    )
    assert text == {"type": "text", "text": "What is this?"}
    assert asked["stream"]
    assert asked["model"] == "llava-7b"
    assert not {"temperature", "top_p", "max_tokens", "seed", "response_format"} & set(asked)


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_images_are_dropped_and_pasted(opened: Opener, script: Script, stop_sign: Path, how: str) -> None:
    it = opened()
    it.page.evaluate(GIVE, [base64.b64encode(stop_sign.read_bytes()).decode(), "dropped.png", how])
    expect(it.page.locator("#attached li")).to_have_count(1)
    expect(it.page.locator("#attached img")).to_have_attribute("alt", "dropped.png")
    expect(it.page.locator("#drop")).to_be_hidden()
    it.ask("What?")
    it.answered("Hello.")
    assert len(script.asked[0]["messages"][0]["content"]) == 2


def test_text_is_pasted_as_text(opened: Opener) -> None:
    it = opened()
    it.page.evaluate("""() => {
      const carried = new DataTransfer();
      carried.setData("text/plain", "words");
      const event = new ClipboardEvent("paste", {clipboardData: carried, bubbles: true, cancelable: true});
      window.untouched = document.getElementById("question").dispatchEvent(event);
    }""")
    assert it.page.evaluate("() => window.untouched")
    expect(it.page.locator("#attached li")).to_have_count(0)


def test_an_address_that_is_dropped_is_not_fetched(opened: Opener) -> None:
    it = opened()
    it.page.evaluate("""() => {
      const carried = new DataTransfer();
      carried.setData("text/uri-list", "http://images.example/a.png");
      document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true}));
    }""")
    expect(it.page.locator("#notice")).to_contain_text("nothing is fetched")


def test_a_file_is_picked_by_the_button(opened: Opener, stop_sign: Path) -> None:
    it = opened()
    with it.page.expect_file_chooser() as chosen:
        it.page.get_by_role("button", name="Add images").click()
    assert chosen.value.is_multiple()
    chosen.value.set_files(stop_sign)
    expect(it.page.locator("#attached .size")).to_have_text("448 × 448")


def test_three_images_one_removed_one_enlarged(
    opened: Opener, script: Script, stop_sign: Path, scenes: list[Path]
) -> None:
    it = opened()
    it.attach(stop_sign, *scenes[:2])
    it.page.get_by_role("button", name=f"Remove {scenes[0].name}").click()
    expect(it.page.locator("#attached li")).to_have_count(2)
    it.page.get_by_role("button", name="Enlarge stop-sign.png").click()
    expect(it.page.locator("#zoom img")).to_be_visible()
    expect(it.page.locator("#zoom .caption")).to_contain_text("448 × 448")
    it.page.keyboard.press("Escape")
    expect(it.page.locator("#zoom")).to_be_hidden()
    it.ask("Compare them")
    it.answered("Hello.")
    urls = [part["image_url"]["url"] for part in script.asked[0]["messages"][0]["content"][:-1]]
    assert urls == [
        "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        for path in (stop_sign, scenes[1])
    ]


def test_the_same_question_to_several_images(
    opened: Opener, script: Script, stop_sign: Path, scenes: list[Path]
) -> None:
    it = opened()
    it.ask("What?", stop_sign, *scenes, each=True)
    expect(it.page.locator(".strip .figures")).to_have_count(4)
    expect(it.page.locator(".strip .answer .body")).to_have_text(["Hello."] * 4)
    assert [len(asked["messages"][0]["content"]) for asked in script.asked] == [2] * 4
    assert len({asked["messages"][0]["content"][0]["image_url"]["url"] for asked in script.asked}) == 4
    it.ask("And now?")
    expect(it.page.locator(".round")).to_have_count(2)
    it.answered("Hello.")
    messages = script.asked[-1]["messages"]
    assert len(messages[0]["content"]) == 5
    assert messages[1] == {
        "role": "assistant",
        "content": "\n\n".join(f"Image {i}: Hello." for i in range(1, 5)),
    }


def test_an_answer_is_stopped(opened: Opener, script: Script) -> None:
    script.pieces, script.pause = ["one ", *["more "] * 1000], 0.05
    it = opened()
    it.ask("Count")
    expect(it.page.locator(".body").last).to_contain_text("one more")
    it.page.get_by_role("button", name="Stop").click()
    expect(it.page.locator(".figures").last).to_have_text("stopped")
    eventually(lambda: script.gone == 1)
    script.pieces, script.pause = ["Again."], 0
    it.page.get_by_role("button", name="Answer again").click()
    it.answered("Again.")
    assert len(script.asked) == 2
    assert script.asked[0]["messages"] == script.asked[1]["messages"]


def test_escape_stops_too(opened: Opener, script: Script) -> None:
    script.pieces, script.pause = [": queued 2", *["more "] * 1000], 0.05
    it = opened()
    it.ask("Count")
    expect(it.page.get_by_role("button", name="Stop")).to_be_visible()
    it.page.keyboard.press("Escape")
    expect(it.page.locator(".figures").last).to_have_text("stopped")
    eventually(lambda: script.gone == 1)


def test_a_question_is_edited_and_what_came_after_goes(
    opened: Opener, script: Script, stop_sign: Path
) -> None:
    it = opened()
    it.ask("First", stop_sign)
    it.answered("Hello.")
    it.ask("Second")
    it.answered("Hello.")
    first = it.page.locator(".round").first
    first.hover()
    first.get_by_role("button", name="Edit the question").click()
    expect(it.page.locator("#question")).to_have_value("First")
    expect(it.page.locator("#attached li")).to_have_count(1)
    it.page.keyboard.press("Escape")
    expect(it.page.locator("#question")).to_have_value("")
    first.get_by_role("button", name="Edit the question").click()
    script.pieces = ["Better."]
    it.ask("First, put better")
    expect(it.page.locator(".round")).to_have_count(1)
    it.answered("Better.")
    (message,) = script.asked[-1]["messages"]
    assert message["content"][1]["text"] == "First, put better"
    assert message["content"][0]["type"] == "image_url"


def test_a_question_is_deleted_and_comes_back(opened: Opener) -> None:
    it = opened()
    for text in ("First", "Second"):
        it.ask(text)
        it.answered("Hello.")
    it.page.locator(".round").first.hover()
    it.page.get_by_role("button", name="Delete question and answer").first.click()
    expect(it.page.locator(".said")).to_have_text(["Second"])
    it.page.get_by_role("button", name="Undo").click()
    expect(it.page.locator(".said")).to_have_text(["First", "Second"])


def test_copies(opened: Opener, script: Script) -> None:
    script.pieces = ["A **bold** answer"]
    it = opened()
    it.context.grant_permissions(["clipboard-read", "clipboard-write"])
    it.ask("What?")
    it.answered("A bold answer")
    it.page.get_by_role("button", name="Copy the answer").click()
    expect(it.page.locator("#toast")).to_contain_text("Copied")
    assert it.page.evaluate("() => navigator.clipboard.readText()") == "A **bold** answer"


def test_the_place_in_the_queue(opened: Opener, script: Script) -> None:
    script.pieces, script.pause = [": queued 3", ": queued 1", *["x"] * 1000], 1.0
    it = opened()
    it.ask("What?")
    expect(it.page.locator(".waiting")).to_have_text("Number 3 in the queue")
    expect(it.page.locator(".waiting")).to_have_text("Next in the queue")
    expect(it.page.locator(".body").last).to_contain_text("x")
    expect(it.page.locator(".waiting")).to_have_text("")
    it.page.get_by_role("button", name="Stop").click()


def test_system_prompt_and_options_are_sent_and_remembered(opened: Opener, script: Script) -> None:
    it = opened()
    it.page.get_by_role("button", name="Settings", exact=True).click()
    expect(it.page.locator("#max_tokens")).to_have_attribute("placeholder", "up to 4096")
    for name, value in {
        "System prompt": "Be brief.", "Temperature": "0.7", "Top p": "0.9", "Most tokens": "12", "Seed": "7",
    }.items():  # fmt: skip
        it.page.get_by_label(name).fill(value)
    it.page.keyboard.press("Escape")
    it.page.reload()
    it.ask("What?")
    it.answered("Hello.")
    asked = script.asked[0]
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (asked["temperature"], asked["top_p"], asked["max_tokens"], asked["seed"]) == (0.7, 0.9, 12, 7)


def test_numbers_outside_their_interval_are_not_sent(opened: Opener, script: Script) -> None:
    it = opened()
    it.page.get_by_role("button", name="Settings", exact=True).click()
    it.page.get_by_label("Top p").fill("7")
    it.page.get_by_label("Temperature").fill("0")
    it.page.keyboard.press("Escape")
    it.ask("What?")
    it.answered("Hello.")
    assert "top_p" not in script.asked[0]
    assert script.asked[0]["temperature"] == 0


def test_an_answer_that_fits_a_schema_is_shown_as_a_tree(opened: Opener, script: Script) -> None:
    script.pieces = ['{"title": "A sign", ', '"things": [{"name": "star", "n": 2}, {"name": "sign", "n": 1}],',
                     ' "tags": ["a", "b"], "more": {"deep": [true, null]}}']  # fmt: skip
    it = opened()
    it.page.get_by_role("button", name="Settings", exact=True).click()
    box, said = it.page.get_by_label("Answer as JSON"), it.page.locator("#schema-said")
    box.fill('{\n "type": ')
    expect(said).to_contain_text("no JSON yet")
    expect(box).to_have_attribute("aria-invalid", "true")
    box.fill('{"type": "objekt"}')
    expect(said).to_contain_text('"objekt"')
    box.fill('{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]}')
    expect(said).to_contain_text("“b” is required")
    it.page.keyboard.press("Escape")
    it.page.locator("#question").fill("List")
    it.page.keyboard.press("Enter")
    expect(it.page.locator("#settings")).to_be_visible()
    assert not script.asked
    it.page.get_by_role("button", name="Example").click()
    expect(said).to_contain_text("It is a schema")
    it.page.keyboard.press("Escape")
    it.page.keyboard.press("Enter") if it.page.locator("#question:focus").count() else it.page.locator(
        "#send"
    ).click()
    expect(it.page.locator(".tree th")).to_have_text(["name", "n"])
    expect(it.page.locator(".tree td")).to_have_text(["star", "2", "sign", "1"])
    expect(it.page.locator(".tags").first.locator("li")).to_have_text(["a", "b"])
    expect(it.page.locator(".tree .boolean")).to_have_text("true")
    form = script.asked[0]["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["schema"]["required"] == ["description", "objects"]


def test_with_the_keyboard_alone(opened: Opener, script: Script) -> None:
    it = opened()
    expect(it.page.locator("#question")).to_be_focused()
    it.page.keyboard.type("One")
    it.page.keyboard.press("Shift+Enter")
    it.page.keyboard.type("Two")
    it.page.keyboard.press("Enter")
    it.answered("Hello.")
    assert script.asked[0]["messages"][0]["content"] == "One\nTwo"
    for _ in range(40):  # everything can be reached
        it.page.keyboard.press("Tab")
        if it.page.evaluate("() => document.activeElement?.ariaLabel") == "Edit the question":
            break
    it.page.keyboard.press("Enter")
    expect(it.page.locator("#question")).to_have_value("One\nTwo")
    expect(it.page.locator("#question")).to_be_focused()


def test_a_screen_reader_hears_whole_answers(opened: Opener, script: Script) -> None:
    script.pieces, script.pause = ["one ", *["more "] * 1000], 0.05
    it = opened()
    log = it.page.get_by_role("log", name="Conversation")
    expect(log).to_have_attribute("aria-live", "polite")
    it.ask("Count")
    expect(log.locator("article")).to_have_attribute("aria-busy", "true")
    it.page.get_by_role("button", name="Stop").click()
    expect(log.locator("article")).to_have_attribute("aria-busy", "false")


def test_two_chats_at_once(opened: Opener, script: Script) -> None:
    """One is answered while another is read, and both are whole."""
    script.pieces, script.pause = ["slow ", *["more "] * 5, "end"], 0.3
    it = opened()
    it.ask("First chat")
    expect(it.page.locator(".body").last).to_contain_text("slow")
    it.page.get_by_role("button", name="New chat").click()
    script.pieces, script.pause = ["quick"], 0
    it.ask("Second chat")
    it.answered("quick")
    it.page.get_by_role("button", name="First chat", exact=True).click()
    it.answered("slow more more more more more end")
    assert re.search(r"#[0-9a-f]{24}$", it.page.url)
