from __future__ import annotations

import pytest

from bench.results import Machine


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("avx2",), "avx2"),
        (("avx2", "avx_vnni"), "avx-vnni"),
        (("avx2", "avx512f"), "avx512"),
        (("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16"), "avx512-vnni"),
        (("avx2", "avx512f", "avx512_vnni", "amx_int8"), "amx"),
        (("asimddp", "i8mm"), "neon-i8mm"),
        (("asimddp",), "neon-dotprod"),
        ((), "plain"),
    ],
)
def test_machines_are_told_apart_by_what_multiplies_integers(flags: tuple[str, ...], named: str) -> None:
    machine = Machine(cpu="a CPU", cores=2, memory_gib=24.0, flags=flags, system="Linux")
    assert machine.instruction_set == named
