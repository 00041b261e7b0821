"""What stays in the browser: chats, each image once; nothing if nothing is to be kept; where it is full all stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.page.conftest import Opener, Watched, file_of
from tests.page.scripted import Script
from tests.runtime.serve.running import eventually, png

STORED = """() => new Promise((done) => {
  const asked = indexedDB.open("pumice", 1);
  asked.onsuccess = () => {
    const stores = asked.result.transaction(["chats", "images"]);
    const [chats, images] = [stores.objectStore("chats").getAll(), stores.objectStore("images").getAll()];
    stores.oncomplete = () => {
      asked.result.close();
      done({chats: chats.result, images: images.result.map(({hash, blob}) => [hash, blob.size, blob.type])});
    };
  };
})"""


def stored(it: Watched) -> Any:
    return it.page.evaluate(STORED)


def test_a_reload_keeps_everything(opened: Opener, script: Script, stop_sign: Path) -> None:
    script.pieces = ["A **sign**."]
    it = opened()
    it.ask("What is this?", stop_sign)
    it.answered("A sign.")
    it.page.reload()
    expect(it.page.locator(".said")).to_have_text("What is this?")
    expect(it.page.locator(".body strong")).to_have_text("sign")
    expect(it.page.locator(".figures li").first).to_have_text("queue 1.2 s")
    expect(it.page.locator(".images img")).to_have_js_property("naturalWidth", 448)
    it.ask("And?")
    it.answered("A sign.")
    assert [message["role"] for message in script.asked[-1]["messages"]] == ["user", "assistant", "user"]
    assert len(script.asked[-1]["messages"][0]["content"]) == 2
    it.page.goto(script.url)
    expect(it.page.get_by_role("heading", name="Ask about an image")).to_be_visible()
    it.page.get_by_role("button", name="What is this?", exact=True).click()
    expect(it.page.locator(".round")).to_have_count(2)


def test_an_image_is_kept_once_and_goes_with_its_last_chat(opened: Opener, stop_sign: Path) -> None:
    it = opened()
    for text in ("One", "Two"):
        it.ask(text, stop_sign)
        it.answered("Hello.")
        it.page.get_by_role("button", name="New chat").click()
    kept = stored(it)
    assert len(kept["chats"]) == 2
    ((_, size, kind),) = kept["images"]
    assert (size, kind) == (stop_sign.stat().st_size, "image/png")
    for left, text in ((1, "One"), (0, "Two")):
        button = it.page.get_by_role("button", name=f"Delete the chat “{text}”")
        button.locator("..").hover()
        button.click()
        expect(it.page.locator("#chats li")).to_have_count(left)
        assert len(stored(it)["images"]) == left
    it.page.get_by_role("button", name="Undo").click()
    expect(it.page.locator("#chats li")).to_have_count(1)
    expect(it.page.locator(".images img")).to_have_js_property("naturalWidth", 448)
    assert len(stored(it)["images"]) == 1


def test_a_full_storage_loses_nothing(opened: Opener, script: Script, stop_sign: Path) -> None:
    it = opened()
    devtools = it.context.new_cdp_session(it.page)
    devtools.send("Storage.overrideQuotaForOrigin", {"origin": script.url, "quotaSize": 2_000_000})
    it.ask("Kept", stop_sign)
    it.answered("Hello.")
    eventually(lambda: stored(it)["chats"][0]["rounds"][0]["answers"][0]["state"] == "done")
    before = stored(it)
    it.page.get_by_role("button", name="New chat").click()
    it.ask("Too much", file_of("noise.png", png("blue", (900, 900)) + bytes(3_000_000)))
    it.answered("Hello.")
    expect(it.page.locator("#notice")).to_contain_text("storage is full")
    expect(it.page.locator("#notice")).to_contain_text("What was kept is still there")
    assert stored(it) == before
    expect(it.page.locator(".said")).to_have_text("Too much")  # and can be asked on
    it.ask("More")
    it.answered("Hello.")
    it.page.reload()
    it.page.get_by_role("button", name="Kept", exact=True).click()
    expect(it.page.locator(".images img")).to_have_js_property("naturalWidth", 448)


def test_keeping_nothing(opened: Opener, stop_sign: Path) -> None:
    it = opened()
    it.page.get_by_role("button", name="Settings", exact=True).click()
    it.page.get_by_label("System prompt").fill("A secret")
    it.page.get_by_role("switch", name="Keep nothing").check()
    it.page.keyboard.press("Escape")
    expect(it.page.locator("#keeps")).to_have_text("Nothing is kept.")
    it.ask("Unkept", stop_sign)
    it.answered("Hello.")
    assert stored(it) == {"chats": [], "images": []}
    assert it.page.evaluate("() => localStorage['pumice.settings']") == '{"keepNothing":true}'
    it.page.reload()
    expect(it.page.locator("#turns article")).to_have_count(0)
    expect(it.page.get_by_role("switch", name="Keep nothing", include_hidden=True)).to_be_checked()


def test_without_a_database(opened: Opener) -> None:
    it = opened(
        init="Object.defineProperty(window, 'indexedDB', {value: {open() { throw new Error('no'); }}});"
    )
    it.ask("What?")
    it.answered("Hello.")
    expect(it.page.locator("#notice")).to_contain_text("keeps no chats here")


def test_chats_are_exported_and_imported(opened: Opener, stop_sign: Path, tmp_path: Path) -> None:
    it = opened()
    it.ask("One", stop_sign)
    it.answered("Hello.")
    it.page.get_by_role("button", name="Settings", exact=True).click()
    with it.page.expect_download() as download:
        it.page.get_by_role("button", name="Export chats").click()
    file = tmp_path / "chats.json"
    download.value.save_as(file)
    expect(it.page.locator("#kept-said")).to_have_text("Chats exported: 1.")
    it.page.on("dialog", lambda dialog: dialog.accept())
    it.page.get_by_role("button", name="Delete all").click()
    expect(it.page.locator("#kept-said")).to_have_text("Chats left: 0.")
    assert stored(it) == {"chats": [], "images": []}
    for count in (1, 2):  # the second time beside the first
        it.page.locator("#import-file").set_input_files(file)
        expect(it.page.locator("#chats li")).to_have_count(count)
    expect(it.page.locator("#kept-said")).to_have_text("Chats imported: 1.")
    assert len(stored(it)["images"]) == 1
    it.page.keyboard.press("Escape")
    it.page.get_by_role("button", name="One", exact=True).first.click()
    expect(it.page.locator(".said")).to_have_text("One")
    expect(it.page.locator(".images img")).to_have_js_property("naturalWidth", 448)


def test_files_that_are_no_chats(opened: Opener) -> None:
    it = opened()
    it.page.get_by_role("button", name="Settings", exact=True).click()
    for data in (b"", b"{", b"[]", b'{"format": "other", "chats": []}', b"\xff\xfe"):
        it.page.locator("#import-file").set_input_files([file_of("x.json", data)])
        expect(it.page.locator("#kept-said")).to_have_text("That is no file of chats.")
    odd = [
        None, 3, {}, {"rounds": "x"}, {"rounds": [None, 3, {"question": 5}]}, {"id": {"a": 1}, "rounds": [{}]},
        {"id": "../x", "title": ["<b>"], "rounds": [{"question": {"text": "odd", "images": ["nowhere"]},
                                                     "answers": [{"text": "<i>plain</i>", "state": "reading"}]}]},
    ]  # fmt: skip
    images = {"a": None, "b": {"data": "data:text/html,<script>"}, "c": {"data": "javascript:0"}}
    given = json.dumps({"format": "pumice chats", "chats": odd, "images": images}).encode()
    it.page.locator("#import-file").set_input_files([file_of("x.json", given)])
    expect(it.page.locator("#kept-said")).to_have_text("Chats imported: 1.")
    it.page.keyboard.press("Escape")
    it.page.locator("#chats .open").click()
    expect(it.page.locator(".images .hint")).to_have_text("image not kept")
    expect(it.page.locator(".body")).to_have_text("<i>plain</i>")


def test_an_answer_that_was_under_way_when_the_page_was_closed(opened: Opener, script: Script) -> None:
    script.pieces, script.pause = ["one ", *["more "] * 1000], 0.05
    it = opened()
    it.ask("Count")
    expect(it.page.locator("#chats li")).to_have_count(1)
    it.page.reload()
    expect(it.page.locator(".figures")).to_have_text("stopped")
    script.pieces, script.pause = ["Done."], 0
    it.page.get_by_role("button", name="Answer again").click()
    it.answered("Done.")


def test_a_deleted_chat_does_not_come_back(opened: Opener, script: Script) -> None:
    """Though its answer was under way, and is kept when it ends."""
    script.pieces, script.pause = ["one ", *["more "] * 1000], 0.05
    it = opened()
    it.ask("Count")
    expect(it.page.locator(".body").last).to_contain_text("one")
    it.page.locator("#chats li").hover()
    it.page.get_by_role("button", name="Delete the chat “Count”").click()
    expect(it.page.locator("#chats li")).to_have_count(0)
    expect(it.page.get_by_role("button", name="Undo")).to_be_visible()
    assert stored(it)["chats"] == []
    it.page.reload()
    expect(it.page.locator("#chats li")).to_have_count(0)
