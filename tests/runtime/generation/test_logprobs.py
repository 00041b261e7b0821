"""Log-probabilities against torch's."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pumice.generation.sequence import top_logprobs
from tests.steps import check_steps


@given(st.integers(0, 2**32), st.sampled_from([0.01, 1.0, 30.0, 1e4]), st.integers(0, 20))
def test_as_log_softmax(seed: int, scale: float, top: int) -> None:
    rng = np.random.default_rng(seed)
    logits_V = (rng.standard_normal(50) * scale).astype(np.float32)
    token = int(rng.integers(50))
    result = top_logprobs(logits_V, token, top, lambda i: f"<{i}>")
    expected = torch.log_softmax(torch.tensor(logits_V, dtype=torch.float64), 0).numpy()
    assert (result.token_id, result.token) == (token, f"<{token}>")
    assert result.logprob == pytest.approx(expected[token], abs=1e-6)
    assert [entry.token_id for entry in result.top] == np.argsort(-expected, kind="stable")[:top].tolist()
    for entry in result.top:
        assert entry.logprob == pytest.approx(expected[entry.token_id], abs=1e-6)
        assert entry.token == f"<{entry.token_id}>"


@given(st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=1, max_size=30), st.integers(0, 20))
def test_of_equals_the_lower_id_comes_first(values: list[float], top: int) -> None:
    logits_V = np.array(values, np.float32)
    ids = [entry.token_id for entry in top_logprobs(logits_V, 0, top, str).top]
    assert ids == sorted(range(len(values)), key=lambda i: (-values[i], i))[:top]


def test_probabilities_of_all_tokens_sum_to_one() -> None:
    logits_V = np.array([3e4, 3e4, -3e4, 2.9e4], np.float32)
    result = top_logprobs(logits_V, 2, 4, str)
    assert sum(np.exp(entry.logprob) for entry in result.top) == pytest.approx(1)
    assert result.logprob == pytest.approx(-6e4, abs=1)


def test_of_large_vocabularies_the_likeliest_alone_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_V = np.random.default_rng(0).standard_normal(152_000).astype(np.float32)
    sorted_lengths: list[int] = []
    for name in ("sort", "argsort", "lexsort"):
        real = getattr(np, name)

        def counting(values: Any, *rest: Any, real: Any = real, **options: Any) -> Any:
            sorted_lengths.append(len(values))
            return real(values, *rest, **options)

        monkeypatch.setattr(np, name, counting)
    told: list[int] = []
    check_steps(top_logprobs.__module__, 100, lambda: told.extend(asked(logits_V)))
    assert sorted_lengths == [20]
    assert len(told) == 21  # the chosen token's text, and the likeliest ones'


def asked(logits_V: np.ndarray) -> list[int]:
    """The tokens whose text is asked for."""
    ids: list[int] = []
    top_logprobs(logits_V, 3, 20, lambda token: str(ids.append(token)))
    return ids
