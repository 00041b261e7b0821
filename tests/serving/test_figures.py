"""The verb itself: what counts as a broken promise, and that a leak is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.runtime.serve.running import Answer
from tests.serving import __main__ as verb
from tests.serving.client import _answer
from tests.serving.figures import Figure, quantile, row, slope
from tests.serving.fuzz import kind_of
from tests.serving.soak import GROWTH_MIB, SLOPE_MIB, Sample, judged


def figure(value: float, **bounds: float) -> Figure:
    return Figure(check="c", what="w", value=value, **bounds)  # type: ignore[arg-type]


def test_what_is_kept() -> None:
    assert figure(1).kept
    assert figure(1, most=1, least=1).kept
    assert not figure(1.1, most=1).kept
    assert not figure(0, least=1).kept
    assert not figure(float("nan")).kept
    assert row(figure(2, most=0)) == "| c | w | 2 | 0 | **no** |"
    assert row(figure(1234.5, unit="ms", most=10_000)) == "| c | w | 1,234 ms | ≤ 10,000 | yes |"


def test_quantiles_and_slopes() -> None:
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile(range(1, 101), 0.99) == 99
    assert quantile([5], 0.01) == 5
    assert slope([(0, 1), (1, 3), (2, 5)]) == 2


def samples(per_request_mib: float) -> list[Sample]:
    """A process that grows by 300 MiB while its caches fill, and then by what each request leaves."""
    return [
        Sample(requests=100 * n, mib=100 + min(300, 15 * n) + 100 * n * per_request_mib, files=9, threads=9)
        for n in range(60)
    ]


def test_a_planted_leak_is_seen() -> None:
    growth, rise = judged(samples(0))
    assert growth == pytest.approx(0)
    assert rise == pytest.approx(0)
    growth, rise = judged(samples(1 / 16))  # 64 KiB
    assert rise > SLOPE_MIB
    assert rise == pytest.approx(62.5)
    assert growth > GROWTH_MIB


@pytest.mark.parametrize(
    ("figures", "code"), [([figure(1)], 0), ([figure(1), figure(2, most=1)], 1), ([], 0), (None, 1)]
)
def test_the_exit_code(
    figures: list[Figure] | None,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*_: object) -> Iterator[Figure]:
        if figures is None:
            raise RuntimeError("it cannot be tried")
        yield from figures

    monkeypatch.setattr(verb, "import_module", lambda _: SimpleNamespace(run=run))
    assert verb.main(["bundle", "flood"]) == code
    assert ("**no**" in capsys.readouterr().out) == bool(code)


def test_unknown_checks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        verb.main(["bundle", "flod"])
    assert "unknown check 'flod'" in capsys.readouterr().err


def test_every_check_is_there() -> None:
    from importlib import import_module

    assert all(callable(import_module(f"tests.serving.{name}").run) for name in verb.CHECKS)
    files = {path.stem for path in Path(verb.__file__).parent.glob("*.py") if "def run(" in path.read_text()}
    assert files == {*verb.CHECKS, "test_figures"}


REFUSED = b'{"error": {"message": "m", "type": "invalid_request_error", "param": null, "code": null}}'
INSIDE = b'{"error": {"message": "m", "type": "server_error", "param": null, "code": null}}'
COUNTED = b'{"usage": {"prompt_tokens_details": {"image_tokens": 36}}}'
UNSEEN = b'{"usage": {"prompt_tokens_details": {"image_tokens": 0}}}'


@pytest.mark.parametrize(
    ("status", "body", "stream", "kind"),
    [
        (200, COUNTED, False, "answered"),
        (200, UNSEEN, False, "neither"),
        (400, REFUSED, False, "refused"),
        (400, b"{}", False, "neither"),
        (400, b"<html>", False, "neither"),
        (500, INSIDE, False, "neither"),
        (0, b"", False, "neither"),
        (200, b"data: {}\n\ndata: [DONE]\n\n", True, "answered"),
        (200, b"data: " + REFUSED + b"\n\n", True, "refused"),
        (200, b"data: " + INSIDE + b"\n\n", True, "neither"),
        (200, b"", True, "neither"),
    ],
)
def test_what_a_damaged_image_may_come_to(status: int, body: bytes, stream: bool, kind: str) -> None:
    assert kind_of(Answer(status, {}, body), stream=stream).startswith(kind)


def test_responses_are_read_whole() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = _answer(head + b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n")
    assert (answer.status, answer.body) == (200, b"abc0123456789")
    assert _answer(b"").status == 0
