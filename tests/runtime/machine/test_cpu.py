"""Which processors multiply bytes exactly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pumice.machine import cpu as processor
from pumice.machine.cpu import description, saturates


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    description.cache_clear()
    yield
    description.cache_clear()


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags : fpu avx2 avx512f avx512_vnni", False),
        ("AMD64", "flags : fpu avx2 avx_vnni", False),
        ("x86_64", "flags : fpu avx2 avx512f", True),
        ("x86_64", "model name : of an unknown kind", True),
        ("aarch64", "Features : asimd asimddp", False),
        ("arm64", "", False),
    ],
)
def test_products_of_bytes(machine: str, flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "description", lambda: ("Linux", machine, flags))
    assert saturates() is expected


def test_this_machine_is_described_alike_each_time() -> None:
    assert description() == description()
    assert len(description()) >= 3
