"""A listener that must never be asked, and sixty addresses that would lead to it, or to other places inside."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Canary:
    """`hits` are connections that came."""

    port: int
    hits: int = 0


@contextlib.contextmanager
def canary() -> Iterator[Canary]:
    """One on this machine, by both of its addresses where it has them."""
    listener = (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        if socket.has_dualstack_ipv6()
        else socket.create_server(("127.0.0.1", 0))
    )
    bird = Canary(listener.getsockname()[1])

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                bird.hits += 1
                connection.close()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield bird
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def hostile(port: int) -> list[str]:
    """Addresses; `images.example` is a host that a server may have been allowed."""
    here = f"127.0.0.1:{port}"
    return [
        *(f"{scheme}://{here}/a.png" for scheme in ("http", "https", "HTTP", "hTTpS", "ftp", "ws", "gopher", "dict")),
        *(f"http://{host}:{port}/a.png" for host in _HOSTS),
        f"http://images.example@{here}/a.png",
        f"http://images.example:80@{here}/a.png",
        f"http://images.example%40{here}/a.png",
        f"http://images.example%2f@{here}/a.png",
        f"http://images.example#@{here}/a.png",
        f"http://images.example?@{here}/a.png",
        f"http://images.example\\@{here}/a.png",
        f"http://{here}@images.example/a.png",
        f"http://{here}\\@images.example/a.png",
        f"http://{here}#images.example/a.png",
        f"http://images.example:{port}/a.png",
        f"http://images.example.:{port}/a.png",
        f"http:/{here}/a.png",
        f"http:{here}/a.png",
        f"http:\\\\{here}\\a.png",
        f"//{here}/a.png",
        f" http://{here}/a.png",
        f"\thttp://{here}/a.png",
        f"ht\ntp://{here}/a.png",
        f"http://{here}/a.png\r\nHost: images.example",
        f"http://127.0.0.1:+{port}/a.png",
        f"http://127.0.0.1:0{port}/a.png",
        f"url:http://{here}/a.png",
        f"blob:http://{here}/a.png",
        f"file://{here}/etc/passwd",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
    ]  # fmt: skip


_HOSTS = (
    "localhost",
    "LOCALHOST",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.000.000.001",
    "0",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fe80::1%25lo]",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "ⓛocalhost",
)
