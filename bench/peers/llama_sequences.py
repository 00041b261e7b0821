"""Several sequences in one llama.cpp context: steps of all rows together, and requests that come at once.

llama-cpp-python has no server that continues several conversations about images, so what llama.cpp's own does with
requests that all come at once is done here with its functions: one prompt after the other, image first, is read into a
sequence of its own; then all sequences are continued in one batch. That is the order with the greatest throughput.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Sequence
from typing import Any

from bursts import Served

STEPS = 32


class Sequences:
    """A context with room for `rows` sequences of `length` tokens each; `parts` has model and projector."""

    def __init__(self, parts: Any, rows: int, length: int) -> None:
        self.parts, self.llama, self.work = parts, parts.llama, parts.work
        self.context = parts.new_context(rows, length * rows)
        self.tokens = self.llama.llama_batch_init(rows * length, 0, rows)
        if not self.context:
            raise SystemExit("llama.cpp has no room for so many sequences")

    def decode(self, items: list[tuple[int, int, int, bool]]) -> None:
        """Read (token, position, sequence, whether logits are wanted)."""
        fill(self.tokens, items)
        if self.llama.llama_decode(self.context, self.tokens):
            raise SystemExit(f"llama.cpp could not decode {len(items)} tokens")

    def best(self, row: int) -> int:
        """The most likely token by the last batch's logits."""
        token: int = self.parts.best(row, self.context)
        return token

    def rows_per_second(self, rows: int, length: int) -> float:
        """Tokens a second of all rows together, by the median step, after `length` words each."""
        texts = [self.work["text_ids"][row : row + length] for row in range(rows)]
        self.decode(
            [(t, i, row, i == length - 1) for row, ids in enumerate(texts) for i, t in enumerate(ids)]
        )
        tokens = [self.best(length * (row + 1) - 1) for row in range(rows)]
        found = []
        for step in range(STEPS):
            begun = time.perf_counter()
            tokens = self.step(tokens, [length + step] * rows)
            found.append(time.perf_counter() - begun)
        return rows / statistics.median(found)

    def step(self, tokens: list[int], places: list[int]) -> list[int]:
        """Every sequence continued by a token."""
        self.decode([(token, places[row], row, True) for row, token in enumerate(tokens)])
        return [self.best(row) for row in range(len(tokens))]

    def serve(self, images: Sequence[str]) -> Served:
        """A request for each image, all at once."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)
        firsts, tokens, places = [], [], []
        begun = time.perf_counter()
        for row, image in enumerate(images):
            places.append(self.read(row, image))
            tokens.append(self.best(-1))
            firsts.append(time.perf_counter() - begun)
        for _ in range(self.work["burst_tokens"] - 1):
            tokens = self.step(tokens, places)
            places = [place + 1 for place in places]
        seconds = time.perf_counter() - begun
        return Served(firsts=firsts, seconds=seconds, tokens=len(images) * self.work["burst_tokens"])

    def read(self, row: int, image: str) -> int:
        """Read image and question into a sequence; its length."""
        ids, mark = self.work["input_ids"], self.work["image_token_id"]
        start, stop = ids.index(mark), len(ids) - ids[::-1].index(mark)
        chunk, embeddings = self.parts.encoded(image)
        if start:
            self.decode([(token, place, row, False) for place, token in enumerate(ids[:start])])
        past = self.parts.read_image(self.context, chunk, embeddings, start, row)
        if past != stop:
            raise SystemExit(f"llama.cpp read {past - start} image tokens, expected {stop - start}")
        last = len(ids) - 1
        self.decode([(ids[place], place, row, place == last) for place in range(stop, len(ids))])
        return len(ids)


def fill(batch: Any, items: list[tuple[int, int, int, bool]]) -> None:
    """Put (token, position, sequence, whether logits are wanted) into a batch."""
    batch.n_tokens = len(items)
    for i, (token, position, sequence, logits) in enumerate(items):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, logits
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence


def read_image(mtmd: Any, vision: Any, context: Any, chunk: Any, embeddings: Any, past: int, row: int) -> int:
    """An image's embeddings read into a sequence; its length then."""
    then = ctypes.c_int32(0)
    nothing = mtmd.mtmd_helper_post_decode_callback(0)
    given = (vision, context, chunk, embeddings, past, row, 2048, ctypes.byref(then), nothing, None)
    return -1 if mtmd.mtmd_helper_decode_image_chunk(*given) else then.value
