"""Images by their addresses: of nobody unless it was told; then of listed hosts, and of nothing inside by any trick."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pumice.errors import UsageError
from pumice.serve import fetching
from pumice.serve.allowed import AllowedHosts
from pumice.serve.fetching import Fetching
from pumice.serve.refusals import RefusalError
from pumice.serve.settings import gather
from pumice.serve.wire import Message, in_messages
from tests.runtime.canary import Canary, canary, hostile
from tests.runtime.serve.picture_host import IMAGE, PictureHost, picture_host
from tests.runtime.serve.running import (
    CHAT,
    PATIENCE,
    Running,
    data_uri,
    eventually,
    image_part,
    question,
    running,
    text,
)
from tests.runtime.serve.test_leaving import connected, head


@pytest.fixture(scope="module")
def bird() -> Iterator[Canary]:
    with canary() as bird:
        yield bird


@pytest.fixture(scope="module")
def host(bird: Canary) -> Iterator[PictureHost]:
    with picture_host(f"http://127.0.0.1:{bird.port}/image.png") as host:
        yield host


@pytest.fixture(scope="module")
def fetcher(pebble_bundle: Path, host: PictureHost) -> Iterator[Running]:
    """A server that may fetch from the host, and from another that is nowhere."""
    with running(pebble_bundle, fetch_images=(host.place, "images.example")) as server:
        yield server


def at(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def fetch(hosts: list[str], *urls: str, most_bytes: int = 2**25) -> dict[str, bytes]:
    """The images of one message, with the bytes that they were said to take."""
    took: list[int] = []

    async def work() -> dict[str, bytes]:
        message = Message(role="user", content=[text("?"), *map(at, urls)])
        return await Fetching(hosts, most_bytes).fetched([message], in_messages, took.append)

    found = asyncio.run(work())
    assert sorted(took) == sorted(map(len, found.values()))
    return found


def refusal(hosts: list[str], *urls: str, **more: Any) -> RefusalError:
    with pytest.raises(RefusalError) as refused:
        fetch(hosts, *urls, **more)
    assert refused.value.status == 400
    assert refused.value.param == "messages[0].content[1].image_url"
    return refused.value


@pytest.mark.parametrize("allowed", [False, True])
def test_no_trick_reaches_anything_inside(
    server: Running, fetcher: Running, bird: Canary, host: PictureHost, monkeypatch: pytest.MonkeyPatch,
    allowed: bool,
) -> None:  # fmt: skip
    """Neither a server that fetches nothing, nor one that fetches from some: not even where a name leads here."""
    asked: list[str] = []

    def resolved(name: str, port: int) -> list[str]:
        asked.append(name)
        return ["127.0.0.1"]

    monkeypatch.setattr(fetching, "_resolved", resolved)
    seen = len(host.seen)
    urls = hostile(bird.port)
    assert len(set(urls)) >= 60
    for url in urls:
        answer = (fetcher if allowed else server).chat([at(url), text("?")], max_tokens=1)
        assert answer.status == 400, url
        assert answer.error["code"] in ("invalid_image_url", "invalid_base64", "invalid_image_format"), url
        assert answer.error["param"] == "messages[0].content[0].image_url"
        assert "127.0.0.1" not in answer.error["message"]
    assert bird.hits == 0
    assert len(host.seen) == seen
    assert set(asked) <= {"images.example"}


def test_an_image_is_that_of_its_address(
    fetcher: Running, server: Running, host: PictureHost, bird: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{bird.port}")
    url = f"http://{host.place}/image.png?a=1&b=[2]#part"
    expected = fetcher.chat([image_part(IMAGE), text("What?")], max_tokens=8).text
    seen = len(host.seen)
    assert fetcher.chat([at(url), text("What?")], max_tokens=8).text == expected
    assert host.seen[seen:] == [("/image.png?a=1&b=[2]", host.place)]
    twice = fetcher.chat([at(url), at(url), at(f"http://{host.place}/pieces"), text("What?")], max_tokens=8)
    both = [image_part(IMAGE)] * 3
    assert twice.text == fetcher.chat([*both, text("What?")], max_tokens=8).text
    assert len(host.seen) == seen + 3  # one address is asked once in a request
    items = [{"role": "user", "content": [{"type": "input_image", "image_url": url}, text("What?")]}]
    body: dict[str, Any] = {"input": items, "temperature": 0, "max_output_tokens": 8}
    answer = fetcher.post("/v1/responses", body)
    assert answer.json["output"][0]["content"][0]["text"] == expected
    own = server.chat([at(url), text("What?")])
    assert (own.status, own.error["code"]) == (400, "invalid_image_url")
    assert bird.hits == 0


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("redirect", "redirects are not followed"),
        ("own-redirect", "redirects are not followed"),
        ("nothing", "status is 404"),
        ("failure", "status is 500"),
        ("packed", "packed"),
        ("short", "ended early"),
        ("large", "20,971,520 bytes"),
        ("endless", "20,971,520 bytes"),
        ("endless-head", "head"),
        ("noise", "connection failed"),
    ],
)
def test_an_answer_that_is_none(host: PictureHost, bird: Canary, path: str, told: str) -> None:
    found = refusal([host.place], f"http://{host.place}/{path}")
    assert told in str(found)
    assert found.code == ("image_too_large" if "bytes" in told else "invalid_image_url")
    assert bird.hits == 0


def test_what_was_fetched_is_looked_at_as_what_was_sent(fetcher: Running, host: PictureHost) -> None:
    answer = fetcher.chat([text("?"), at(f"http://{host.place}/page")], stream=True)
    assert (answer.status, answer.error["code"]) == (400, "invalid_image_format")
    assert answer.error["param"] == "messages[0].content[1].image_url"
    many = fetcher.chat([at(f"http://{host.place}/image.png?{i}") for i in range(9)])
    assert many.error["code"] == "too_many_images"
    seen = len(host.seen)
    one_bad = fetcher.chat([at(f"http://{host.place}/image.png"), at("http://elsewhere.example/")])
    assert one_bad.error["param"] == "messages[0].content[1].image_url"
    assert len(host.seen) == seen  # nothing is asked where one address is refused


def test_one_request_s_images_are_bounded_together(host: PictureHost) -> None:
    urls = [f"http://{host.place}/{name}" for name in ("image.png", "unbounded", "pieces")]
    assert set(fetch([host.place], *urls).values()) == {IMAGE}
    with pytest.raises(RefusalError, match="together") as refused:
        fetch([host.place], *urls, most_bytes=2 * len(IMAGE))
    assert refused.value.code == "image_too_large"


def test_a_name_is_resolved_once_and_only_public_numbers_are_asked(
    host: PictureHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[str] = []
    asked: list[str] = []

    def resolved(name: str, port: int) -> list[str]:
        asked.append(name)
        return numbers

    monkeypatch.setattr(fetching, "_resolved", resolved)
    port = host.server_address[1]
    name, url = f"camera.test:{port}", f"http://Camera.test:{port}/image.png"
    for given in (["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["fe80::1%lo"], []):
        numbers[:] = given
        assert "public" in str(refusal([name], url))
    numbers[:] = ["127.0.0.1"]
    asked.clear()
    assert fetch([name, host.place], url) == {url: IMAGE}  # the number is listed itself
    assert asked == ["camera.test"]
    assert host.seen[-1] == ("/image.png", f"camera.test:{port}")
    assert "public" in str(refusal([name, f"127.0.0.1:{port + 1}"], url))


def test_a_few_at_a_time(host: PictureHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SECONDS", PATIENCE)
    host.most = 0
    urls = [f"http://{host.place}/slow?{i}" for i in range(7)]
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(fetch, [host.place], *urls)
        eventually(lambda: host.asking >= fetching.AT_ONCE)
        host.release.set()
        assert len(found.result(PATIENCE)) == 7
    assert host.most == fetching.AT_ONCE == 3


def test_silence_is_not_waited_for(host: PictureHost, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetching.SECONDS == 5
    monkeypatch.setattr(fetching, "SECONDS", 0.2)
    left = host.left
    assert "took more than 0.2 seconds" in str(refusal([host.place], f"http://{host.place}/silence"))
    eventually(lambda: host.left == left + 1)


def test_a_client_that_leaves_ends_its_fetching(
    fetcher: Running, host: PictureHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SECONDS", PATIENCE)
    left, url = host.left, f"http://{host.place}/silence"
    body = json.dumps(question([at(url), text("?")])).encode()
    seen = len(host.seen)
    leaver = connected(fetcher, head(body))
    eventually(lambda: len(host.seen) == seen + 1)
    assert fetcher.chat("Hi", max_tokens=1).status == 200  # others are answered meanwhile
    leaver.close()
    eventually(lambda: host.left == left + 1)
    eventually(fetcher.idle)
    assert fetcher.app.server.tally.requests[CHAT, 499] == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_certificates_are_checked(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
         "2", "-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with picture_host(wrap=lambda listener: context.wrap_socket(listener, server_side=True)) as host:
        url = f"https://{host.place}/image.png"
        assert "connection failed" in str(refusal([host.place], url))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(certificate))
            assert fetch([host.place], url) == {url: IMAGE}
        assert "connection failed" in str(refusal([host.place], url.replace("https", "http")))


@pytest.mark.parametrize(
    "entry",
    [
        "", "*", "*.example", "http://a.example", "a.example/", "a.example:0", "a.example:x", "a@b.example", "a b",
        "ä.example", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.000.000.001",
        "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]",
        "::1", "[::1", "[]", "a.example.", ".example", "a..example", "-a.example", "[fe80::1%lo]", "1.2.3.4.5",
    ],
)  # fmt: skip
def test_entries_that_name_no_host(entry: str) -> None:
    with pytest.raises(UsageError, match=r"expected HOST or HOST:PORT"):
        AllowedHosts([entry])


_OF_THE_LIST = (
    "http://images.example", "https://IMAGES.example:443/x", "http://images.example:80?x", "http://cam:8080/",
    "https://cam:8080/", "http://192.168.1.5/", "http://[::1]:81/", "https://xn--bcher-kva.example/a",
)  # fmt: skip
_OF_NO_LIST = (
    "http://images.example:443/", "https://images.example:80/", "http://images.example:8080/", "http://cam/",
    "http://[::1]/", "http://a.images.example/", "http://images.example.evil.example/", "http://bücher.example/",
    "http://images.example/ä", "http://images.example/a b", "http://images.example:99999/", "http://images.example:/",
    "http://images.example/" + "a" * 9000, "http://images.example\n", "http://u:p@images.example/",
)  # fmt: skip


def test_which_hosts_and_ports_a_list_means() -> None:
    hosts = AllowedHosts(["Images.example", "cam:8080", "192.168.1.5", "[::1]:81", "xn--bcher-kva.example"])

    def allowed(url: str) -> bool:
        try:
            hosts.target(url, "x")
        except RefusalError:
            return False
        return True

    for url in _OF_THE_LIST:
        assert allowed(url), url
    for url in _OF_NO_LIST:
        assert not allowed(url), url
    target = hosts.target("HTTPS://IMAGES.example?x#y", "x")
    assert (target.scheme, target.authority, target.path, target.literal) == (
        "https",
        "images.example",
        "/?x",
        None,
    )
    for number, public in {
        "8.8.8.8": True, "2606:4700::1111": True, "192.168.1.5": True, "10.0.0.1": False, "172.16.0.1": False,
        "100.64.0.1": False, "169.254.169.254": False, "224.0.0.1": False, "239.1.1.1": False, "240.0.0.1": False,
        "255.255.255.255": False, "0.0.0.0": False, "::": False, "::1": False, "::ffff:8.8.8.8": False,
        "64:ff9b::808:808": False, "2002:808:808::": False, "2001::1": False, "fc00::1": False, "fe80::1": False,
        "ff02::1": False, "fec0::1": False, "no number": False,
    }.items():  # fmt: skip
        plain = hosts.target("http://images.example", "x")
        assert hosts.may_reach(number, plain) == public, number
    assert not hosts.may_reach("192.168.1.5", hosts.target("http://cam:8080", "x"))


def test_the_setting() -> None:
    flags = ["a.example,b.example:81", "127.0.0.1:82"]
    settings = gather({"bundle": "b", "fetch_images": flags}, {})
    assert settings.fetch_images == ("a.example", "b.example:81", "127.0.0.1:82")
    assert gather({"bundle": "b"}, {"PUMICE_SERVE_FETCH_IMAGES": "a.example, cam"}).fetch_images == (
        "a.example",
        "cam",
    )
    assert gather({"bundle": "b"}, {}).fetch_images == ()
    with pytest.raises(UsageError, match="fetch_images"):
        gather({"bundle": "b", "fetch_images": ["http://a.example"]}, {})


def test_ollama_s_images_may_be_addresses_too(fetcher: Running, host: PictureHost) -> None:
    def ask(image: str) -> str:
        body = {"model": fetcher.loaded.name, "prompt": "What?", "images": [image], "stream": False,
                "options": {"num_predict": 5, "temperature": 0}}  # fmt: skip
        answer: str = fetcher.post("/api/generate", body).json["response"]
        return answer

    assert ask(f"http://{host.place}/image.png") == ask(data_uri(IMAGE))
