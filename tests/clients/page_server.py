"""examples/browser/index.html in headless Chromium: served, asked, watched until it has answered, and photographed.

Enters: folders to serve, a bundle's name, a question. Leaves: what the page shows at the end, and a picture of it.
A page around it looks on, and has an image that does not come before the answer: until then Chromium takes no picture.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

PATIENCE = 1200
"""Seconds after which the page hangs."""
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".png": "image/png",
}
AROUND = """<!doctype html><style>html, body, iframe {{ margin: 0; border: 0; width: 100%; height: 100% }}</style>
<iframe src="/index.html?{query}"></iframe><img src="/wait" hidden><script>
const shown = (id) => document.querySelector('iframe').contentDocument?.getElementById(id)?.textContent ?? '';
const timer = setInterval(() => {{
  if (!/^(Done|It failed)/.test(shown('status'))) return;
  clearInterval(timer);
  fetch('/say', {{ method: 'POST', body: `${{shown('status')}}\\n${{shown('answer')}}` }});
}}, 200);
</script>"""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A page's status and answer when it has come to an end, and the files of its bundle that it fetched, in bytes."""

    status: str
    answer: str
    fetched: dict[str, int]


class _Site(ThreadingHTTPServer):
    """Serves files by the first part of their path, and waits for one message."""

    def __init__(self, folders: Mapping[str, Path], query: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folders, self.query = folders, query
        self.said, self.message = threading.Event(), ""
        self.sent: dict[str, int] = {}
        """Bytes by path."""


class _Handler(BaseHTTPRequestHandler):
    server: _Site

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if path == "/around":
            self._answer(200, AROUND.format(query=self.server.query).encode(), "text/html")
            return
        if path == "/wait":
            self.server.said.wait(PATIENCE)
            self._answer(404, b"", "text/plain")
            return
        first, _, rest = path.lstrip("/").partition("/")
        file = (
            self.server.folders.get(first, Path("/nowhere")) / rest
            if rest
            else self.server.folders.get(first)
        )
        if file is None or not file.is_file():
            self._answer(404, b"", "text/plain")
            return
        self.server.sent[path.lstrip("/")] = file.stat().st_size
        self._answer(200, file.read_bytes(), TYPES.get(file.suffix, "application/octet-stream"))

    def do_POST(self) -> None:
        self.server.message = self.rfile.read(int(self.headers["content-length"])).decode()
        self.server.said.set()
        self._answer(200, b"", "text/plain")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def shown_by_page(
    chromium: str, folders: Mapping[str, Path], bundle: str, question: str, screenshot: Path
) -> Shown:
    """What it comes to, in a browser without a cache."""
    query = f"bundle={quote(bundle)}&image=image.png&ask={quote(question)}"
    with _Site(folders, query) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += [f"--user-data-dir={screenshot.parent / 'profile'}", "--hide-scrollbars"]
        command += [f"--screenshot={screenshot}", "--window-size=760,720"]
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{site.server_address[1]}/around"],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        site.shutdown()
    assert site.said.is_set(), done.stderr.decode()[-2000:]
    status, _, answer = site.message.partition("\n")
    own = f"models/{bundle}/"
    fetched = {path.removeprefix(own): size for path, size in site.sent.items() if path.startswith(own)}
    return Shown(status=status, answer=answer.strip(), fetched=fetched)
