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
    decodes_behind,
    due,
    fitting,
    part_ends,
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
    found = prefill_chunk(replace(state, prompts=[Prompt(tokens=tokens, held=held, due=tokens)]))
    assert found == PrefillChunk(prompt=0, start=start, stop=stop, ends=ends)


@pytest.mark.parametrize(("prompts", "tokens"), [(1, 32), (2, 64), (3, 64), (8, 64)])
def test_more_is_read_between_two_tokens_where_several_prompts_wait(prompts: int, tokens: int) -> None:
    state = replace(decoding(9), prompts=[Prompt(tokens=300, held=0, due=i) for i in range(prompts)])
    assert prefill_chunk(state) == PrefillChunk(prompt=0, start=0, stop=tokens, ends=False)


def test_equal_prompts_are_read_one_after_another() -> None:
    assert order([(0, 200), (0, 200), (0, 200)]) == [0, 0, 1, 1, 2, 2]


def test_a_short_prompt_passes_long_ones_until_they_are_due() -> None:
    """The first is due at 2,000. Behind its first chunk, at 128, come those due at 2,128 and at 528; the others come at
    600 and 986, and are due at 1,120 and at 2,186."""
    arrivals = [(0, 500), (1, 500), (1, 100), (500, 130), (900, 300)]
    assert order(arrivals) == [0, 2, 0, 0, 0, 3, 3, 1, 1, 1, 1, 4, 4, 4]


def test_a_book_is_read_in_parts() -> None:
    """Those who come while its first part is read are due before its second."""
    assert order([(0, 2048), (100, 1024), (100, 1024)]) == [0] * 8 + [1] * 8 + [2] * 8 + [0] * 8
    assert due(70, 5000) == due(70, 1024) == 70 + 4 * 1024
    assert part_ends(PrefillChunk(prompt=0, start=896, stop=1024, ends=False))
    assert not part_ends(PrefillChunk(prompt=0, start=896, stop=1022, ends=False))
    assert not part_ends(PrefillChunk(prompt=0, start=896, stop=1024, ends=True))


@given(st.lists(st.tuples(st.integers(0, 6000), st.integers(3, 1000)), min_size=1, max_size=8))
def test_no_prompt_waits_long_for_later_ones(arrivals: list[tuple[int, int]]) -> None:
    """For four times its own tokens, and the chunk of 128 that reaches them."""
    arrivals = sorted(arrivals)
    found = order(arrivals)
    sizes = [tokens for _, tokens in arrivals]
    assert set(found) == set(range(len(sizes)))
    for i, tokens in enumerate(sizes):
        last = len(found) - 1 - found[::-1].index(i)
        later = {n for n in found[:last] if n > i}
        assert sum(min(sizes[n], 128 * found[:last].count(n)) for n in later) <= 4 * tokens + 128


def order(arrivals: Sequence[tuple[int, int]]) -> list[int]:
    """Which prompt each chunk was of: one comes once so many tokens were prefilled, and has so many of its own."""
    coming, prompts, found, prefilled = list(enumerate(arrivals)), {}, [], 0
    while coming or prompts:
        while coming and (coming[0][1][0] <= prefilled or not prompts):
            number, (_, tokens) = coming.pop(0)
            prompts[number] = Prompt(tokens=tokens, held=0, due=due(prefilled, tokens))
        chunk = prefill_chunk(replace(IDLE, prompts=list(prompts.values())))
        assert chunk is not None
        number = list(prompts)[chunk.prompt]
        prompt = prompts[number]
        assert chunk.start == prompt.held < chunk.stop
        assert chunk.ends == (chunk.stop == prompt.tokens)
        found.append(number)
        prefilled += chunk.stop - chunk.start
        again = due(prefilled, prompt.tokens - chunk.stop) if part_ends(chunk) else prompt.due
        prompts[number] = replace(prompt, held=chunk.stop, due=again)
        if chunk.ends:
            del prompts[number]
    return found


@pytest.mark.parametrize(
    ("ends", "waited", "expected"),
    [(False, 32, True), (True, 32, False), (True, 126, False), (True, 128, True), (True, 200, True)],
)
def test_a_first_token_waits_for_no_other_until_those_have_waited_long(
    ends: bool, waited: int, expected: bool
) -> None:
    assert decodes_behind(PrefillChunk(prompt=0, start=0, stop=32, ends=ends), waited, 128) == expected
    assert decodes_behind(None, waited, 128)


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
