from __future__ import annotations

import numpy as np
import pytest

from bench.peers.gguf_files import interleaved
from bench.real.weights import checkpoint_name, halves, steps


def test_rotary_rows_are_the_inverse_of_what_llama_cpp_stores() -> None:
    """Whose order a writer of such files makes."""
    rows = np.arange(3 * 8 * 5, dtype=np.float32).reshape(24, 5)
    np.testing.assert_array_equal(halves(interleaved(rows, 3), 3), rows)
    first_head = [0, 2, 4, 6, 1, 3, 5, 7]
    np.testing.assert_array_equal(halves(rows, 3)[:8], rows[first_head])


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.12.attn_output.weight", "model.layers.12.self_attn.o_proj.weight"),
        ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
    ],
)
def test_names(name: str, ours: str) -> None:
    assert checkpoint_name(name) == ours


def test_a_tensor_that_no_llama_has_is_refused() -> None:
    with pytest.raises(KeyError, match="attn_q_norm"):
        checkpoint_name("blk.0.attn_q_norm.weight")


def test_steps_are_the_size_of_each_blocks_scale() -> None:
    blocks = np.zeros((4, 6), np.uint8)
    blocks[:, :2] = np.array([0.5, -0.25, 2.0, 0.0], np.float16).view(np.uint8).reshape(4, 2)
    found = steps(blocks, block=8, size=6, shape=(2, 16))
    np.testing.assert_array_equal(found, [[0.5] * 8 + [0.25] * 8, [2.0] * 8 + [0.0] * 8])
