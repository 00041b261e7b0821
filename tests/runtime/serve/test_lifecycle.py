"""From the first moment to the last: listening, draining, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import zlib
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from pumice.errors import UsageError
from pumice.serve.lifecycle import serve
from pumice.serve.settings import Settings
from pumice.serve.sockets import address_of, listening, notify
from tests.runtime.engine.stand_ins import Gate
from tests.runtime.serve.running import (
    CHAT,
    PATIENCE,
    Answer,
    eventually,
    image_part,
    png,
    question,
    received,
    running,
    text,
)
from tests.runtime.serve.test_leaving import connected, head, hold


@pytest.mark.parametrize("stream", [False, True])
def test_what_came_is_answered_and_what_comes_is_refused(
    pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    gate = Gate()
    with running(pebble_bundle, gate=gate, slots=2, drain=PATIENCE) as server:
        hold("decoding", gate, monkeypatch)
        body = json.dumps(question("Hi there", max_tokens=6, ignore_eos=True, stream=stream)).encode()
        asking = [connected(server, head(body)) for _ in range(5)]  # some of them wait
        eventually(lambda: server.app.server.admission.taken == 5)
        assert gate.reached.wait(PATIENCE)
        server.ask_to_end()
        eventually(lambda: server.app.server.draining)
        assert server.get("/ready").json == {"status": "draining"}
        assert server.get("/health").status == 200
        refused = server.chat("Hi")
        assert (refused.status, refused.error["code"]) == (503, "draining")
        assert refused.headers["retry-after"]
        gate.open()
        for connection in asking:
            data = received(connection, b"data: [DONE]" if stream else b'"timings"')
            assert (
                (b"data: [DONE]" in data) if stream else (b" 200 OK" in data and b'"finish_reason"' in data)
            )
            connection.close()
        server.thread.join(PATIENCE)
        assert not server.failure


@pytest.mark.parametrize("how", ["time", "insisting"])
def test_what_takes_too_long_is_cut_off_with_an_error(
    pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    gate = Gate()
    with running(pebble_bundle, gate=gate, slots=2, drain=0.01 if how == "time" else PATIENCE) as server:
        hold("encoding", gate, monkeypatch)
        content = [image_part(png("navy")), text("What?")]
        stream = json.dumps(question(content, stream=True)).encode()
        whole = json.dumps(question(content)).encode()
        asking = [connected(server, head(stream)), connected(server, head(whole))]
        eventually(lambda: server.app.server.admission.taken == 2 and gate.reached.is_set())
        server.ask_to_end()
        if how == "insisting":
            server.ask_to_end()
        first = received(asking[0], b"}}")
        assert b'"code":"draining"' in first
        assert b"[DONE]" not in first
        second = received(asking[1], b"}}")
        assert second.startswith(b"HTTP/1.1 503 ")
        server.thread.join(PATIENCE)
        assert not server.failure
        for connection in asking:
            connection.close()


def test_a_bundle_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    from pumice.errors import BundleError

    with pytest.raises(BundleError, match="manifest"):
        serve(Settings(bundle=tmp_path, port=0))


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = Settings(bundle=tmp_path, port=port)
        told = f"127.0.0.1 port {port} cannot be listened on"
        with pytest.raises(UsageError, match=told), listening(settings):
            pass


def test_unix_sockets(tmp_path: Path) -> None:
    path = tmp_path / "s"
    settings = Settings(bundle=tmp_path, uds=path)
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(path))
    left.close()  # as a server that was killed leaves it
    with listening(settings) as listener:
        assert address_of(listener) == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(UsageError, match="cannot be listened on"), listening(settings):
            pass
        assert path.exists()
    assert not path.exists()
    path.write_text("no socket")
    with pytest.raises(UsageError, match="cannot be listened on"), listening(settings):
        pass
    assert path.read_text() == "no socket"


def test_an_inherited_socket(tmp_path: Path) -> None:
    given = socket.create_server(("127.0.0.1", 0))
    port = given.getsockname()[1]
    with listening(Settings(bundle=tmp_path, fd=given.detach())) as listener:
        assert address_of(listener) == f"http://127.0.0.1:{port}"
        with socket.create_connection(("127.0.0.1", port)):
            pass
    settings = Settings(bundle=tmp_path, fd=9999)
    with pytest.raises(UsageError, match="fd 9999 cannot be listened on"), listening(settings):
        pass


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert systemd.recv(100) == b"READY=1"
    notify("READY=1", {})
    notify("READY=1", {"NOTIFY_SOCKET": "relative"})
    notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "none")})


class UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, route: str, body: Any = None) -> Answer:
    connection = UnixConnection(path)
    try:
        connection.request(method, route, None if body is None else json.dumps(body), {"X-API-Key": "sk-1"})
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def promising(width: int, height: int) -> bytes:
    """A PNG that says it is larger than it is."""
    data = bytearray(png())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_the_command_from_start_to_end(pebble_bundle: Path, tmp_path: Path) -> None:
    """A process of its own: a file of settings, keys, a unix socket, systemd, the log, SIGTERM."""
    (tmp_path / "keys").write_text("ann sk-1\n")
    (tmp_path / "serve.toml").write_text(f'uds = "{tmp_path}/s"\nslots = 2\nlog-format = "json"\n')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE)
        process = subprocess.Popen(
            [sys.executable, "-m", "pumice", "serve", pebble_bundle, "--config", tmp_path / "serve.toml",
             "--threads", "1"],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"),
                 "PUMICE_SERVE_API_KEY_FILE": str(tmp_path / "keys")},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert systemd.recv(1000).startswith(b"READY=1")
            content = [image_part(png()), text("a very secret question")]
            answer = ask(tmp_path / "s", "POST", CHAT, question(content, max_tokens=4, ignore_eos=True))
            assert answer.status == 200
            assert answer.headers["x-request-id"]
            assert ask(tmp_path / "s", "POST", CHAT, {"messages": "secret"}).status == 400
            for width in (9600, 9700):  # of so many pixels Pillow warns
                bomb = ask(tmp_path / "s", "POST", CHAT, question([image_part(promising(width, 9600))]))
                assert (bomb.status, bomb.error["code"]) == (400, "image_too_large")
            process.send_signal(signal.SIGTERM)
            assert systemd.recv(1000).startswith(b"STOPPING=1")
            errors = process.communicate(timeout=PATIENCE)[1]
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, errors
    assert not (tmp_path / "s").exists()
    entries = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    first = next(entry for entry in entries if entry["status"] == 200)
    assert (first["route"], first["key"], first["model"]) == (CHAT, "ann", pebble_bundle.name)
    assert (first["images"], first["answer"], first["id"]) == (1, 4, answer.headers["x-request-id"])
    assert first["prompt"] > 36
    assert "Warning" not in errors
    assert "secret" not in errors
    assert answer.text.strip() not in errors
    assert "sk-1" not in errors


def test_log_lines_cannot_be_forged(pebble_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(pebble_bundle, ready=False) as server, caplog.at_level("INFO", "pumice.serve.access"):
        for name in ("a b", "x" * 65, "é"):
            assert (
                server.get("/health/live", {"X-Request-Id": name}).headers["x-request-id"].startswith("req_")
            )
        assert server.get("/health/live", {"X-Request-Id": "trace-1"}).headers["x-request-id"] == "trace-1"
        server.get("/v1/%0aforged%20200")
        eventually(lambda: len(caplog.records) >= 5)
    lines = [record.getMessage() for record in caplog.records if record.name == "pumice.serve.access"]
    assert all("\n" not in line and "forged" not in line for line in lines)
    assert any(" trace-1 GET /health/live 200 " in line for line in lines)


def test_a_second_server_in_the_same_process(pebble_bundle: Path) -> None:
    """Nothing of a server is the process's: two of them answer side by side."""
    with running(pebble_bundle) as one, running(pebble_bundle, alias=("two",)) as two:
        assert one.chat("Hi", max_tokens=1).status == 200
        assert two.chat("Hi", max_tokens=1, model="two").status == 200
        assert one.chat("Hi", max_tokens=1, model="two").status == 404
    asyncio.run(asyncio.sleep(0))
