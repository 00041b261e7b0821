"""Where a server listens, and how it tells systemd.

Enters: settings. Leaves: a socket that listens already, before anything is loaded.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from pumice.errors import UsageError
from pumice.serve.settings import Settings

_BACKLOG = 2048


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """The socket; closed in the end, and a unix socket's file is removed.

    Raises:
        UsageError: it cannot be had.
    """
    listener = _opened(settings)
    try:
        listener.setblocking(False)
        yield listener
    finally:
        listener.close()
        if settings.uds is not None:
            settings.uds.unlink(missing_ok=True)


def address_of(listener: socket.socket) -> str:
    """For people: an address to open, or a path."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def notify(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Tell systemd, if it asked for it: `READY=1`, `STOPPING=1`, `STATUS=…`."""
    path = environment.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
        telling.connect(address)
        telling.sendall(state.encode())


def _opened(settings: Settings) -> socket.socket:
    if settings.fd is not None:
        return _inherited(settings.fd)
    if settings.uds is not None:
        return _unix(settings.uds)
    try:
        return _tcp(settings.host, settings.port)
    except OSError as error:
        raise UsageError(
            f"{settings.host} port {settings.port} cannot be listened on: {error.strerror or error}"
        ) from None


def _tcp(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _unix(path: Path) -> socket.socket:
    """A new one; one that a dead server left is replaced, one that answers is somebody's."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(f"{str(path)!r} cannot be listened on: {error.strerror or error}") from None
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        return other.connect_ex(str(path)) == 0


def _inherited(fd: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=fd)
        if listener.type != socket.SOCK_STREAM:
            raise OSError("it is no stream socket")
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listener.listen(_BACKLOG)
    except OSError as error:
        raise UsageError(f"fd {fd} cannot be listened on: {error.strerror or error}") from None
    return listener
