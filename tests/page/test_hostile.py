"""Whatever a model, a file's name or a server says: nothing of it runs, loads, or becomes the page's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Opener, Watched, file_of
from tests.page.payloads import PAYLOADS
from tests.page.scripted import Script
from tests.runtime.serve.running import png

FOUND = """() => [...document.querySelectorAll("#turns *, #attached *, #chats *, #zoom *, #notice *, #model")]
  .filter((node) =>
    /^(script|iframe|object|embed|link|style|meta|base|form|video|audio|math|template|marquee|body)$/i.test(node.tagName)
    || (node.tagName === "IMG" && node.getAttribute("src") && !node.src.startsWith("blob:"))
    || (node.tagName === "A" && node.hasAttribute("href")
        && !(/^https?:/.test(node.href) && /noopener/.test(node.rel) && node.target === "_blank"))
    || [...node.attributes].some(({name}) => /^on|^style$|^srcdoc$/i.test(name)))
  .map((node) => node.outerHTML)"""


@pytest.fixture
def it(opened: Opener) -> Watched:
    watched = opened()
    watched.page.on("dialog", lambda dialog: watched.complaints.append(dialog.message))
    return watched


def inert(it: Watched) -> None:
    """In the end `opened` sees that nothing was asked elsewhere, and that the policy had nothing to refuse."""
    assert it.page.evaluate(FOUND) == []


def test_there_are_fifty() -> None:
    assert len(set(PAYLOADS)) >= 50


def test_what_a_model_says(it: Watched, script: Script) -> None:
    """In one piece, letter by letter, and as one long answer."""
    texts = [
        *[[payload] for payload in PAYLOADS],
        *[list(payload) for payload in PAYLOADS],
        ["\n\n".join(PAYLOADS)],
    ]
    for number, script.pieces in enumerate(texts, 1):
        it.ask("Say it")
        expect(it.page.locator(".figures")).to_have_count(number % 20 or 20)
        inert(it)
        if number % 20 == 0:
            it.page.get_by_role("button", name="New chat").click()
    it.page.reload()
    expect(it.page.locator(".figures").first).to_be_attached()
    inert(it)


def test_links_that_are_links(it: Watched, script: Script) -> None:
    script.pieces = [
        "[a](https://a.example/x?y=1) http://b.example/y [c](ftp://c.example) ![d](https://d.example/d.png)"
    ]
    it.ask("Say it")
    links = it.page.locator(".body a[href]")
    expect(links).to_have_count(2)
    assert [link.get_attribute("href") for link in links.all()] == [
        "https://a.example/x?y=1",
        "http://b.example/y",
    ]
    for link in links.all():
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    expect(it.page.locator(".body img")).to_have_count(0)
    expect(it.page.locator(".body .no-image")).to_have_text("d")


def test_names_of_files_and_questions(it: Watched) -> None:
    for start in range(0, len(PAYLOADS), 8):
        several = PAYLOADS[start : start + 8]
        it.attach(
            *[file_of(f"{payload}.png", png(size=(8, 8 + start + i))) for i, payload in enumerate(several)]
        )
        inert(it)
        it.page.locator(".thumb").last.click()
        inert(it)
        it.page.keyboard.press("Escape")
        it.ask(several[0])
        it.answered("Hello.")
        inert(it)
        it.page.locator("#files").set_input_files([file_of(several[0], b"none")])
        expect(it.page.locator("#notice")).to_contain_text("is no image")
        inert(it)
        it.page.get_by_role("button", name="New chat").click()
    inert(it)


def test_json_of_a_model(it: Watched, script: Script) -> None:
    it.page.get_by_role("button", name="Settings", exact=True).click()
    it.page.get_by_label("Answer as JSON").fill('{"type": "object"}')
    it.page.keyboard.press("Escape")
    values: list[Any] = [
        {payload: payload for payload in PAYLOADS},
        [{payload: payload, "b": 1} for payload in PAYLOADS[:1] * 3],
        [[payload, {payload: [payload]}] for payload in PAYLOADS],
        {"constructor": {"__proto__": {"x": 1}}, "hasOwnProperty": 1},
    ]
    for number, value in enumerate(values, 1):
        script.pieces = [json.dumps(value)]
        it.ask("Say it")
        expect(it.page.locator("summary")).to_have_count(number)
        inert(it)
    assert it.page.evaluate("() => ({}).x") is None


def test_what_a_server_says(opened: Opener, script: Script) -> None:
    it = opened(expected="400 (Bad Request)")
    for number, payload in enumerate(PAYLOADS, 1):
        script.refusal = (400, payload, payload)
        it.ask("Say it")
        expect(it.page.locator(".error")).to_have_count(number)
    inert(it)
    it.page.on("dialog", lambda dialog: it.complaints.append(dialog.message))


def test_a_file_of_chats(it: Watched, tmp_path: Path) -> None:
    chats = [
        {"id": payload, "title": payload, "rounds": [
            {"question": {"text": payload, "images": [payload]}, "answers": [{"text": payload, "json": i % 2 == 0}]}
        ]}
        for i, payload in enumerate(PAYLOADS)
    ]  # fmt: skip
    images = {
        payload: {"name": payload, "data": f"data:image/svg+xml;base64,{payload}"} for payload in PAYLOADS
    }
    given = json.dumps({"format": "pumice chats", "chats": chats, "images": images}).encode()
    it.page.locator("#import-file").set_input_files([file_of("x.json", given)])
    expect(it.page.locator("#chats li")).to_have_count(len(PAYLOADS))
    inert(it)
    for chat in it.page.locator("#chats .open").all()[::5]:
        chat.click()
        expect(it.page.locator(".round")).to_have_count(1)
        inert(it)


def test_the_policy_holds_without_the_page(it: Watched, script: Script) -> None:
    """Were there a hole in the page, the browser would still run nothing and ask nobody: a control of the above."""
    blocked = it.page.evaluate("""() => new Promise((done) => {
      const blocked = [];
      document.addEventListener("securitypolicyviolation", ({effectiveDirective}) => blocked.push(effectiveDirective));
      document.body.insertAdjacentHTML("beforeend",
        `<img src="http://evil.example/i.png"><img src="data:x" onerror="window.fired = 1"><iframe src="/"></iframe>
         <link rel="stylesheet" href="http://evil.example/a.css"><p style="color: red">x</p>`);
      document.head.append(Object.assign(document.createElement("script"), {textContent: "window.fired = 1"}));
      fetch("http://evil.example").catch(() => setTimeout(() => done(blocked), 500));
    })""")
    assert {
        "img-src",
        "script-src-elem",
        "style-src-elem",
        "style-src-attr",
        "connect-src",
        "frame-src",
    } <= set(blocked)
    assert it.page.evaluate("() => window.fired") is None
    assert it.complaints
    it.complaints.clear()
    it.foreign.clear()  # Playwright names what the browser then did not send
