"""What a scheduler runs next: decided of integers alone, so that it can be tested without a model.

Enters: a `State`, which `Scheduler` reads of its requests and its cache. Leaves: which requests get which slots, which
chunk of which prompt is prefilled, and which slots decode. Nothing here runs anything or changes what it was given.

    decide (here)   ─▶ run (decoder and cache)    ─▶ digest (requests)
    admissions         what slots hold is kept       waiting → prefill
    prefill_chunk      a chunk of one prompt         prefill → decode behind the last one
    decode_batch       a token of every row          the next tokens, or the end

The three are asked one after another in a step, each of what the one before has left: what a slot keeps of a prompt is
known once the cache has looked, and a prompt that fails leaves slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pumice.scheduler.chunks import run_end

_PART = 1024
"""Tokens of a prompt that are due together: an image and its question, but not a book."""

_PATIENCE = 4
"""Tokens of later prompts that may pass each token of a part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vacancy:
    """A free slot, as a waiting request sees it."""

    slot: int
    held: int
    """Positions that are filled."""
    common: int
    """How many of them the request's prompt begins with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """A request that can have slots: it wants `rows` of the free ones."""

    rows: int
    vacancies: Sequence[Vacancy]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt in prefill: `held` of its `tokens` are in its slot."""

    tokens: int
    held: int
    due: int
    """When it should be read, as `due` says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeRow:
    """A sequence that decodes."""

    slot: int
    held: int
    """Positions that are filled."""
    draft: int = 0
    """Tokens that its strategy has drafted behind the next one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """A scheduler's requests and slots, each of `capacity` positions. `chunk` is the most tokens of a prompt in a
    prefill at once; while others decode it is `shared_chunk`, or twice as many where several prompts are in prefill.
    """

    chunk: int
    shared_chunk: int
    capacity: int
    all_logits: bool
    """Whether the decoder gives logits of all positions, without which no draft can be verified."""
    free: AbstractSet[int] = frozenset()
    waiting: Sequence[Waiting] = ()
    """Those that can have slots, as `fitting` says, in the order in which they came."""
    prompts: Sequence[Prompt] = ()
    """Those in prefill, in the order in which they were admitted."""
    rows: Sequence[DecodeRow] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefillChunk:
    """Positions `start` … `stop - 1` of the prompt with this index in the state; where it `ends`, its answer begins."""

    prompt: int
    start: int
    stop: int
    ends: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A row is moved from one slot into a free one."""

    source: int
    target: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeBatch:
    """A token of every row, in the slots `first` … `first + count - 1`, once the moves are made."""

    first: int
    count: int
    moves: Sequence[Move] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftCheck:
    """The next token of the only row, and so many tokens of its draft."""

    tokens: int


def fitting(wanted: Iterable[int], free: int) -> int:
    """How many of those who wait can have slots: first come, first served, and one that does not fit lets none pass."""
    count = 0
    for rows in wanted:
        if rows > free:
            break
        free -= rows
        count += 1
    return count


def admissions(state: State) -> list[tuple[int, ...]]:
    """The slots of each that can have them: first the one that begins most like it, then those that hold least."""
    found: list[tuple[int, ...]] = []
    taken: set[int] = set()
    for waiting in state.waiting:
        vacancies = [vacancy for vacancy in waiting.vacancies if vacancy.slot not in taken]
        first = max(vacancies, key=lambda vacancy: (vacancy.common, -vacancy.held, -vacancy.slot))
        others = sorted(
            (v for v in vacancies if v is not first), key=lambda vacancy: (vacancy.held, vacancy.slot)
        )
        slots = (first.slot, *(vacancy.slot for vacancy in others[: waiting.rows - 1]))
        found.append(slots)
        taken.update(slots)
    return found


def due(prefilled: int, rest: int) -> int:
    """When the next part of a prompt should be read, of which `rest` tokens are to go: `prefilled` are of all prompts.

    Equal prompts are due one after another, so that only the last of them waits for all. A short one passes a long one
    that was there before, but no part waits for more than `_PATIENCE` times its own tokens of later ones.
    """
    return prefilled + _PATIENCE * min(rest, _PART)


def part_ends(chunk: PrefillChunk) -> bool:
    """Whether the rest of its prompt is a part of its own, due anew."""
    return not chunk.ends and chunk.stop // _PART > chunk.start // _PART


def prefill_chunk(state: State) -> PrefillChunk | None:
    """Some of the prompt that is due first; None where none is in prefill.

    While others decode, a chunk is larger where several prompts wait: what those who have begun wait longer for a
    token, all of those have less to wait for their first.
    """
    if not state.prompts:
        return None
    index = min(range(len(state.prompts)), key=lambda i: state.prompts[i].due)
    prompt = state.prompts[index]
    shared = min(state.chunk, state.shared_chunk * min(2, len(state.prompts)))
    stop = run_end(prompt.held, prompt.tokens, shared if state.rows else state.chunk)
    return PrefillChunk(prompt=index, start=prompt.held, stop=stop, ends=stop == prompt.tokens)


def decodes_behind(chunk: PrefillChunk | None, waited: int, most: int) -> bool:
    """Whether rows decode in the step of this chunk, if any, with which they have waited for so many tokens of prompts.

    Not behind a chunk that ends a prompt, so that an answer's first token does not wait for the others' next one. But
    where one prompt ends after another, those who decode do not wait for ever: for `most` tokens, and the chunk that
    reaches them.
    """
    return chunk is None or not chunk.ends or waited >= most


def decode_batch(state: State) -> DecodeBatch | DraftCheck | None:
    """A token of every row; or several of the only one, where its strategy has drafted; None where none decodes."""
    rows = state.rows
    if not rows:
        return None
    if len(rows) == 1 and rows[0].draft and state.all_logits:
        return DraftCheck(tokens=min(rows[0].draft, state.capacity - rows[0].held - 1))
    slots = {row.slot for row in rows}
    moves = _compaction(slots, state.free) if max(slots) - min(slots) >= len(slots) else []
    slots = (slots - {move.source for move in moves}) | {move.target for move in moves}
    return DecodeBatch(first=min(slots), count=max(slots) - min(slots) + 1, moves=moves)


def _compaction(slots: AbstractSet[int], free: AbstractSet[int]) -> list[Move]:
    """Moves of the last rows into free slots between the others, which would be computed for nothing.

    slots  0 1 2 3 4 5        0 1 2 3 4 5
           a . b x . c   ─▶   a c b x . .     a, b, c decode; x is in prefill; . is free
    """
    busy, vacant = set(slots), set(free)
    moves: list[Move] = []
    while True:
        last = max(busy)
        target = next((slot for slot in range(min(busy), last) if slot in vacant), None)
        if target is None:
            return moves
        moves.append(Move(source=last, target=target))
        busy = (busy - {last}) | {target}
        vacant = (vacant - {target}) | {last}
