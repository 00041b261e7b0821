"""How the page is served, and what its files may not have in them. What it does is tested in a browser: tests/page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pumice.serve.web_page import FOLDER, page_files
from tests.runtime.serve.running import Running, running

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",
    "connect-src": "'self'",
    "media-src": "'self' blob:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
MOST_BYTES = 81_920
"""80 KB of what a browser fetches, with what is somebody else's."""
OWN = [path for path in sorted(FOLDER.rglob("*")) if path.is_file() and path.parent.name != "vendor"]


@pytest.fixture(scope="module")
def locked(pebble_bundle: Path) -> Iterator[Running]:
    with running(pebble_bundle, api_key="sk-1", ready=False) as server:
        yield server


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        (BROWSER["Accept"], True),
        ("text/html", True),
        ("*/*", False),
        (None, False),
        ("application/json", False),
    ],
)
def test_browsers_see_the_page_and_programs_what_ollama_says(
    server: Running, accept: str | None, page: bool
) -> None:
    answer = server.get("/", {"Accept": accept} if accept else None)
    assert (answer.body == (FOLDER / "index.html").read_bytes()) == page
    assert (answer.body == b"Ollama is running") != page
    assert answer.headers["vary"] == "Accept"
    head = server.request("HEAD", "/", None, {"Accept": accept} if accept else None)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(answer.body)))


@pytest.mark.parametrize("path", ["/", *page_files()])
def test_files_and_their_headers(locked: Running, path: str) -> None:
    """Without a key, and before the model is loaded."""
    answer = locked.get(path, BROWSER)
    file = page_files().get(path, FOLDER / "index.html")
    assert (answer.status, answer.body) == (200, file.read_bytes())
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["permissions-policy"].startswith("camera=(self)")
    assert answer.headers["cache-control"] == "no-cache"
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kinds.get(file.suffix, "text/plain"))
    etag = answer.headers["etag"]
    for given in (etag, f'"other", W/{etag}'):
        again = locked.get(path, {**BROWSER, "If-None-Match": given})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
        assert "content-security-policy" in again.headers
    assert locked.get(path, {**BROWSER, "If-None-Match": '"other"'}).status == 200


def test_nothing_else_is_served(server: Running) -> None:
    for path in ("/page", "/page/", "/page/index.html", "/page/none.js", "/page/../web_page.py", "/page/%2e%2e/app.py",
                 "/page/vendor", "/page//app.js", "/index.html"):  # fmt: skip
        assert server.get(path, BROWSER).status == 404, path
    assert server.post("/", b"{}", BROWSER).status == 405


def test_the_page_is_for_this_host_alone(server: Running) -> None:
    assert server.get("/", {**BROWSER, "Host": "evil.example"}).status == 421
    assert server.get("/page/app.js", {"Origin": "http://evil.example"}).status == 403


def test_without_a_page(pebble_bundle: Path) -> None:
    with running(pebble_bundle, no_page=True, ready=False) as server:
        assert server.get("/", BROWSER).body == b"Ollama is running"
        assert {server.get(path, BROWSER).status for path in page_files()} == {404}


def test_it_is_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (FOLDER / "index.html", *page_files().values())}
    del sizes["LICENSE.streaming-markdown"]  # a text for people: the page does not load it
    assert sum(sizes.values()) <= MOST_BYTES, sizes
    assert {path.name for path in OWN if len(path.read_text().splitlines()) >= 300} == set()


def test_all_of_it_is_served() -> None:
    assert {*page_files().values(), FOLDER / "index.html"} == {
        path for path in FOLDER.rglob("*") if path.is_file()
    }


def test_files_name_what_there_is() -> None:
    """No module, style sheet or image that is missing, and none that nobody asks for."""
    named = {"/", "/page/vendor/LICENSE.streaming-markdown"}
    for path in OWN:
        text, folder = path.read_text(), "/page/"
        named |= set(re.findall(r'(?:src|href)="(/[^"]*)"', text))
        named |= {folder + name for name in re.findall(r'from "\./([^"]*)"', text)}
    assert named == {"/", *page_files()}


def test_nothing_is_written_that_the_policy_refuses() -> None:
    """Handlers, scripts and styles inside of markup; addresses of others; markup made of texts."""
    found: list[str] = []

    class Looking(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(f"{tag} {name}" for name, _ in attrs if name == "style" or name.startswith("on"))
            if tag == "style" or (tag == "script" and "src" not in dict(attrs)):
                found.append(tag)

    Looking().feed((FOLDER / "index.html").read_text())
    for path in OWN:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        found += [f"{path.name}: {each}" for each in re.findall(r"https?://[\w.]+|@import|\burl\(", text)]
        if path.suffix == ".js":
            found += re.findall(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|"
                r"setAttribute\(\"on",
                text,
            )
    assert found == []


def test_the_vendored_parser_is_what_was_published() -> None:
    """streaming-markdown 0.2.15, as npm has it, with its licence."""
    import hashlib

    smd = (FOLDER / "vendor" / "smd.min.js").read_bytes()
    assert (
        hashlib.sha256(smd).hexdigest() == "20c0a39e6ec48b99e2f505f8488d2342fb3000d03523a7ced6cd94c14b15e8c5"
    )
    assert b"innerHTML" not in smd
    assert "MIT License" in (FOLDER / "vendor" / "LICENSE.streaming-markdown").read_text()
