"""How it looks and whom it lets in: dark, narrow, and axe's rules in every state."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import Opener, Watched
from tests.page.scripted import Script

AXE = Path(os.environ["PUMICE_PAGE"]) / "node_modules" / "axe-core" / "axe.min.js"
MARKDOWN = "# A heading\n\n**bold** and `code`\n\n- a\n- b\n\n- [x] done\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> quoted\n\n[link](https://a.example)\n\n```\ncode\n```\n"


def luminance(page: Page, selector: str, what: str) -> float:
    color = page.evaluate(
        "([of, what]) => getComputedStyle(document.querySelector(of))[what]", [selector, what]
    )
    return sum(float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_as_light_as_the_system(opened: Opener, scheme: str) -> None:
    page = opened(color_scheme=scheme).page
    back, front = luminance(page, "body", "backgroundColor"), luminance(page, "body", "color")
    assert (back > front) == (scheme == "light")


@pytest.mark.parametrize("width", [320, 360, 390, 768, 1440])
def test_nothing_is_wider_than_the_screen(
    opened: Opener, script: Script, stop_sign: Path, scenes: list[Path], width: int
) -> None:
    script.pieces = [MARKDOWN, "a" * 300, "\n\n```\n" + "b" * 300 + "\n```\n\n|" + " cccccccccccc |" * 20]
    it = opened(viewport={"width": width, "height": 740})
    it.ask("w" * 200, stop_sign)
    expect(it.page.locator(".figures")).to_be_attached()
    it.ask("One by one", stop_sign, *scenes, each=True)
    expect(it.page.locator(".strip .figures")).to_have_count(4)
    it.attach(stop_sign, *scenes)
    wide = it.page.evaluate("""() => [...document.querySelectorAll("#app, #app *")]
      .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
      .filter((node) => !node.closest("#attached, table, .unseen"))
      .map((node) => node.outerHTML.slice(0, 100))""")
    assert wide == []
    assert it.page.evaluate("() => document.scrollingElement.scrollWidth <= innerWidth")
    assert it.page.evaluate(
        "() => { const m = document.getElementById('main'); return m.scrollWidth <= m.clientWidth; }"
    )
    expect(it.page.locator("#send")).to_be_in_viewport()


def test_the_list_of_chats_on_a_phone(opened: Opener) -> None:
    it = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    it.ask("First")
    it.answered("Hello.")
    expect(it.page.locator("#sidebar")).to_be_hidden()
    it.page.get_by_role("button", name="Chats", exact=True).click()
    expect(it.page.locator("#close-sidebar")).to_be_focused()
    expect(it.page.get_by_role("button", name="First", exact=True)).to_be_visible()
    it.page.get_by_role("button", name="New chat").click()
    expect(it.page.locator("#sidebar")).to_be_hidden()
    expect(it.page.get_by_role("heading", name="Ask about an image")).to_be_visible()


def settings(it: Watched) -> None:
    it.page.get_by_role("button", name="Settings", exact=True).click()


def schema_sheet(it: Watched) -> None:
    settings(it)
    it.page.get_by_label("Answer as JSON").fill('{"type": 3}')


def sidebar(it: Watched) -> None:
    it.page.set_viewport_size({"width": 390, "height": 800})
    it.page.get_by_role("button", name="Chats", exact=True).click()
    expect(it.page.locator("#close-sidebar")).to_be_in_viewport()


def tree(it: Watched) -> None:
    settings(it)
    it.page.get_by_role("button", name="Example").click()
    it.page.keyboard.press("Escape")
    it.ask("List")
    expect(it.page.locator(".tree").first).to_be_visible()


def editing(it: Watched) -> None:
    it.page.locator(".round").first.hover()
    it.page.get_by_role("button", name="Edit the question").first.click()


def zoomed(it: Watched) -> None:
    it.page.locator(".thumb").first.click()


def filming(it: Watched) -> None:
    it.page.get_by_role("button", name="Take a photo").click()


def deleted(it: Watched) -> None:
    it.page.locator(".round").first.hover()
    it.page.get_by_role("button", name="Delete question and answer").first.click()


def nothing(it: Watched) -> None:
    pass


STATES: list[Callable[[Watched], None]] = [
    nothing, settings, schema_sheet, sidebar, editing, zoomed, filming, deleted, tree,
]  # fmt: skip


def violations(page: Page) -> list[str]:
    """What axe holds against the page as it is, once nothing moves any more."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("""async () => {
      await Promise.allSettled(document.getAnimations().filter(({effect}) =>
        effect.getTiming().iterations !== Infinity).map(({finished}) => finished));
      return (await axe.run()).violations;
    }""")
    return [f"{each['id']}: {[node['html'][:120] for node in each['nodes']]}" for each in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_axe(
    opened: Opener,
    script: Script,
    stop_sign: Path,
    scenes: list[Path],
    scheme: str,
    state: Callable[[Watched], None],
) -> None:
    it = opened(color_scheme=scheme)
    script.pieces = [MARKDOWN]
    it.ask("What?", stop_sign)
    expect(it.page.locator(".figures")).to_be_attached()
    it.ask("Each?", stop_sign, *scenes, each=True)
    expect(it.page.locator(".strip .figures")).to_have_count(4)
    it.attach(stop_sign, scenes[0])
    script.pieces = [json.dumps({"a": [{"b": 1}], "tags": ["x"], "more": {"c": None}})]
    state(it)
    assert violations(it.page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_of_beginnings_waits_and_failures(opened: Opener, script: Script, scheme: str) -> None:
    it = opened(color_scheme=scheme, expected="400 (Bad Request)")
    assert violations(it.page) == []
    script.refusal = (400, "", "no")
    it.ask("What?")
    expect(it.page.locator(".error")).to_be_visible()
    assert violations(it.page) == []
    script.refusal, script.pieces, script.pause = None, [": queued 4", *["x"] * 100], 1
    it.ask("What?")
    expect(it.page.locator(".waiting")).to_have_text("Number 4 in the queue")
    assert violations(it.page) == []
    it.page.get_by_role("button", name="Stop").click()
