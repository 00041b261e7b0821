"""The page of `pumice serve` in Debian's Chromium, driven by Playwright: `make page-check`.

Without `PUMICE_PAGE`, the folder that the verb has filled with axe, nothing here is collected.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.page.scripted import Script, scripted
from tests.runtime.serve.running import Running, running

if "PUMICE_PAGE" in os.environ:
    from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

    expect.set_options(timeout=60_000)
else:
    collect_ignore_glob = ["test_*.py"]

ROOT = Path(__file__).parents[2]
HELDOUT = ROOT / "pebble" / "heldout"
CHROMIUM = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)


@pytest.fixture(scope="session")
def _server() -> Iterator[Script]:
    with scripted() as script:
        yield script


@pytest.fixture
def script(_server: Script) -> Script:
    """A server that says what the test wants, as new."""
    _server.__dict__ |= Script(url=_server.url).__dict__
    return _server


@pytest.fixture(scope="package")
def server(pebble_bundle: Path) -> Iterator[Running]:
    """pebble itself."""
    with running(pebble_bundle) as server:
        yield server


@dataclass(eq=False)
class Watched:
    """A page, and what a browser holds against it."""

    page: Page
    context: BrowserContext
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def ask(self, text: str = "", *files: Any, each: bool = False) -> None:
        """Ask a question about images; returns at once."""
        self.attach(*files)
        if each:
            self.page.get_by_text("One by one").click()
        self.page.locator("#question").fill(text)
        self.page.locator("#send").click()

    def attach(self, *files: Any) -> None:
        if files:
            self.page.locator("#files").set_input_files(list(files))
            expect(self.page.locator("#attached li")).to_have_count(len(files))

    def answered(self, text: str) -> None:
        """Wait for an answer that has ended."""
        expect(self.page.locator(".answer .body").last).to_have_text(text)
        expect(self.page.locator(".figures").last).to_be_attached()


Opener = Callable[..., Watched]


@pytest.fixture
def opened(browser: Browser, script: Script) -> Iterator[Opener]:
    """Opens the page; in the end nothing was asked of other servers, and no browser had anything to complain about.

    `expected`: part of what Chromium writes of answers that are no success; nobody can keep it from that.
    """
    all_of_them: list[tuple[Watched, str]] = []

    def open_page(
        url: str = "", *, expected: str = "", ready: bool = True, init: str = "", **of: Any
    ) -> Watched:
        base = url or script.url
        context = browser.new_context(accept_downloads=True, **of)
        context.set_default_timeout(120_000)
        if init:
            context.add_init_script(init)
        watched = Watched(context.new_page(), context)
        page = watched.page

        def seen(request: Request) -> None:
            if not request.url.startswith((base, "blob:", "data:")):
                watched.foreign.append(request.url)

        context.on("request", seen)
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: watched.complaints.append(said.text) if said.type in ("error", "warning") else None,
        )
        all_of_them.append((watched, expected))
        page.goto(base)
        if ready:
            expect(page.locator("#state")).to_have_text("ready")
        return watched

    yield open_page
    for watched, expected in all_of_them:
        watched.context.close()
        unexpected = [text for text in watched.complaints if not expected or expected not in text]
        assert unexpected == []
        assert watched.foreign == []


@pytest.fixture(scope="session")
def stop_sign() -> Path:
    return HELDOUT / "stop-sign.png"


@pytest.fixture(scope="session")
def scenes() -> list[Path]:
    """Other images."""
    return sorted(path for path in HELDOUT.glob("*.png") if path.name != "stop-sign.png")[:3]


def file_of(name: str, data: bytes, kind: str = "") -> dict[str, Any]:
    """A file as Playwright gives it to an input."""
    return {"name": name, "mimeType": kind, "buffer": data}
