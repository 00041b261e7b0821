"""What runs next, of integers alone: no model, no cache. No outside oracle: the rules of `pumice.scheduler.batch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pumice.scheduler.batch import (
    DecodeBatch,
    DecodeRow,
    DraftCheck,
    Move,
    PrefillChunk,
    Prompt,
    State,
    Vacancy,
    Waiting,
    admissions,
    decode_batch,
    fitting,
    prefill_chunk,
)

IDLE = State(chunk=128, shared_chunk=32, capacity=512, all_logits=True)


def waiting(rows: int, held: Sequence[int], common: Sequence[int] = ()) -> Waiting:
    """One that wants so many of the slots 0, 1, …, which hold so much, and so much of its prompt."""
    common = common or [0] * len(held)
    return Waiting(
        rows=rows,
        vacancies=[
            Vacancy(slot=i, held=h, common=c) for i, (h, c) in enumerate(zip(held, common, strict=True))
        ],
    )


def decoding(*slots: int, free: Sequence[int] = (), draft: int = 0, held: int = 10) -> State:
    rows = [DecodeRow(slot=slot, held=held, draft=draft) for slot in slots]
    return replace(IDLE, rows=rows, free=frozenset(free))


@pytest.mark.parametrize(
    ("wanted", "free", "expected"),
    [([1, 1, 1], 2, 2), ([2, 1], 1, 0), ([1, 3, 1], 3, 1), ([2, 2], 4, 2), ([], 4, 0), ([1], 0, 0)],
)
def test_who_comes_first_is_served_first(wanted: list[int], free: int, expected: int) -> None:
    assert fitting(wanted, free) == expected


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (waiting(1, [9, 9, 9], [2, 7, 3]), (1,)),  # most of the prompt
        (waiting(1, [9, 5, 9], [3, 3, 3]), (1,)),  # as much of it, and least to lose
        (waiting(1, [5, 5, 5]), (0,)),
        (waiting(3, [9, 9, 4, 0, 6], [1, 8, 0, 0, 0]), (1, 3, 2)),  # copies go where least is lost
        (waiting(3, [2, 2, 2]), (0, 1, 2)),
    ],
)
def test_slots_that_hold_the_prompt_come_first(request_: Waiting, expected: tuple[int, ...]) -> None:
    assert admissions(replace(IDLE, waiting=[request_])) == [expected]


def test_no_slot_is_given_twice() -> None:
    first, second = waiting(2, [8, 1, 0], [8, 0, 0]), waiting(1, [8, 1, 0], [8, 0, 0])
    assert admissions(replace(IDLE, waiting=[first, second])) == [(0, 2), (1,)]


@pytest.mark.parametrize(
    ("tokens", "held", "others", "expected"),
    [
        (300, 0, False, (0, 128, False)),
        (300, 0, True, (0, 32, False)),
        (300, 288, False, (288, 300, True)),
        (100, 0, False, (0, 100, True)),
        (130, 0, False, (0, 126, False)),  # chunks.py: 2 tokens would be left over
        (33, 0, True, (0, 30, False)),
    ],
)
def test_chunks_are_smaller_while_others_decode(
    tokens: int, held: int, others: bool, expected: tuple[int, int, bool]
) -> None:
    state = decoding(5) if others else IDLE
    start, stop, ends = expected
    found = prefill_chunk(replace(state, prompts=[Prompt(tokens=tokens, held=held, turn=0)]))
    assert found == PrefillChunk(prompt=0, start=start, stop=stop, ends=ends)


@given(st.lists(st.integers(3, 900), min_size=1, max_size=6))
def test_prompts_are_read_in_turn(lengths: list[int]) -> None:
    """Between two chunks of a prompt, each other that is not read whole has one."""
    prompts = {i: Prompt(tokens=tokens, held=0, turn=i) for i, tokens in enumerate(lengths)}
    order: list[int] = []
    for turn in range(len(lengths), 1000):
        chunk = prefill_chunk(replace(IDLE, prompts=list(prompts.values())))
        if chunk is None:
            break
        number = list(prompts)[chunk.prompt]
        prompt = prompts[number]
        assert chunk.start == prompt.held < chunk.stop
        assert chunk.ends == (chunk.stop == prompt.tokens)
        order.append(number)
        prompts[number] = replace(prompt, held=chunk.stop, turn=turn)
        if chunk.ends:
            del prompts[number]
    assert not prompts
    rounds = [[i for i in range(len(lengths)) if order.count(i) > n] for n in range(len(order))]
    assert order == [i for of_round in rounds for i in of_round]


def test_nothing_to_do() -> None:
    assert prefill_chunk(IDLE) is None
    assert decode_batch(IDLE) is None
    assert admissions(IDLE) == []


@pytest.mark.parametrize(
    ("slots", "free", "expected"),
    [
        ([0, 1, 2], [3], (0, 3, [])),
        ([3, 2], [0, 1], (2, 2, [])),  # what lies before the first costs nothing
        ([0, 2, 5], [1, 4], (0, 3, [(5, 1)])),  # 3 is another's
        ([0, 4, 5], [1, 2, 3], (0, 3, [(5, 1), (4, 2)])),
        ([0, 3], [], (0, 4, [])),
        ([1, 6], [0, 3, 5], (1, 3, [(6, 3)])),
    ],
)
def test_rows_are_moved_together(
    slots: list[int], free: list[int], expected: tuple[int, int, list[tuple[int, int]]]
) -> None:
    first, count, moves = expected
    assert decode_batch(decoding(*slots, free=free)) == DecodeBatch(
        first=first, count=count, moves=[Move(source=s, target=t) for s, t in moves]
    )


@given(st.lists(st.sampled_from(["row", "free", "other"]), min_size=1, max_size=12))
def test_no_free_slot_is_computed(owners: list[str]) -> None:
    slots = [i for i, owner in enumerate(owners) if owner == "row"]
    free = {i for i, owner in enumerate(owners) if owner == "free"}
    batch = decode_batch(decoding(*slots, free=sorted(free)))
    if not slots:
        assert batch is None
        return
    assert isinstance(batch, DecodeBatch)
    taken = set(slots)
    for move in batch.moves:
        assert move.source in taken
        assert move.target in free
        assert move.target < move.source
        taken, free = (taken - {move.source}) | {move.target}, (free - {move.target}) | {move.source}
    span = range(batch.first, batch.first + batch.count)
    assert (min(taken), max(taken)) == (span[0], span[-1])
    assert not free & set(span)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (decoding(3, draft=4), DraftCheck(tokens=4)),
        (decoding(3, draft=4, held=509), DraftCheck(tokens=2)),  # the slot's end
        (decoding(3, draft=4, held=511), DraftCheck(tokens=0)),
        (decoding(3), DecodeBatch(first=3, count=1, moves=[])),
        (replace(decoding(3, draft=4), all_logits=False), DecodeBatch(first=3, count=1, moves=[])),
        (decoding(3, 4, draft=4), DecodeBatch(first=3, count=2, moves=[])),
    ],
)
def test_a_draft_is_verified_where_one_row_decodes(state: State, expected: DecodeBatch | DraftCheck) -> None:
    assert decode_batch(state) == expected
