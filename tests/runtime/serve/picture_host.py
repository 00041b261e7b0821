"""A web server of images on this machine, which misbehaves where it is asked to."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

IMAGE = (Path(__file__).parents[3] / "pebble" / "heldout" / "stop-sign.png").read_bytes()


class PictureHost(ThreadingHTTPServer):
    """`seen` are the requests that came, `asking` those under way at `/slow`, which wait for `release`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, elsewhere: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.elsewhere = elsewhere
        self.seen: list[tuple[str, str]] = []
        self.asking = self.most = self.left = 0
        self.release = threading.Event()
        self.lock = threading.Lock()

    @property
    def place(self) -> str:
        """Its host and port."""
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are none."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PictureHost

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"]))
        assert self.headers["Accept-Encoding"] == "identity"
        self.close_connection = True
        name = self.path.partition("?")[0].strip("/").replace("-", "_").removesuffix(".png")
        getattr(self, f"give_{name}", self.give_nothing)()

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"content_length": str(len(body)), **headers}.items():
            if value:
                self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def give_image(self) -> None:
        self.answer(200, IMAGE, content_type="text/plain")

    def give_nothing(self) -> None:
        self.answer(404, b"")

    def give_failure(self) -> None:
        self.answer(500, IMAGE)

    def give_redirect(self) -> None:
        self.answer(302, b"", location=self.server.elsewhere)

    def give_own_redirect(self) -> None:
        self.answer(307, b"", location="/image.png")

    def give_page(self) -> None:
        self.answer(200, b"<html>an image, honestly</html>" * 9, content_type="image/png")

    def give_packed(self) -> None:
        self.answer(200, IMAGE, content_encoding="gzip")

    def give_short(self) -> None:
        self.answer(200, IMAGE[:-9], content_length=str(len(IMAGE)))

    def give_large(self) -> None:
        self.answer(200, b"", content_length=str(20 * 2**20 + 1))

    def give_unbounded(self) -> None:
        self.answer(200, IMAGE, content_length="")

    def give_pieces(self) -> None:
        body = b"".join(
            b"%x\r\n%s\r\n" % (len(IMAGE[i : i + 99]), IMAGE[i : i + 99]) for i in range(0, len(IMAGE), 99)
        )
        self.answer(200, body + b"0\r\n\r\n", content_length="", transfer_encoding="chunked")

    def give_endless(self) -> None:
        self.answer(200, b"", content_length="")
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(65_536))

    def give_endless_head(self) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                self.wfile.write(b"X-More: " + b"x" * 4000 + b"\r\n")

    def give_noise(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH\r\n")

    def give_silence(self) -> None:
        self.connection.recv(1)  # until the client leaves
        with self.server.lock:
            self.server.left += 1

    def give_slow(self) -> None:
        server = self.server
        with server.lock:
            server.asking += 1
            server.most = max(server.most, server.asking)
        server.release.wait()
        with server.lock:
            server.asking -= 1
        self.give_image()


@contextlib.contextmanager
def picture_host(
    elsewhere: str = "", wrap: Callable[[Any], ssl.SSLSocket] | None = None
) -> Iterator[PictureHost]:
    """One that runs; `wrap` its socket for TLS."""
    host = PictureHost(elsewhere)
    if wrap is not None:
        host.socket = wrap(host.socket)
    thread = threading.Thread(target=host.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.release.set()
        host.shutdown()
        host.server_close()
        thread.join()
