from __future__ import annotations

from pathlib import Path

import pytest

from bench.token_cost import TokenCost, token_cost
from tests.factory import Text, make_checkpoint


@pytest.mark.parametrize("tied", [False, True])
def test_a_table_counts_where_it_is_the_head(tmp_path: Path, tied: bool) -> None:
    text = Text(width=64, layers=2, heads=4, kv_heads=2, mlp=112, tied=tied)
    cost = token_cost(make_checkpoint(tmp_path, text=text))
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 112 + 2 * 64
    assert cost.weights == 2 * layer + 64 + 384 * 64
    assert cost.kv_bytes == 2 * 2 * 2 * 16 * 4


def test_speed_is_what_reading_allows() -> None:
    cost = TokenCost(weights=8_000_000, kv_bytes=1000)
    assert cost.tokens_per_second(4.5, 0) == pytest.approx(1000)
    assert cost.tokens_per_second(4.5, 4500) == pytest.approx(500)
