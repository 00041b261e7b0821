"""Who is in memory: the rules, by a clock that the tests turn themselves."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pumice.serve.residence import TURN_S, Move, Residence, next_move

LOADING_S = 10.0


def there(**fields: Any) -> Residence:
    return Residence(**{"needed": 1, "status": "loaded", "load_s": LOADING_S, **fields})


def gone(*waiting: int, **fields: Any) -> Residence:
    return Residence(**{"needed": 1, "waiting": dict.fromkeys(waiting), **fields})


def moved(move: Move) -> tuple[Residence | None, Residence | None]:
    return move.load, move.unload


def test_whoever_waits_for_longest_is_next() -> None:
    models = [gone(7), gone(), gone(3, 9), gone(4)]
    assert moved(next_move(models, 3, 0.0)) == (models[2], None)
    assert moved(next_move([gone(), gone()], 3, 0.0)) == (None, None)


def test_the_one_unused_for_longest_goes_first() -> None:
    models = [there(last_used=2.0), there(last_used=1.0), there(last_used=0.0, leases=1), gone(1)]
    move = next_move(models, 3, 100.0)
    assert moved(move) == (None, models[1])
    models[1].status = "unloaded"
    assert moved(next_move(models, 3, 100.0)) == (models[3], None)


def test_no_more_go_than_there_has_to_be_room() -> None:
    models = [there(needed=5, last_used=1.0), there(needed=2, last_used=2.0), gone(1, needed=4)]
    move = next_move(models, 9, 100.0)
    assert moved(move) == (None, models[0])
    models[0].status = "unloaded"
    assert moved(next_move(models, 9, 100.0)) == (models[2], None)


def test_one_at_work_is_never_unloaded_but_takes_nothing_new() -> None:
    busy = there(leases=2)
    models = [busy, gone(1)]
    move = next_move(models, 1, 100.0)
    assert moved(move) == (None, None)
    assert list(move.called) == [busy]
    assert move.until == math.inf
    busy.waiting[5] = None  # who came later waits
    busy.leases, busy.last_used = 0, 100.0
    assert moved(next_move(models, 1, 111.0)) == (None, busy)
    busy.status = "unloaded"
    assert moved(next_move(models, 1, 111.0)) == (models[1], None)


def test_idle_ones_go_before_busy_ones() -> None:
    models = [there(leases=1, loaded_at=0.0), there(loaded_at=50.0, last_used=60.0), gone(1)]
    move = next_move(models, 2, 100.0)
    assert moved(move) == (None, models[1])
    assert list(move.called) == [models[1]]


def test_one_whose_turn_is_not_over_is_waited_for() -> None:
    """Rather than that one goes which was used later."""
    models = [there(loaded_at=0.0, last_used=101.0), there(loaded_at=100.0, last_used=100.5), gone(1)]
    move = next_move(models, 2, 101.0)
    assert (moved(move), list(move.called), move.until) == ((None, None), [], 101.5)
    assert next_move(models, 2, 101.5).unload is models[1]


@pytest.mark.parametrize(
    ("leases", "last_used", "until"),
    [
        (1, 100.0, 110.0),  # at work: the whole turn
        (0, 104.0, 105.0),  # idle: for a moment
        (0, 109.5, 110.0),  # no longer than its turn
    ],
)
def test_a_turn_lasts_as_long_as_loading_took(leases: int, last_used: float, until: float) -> None:
    model = there(loaded_at=100.0, leases=leases, last_used=last_used)
    models = [model, gone(1)]
    move = next_move(models, 1, until - 0.1)
    assert (moved(move), list(move.called), move.until) == ((None, None), [], until)
    move = next_move(models, 1, until)
    assert list(move.called) == [model]
    assert move.unload is (None if leases else model)


def test_idle_models_go_when_their_time_has_come() -> None:
    models = [
        there(last_used=5.0, keep=10.0),
        there(last_used=6.0, keep=3.0),
        there(keep=0.0, leases=1),
        there(),
    ]
    assert next_move(models, 9, 8.0).until == 9.0
    move = next_move(models, 9, 9.0)
    assert (moved(move), move.sleeps) == ((None, models[1]), True)
    assert next_move(models, 9, 20.0).unload is models[0]
    models[0].status = models[1].status = "sleeping"
    assert next_move(models, 9, 20.0).until == math.inf


def test_a_dismissed_one_goes_once_it_has_answered() -> None:
    model = there(leases=1, dismissed=True, loaded_at=100.0)
    move = next_move([model], 1, 100.0)
    assert (moved(move), list(move.called)) == ((None, None), [model])
    model.leases, model.waiting = 0, {4: None}
    move = next_move([model], 1, 100.0)
    assert (move.unload, move.sleeps) == (model, False)


@dataclass(eq=False)
class World:
    """Clients that ask one model again and again, and a server by these rules; time is a number."""

    budget: int
    models: dict[str, Residence]
    clients: dict[int, deque[tuple[str, float]]]
    now: float = 0.0
    numbers: Any = field(default_factory=itertools.count)
    events: list[tuple[float, int, Any]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    loads: int = 0
    loading_s: float = 0.0
    busy: bool = False
    since: dict[int, float] = field(default_factory=dict)
    asked: dict[int, tuple[int, str, float]] = field(default_factory=dict)

    def run(self) -> None:
        for client in self.clients:
            self.ask(client)
        self.look()
        while self.events:
            self.now, _, event = heapq.heappop(self.events)
            event()
            self.look()
        assert not any(self.clients.values())

    def at(self, time: float, event: Any) -> None:
        heapq.heappush(self.events, (time, next(self.numbers), event))

    def ask(self, client: int) -> None:
        if not self.clients[client]:
            return
        name, takes = self.clients[client].popleft()
        number, model = next(self.numbers), self.models[name]
        self.since[number], self.asked[number] = self.now, (client, name, takes)
        if model.status == "loaded" and not model.called:
            self.answer(number)
        else:
            model.waiting[number] = None

    def answer(self, number: int) -> None:
        client, name, takes = self.asked.pop(number)
        self.waits.append(self.now - self.since.pop(number))
        self.models[name].leases += 1

        def answered() -> None:
            self.models[name].leases -= 1
            self.models[name].last_used = self.now
            self.ask(client)

        self.at(self.now + takes, answered)

    def look(self) -> None:
        """One move at a time, as the server makes them."""
        if self.busy:
            return
        move = next_move(list(self.models.values()), self.budget, self.now)
        for model in self.models.values():
            model.called = model in move.called
            if model.status == "loaded" and not model.called and model is not move.unload:
                self.let_in(model)
        if move.unload is not None:
            assert not move.unload.leases
            move.unload.status = "unloaded"
            self.look()
        elif move.load is not None:
            self.load(move.load)
        elif move.until < math.inf:
            self.at(max(move.until, self.now), lambda: None)

    def load(self, model: Residence) -> None:
        held = [each.needed for each in self.models.values() if each.status == "loaded"]
        assert sum(held) + model.needed <= self.budget
        model.status, self.busy, began = "loading", True, self.now

        def loaded() -> None:
            model.status, self.busy = "loaded", False
            model.loaded_at = model.last_used = self.now
            model.load_s = self.now - began
            self.loads, self.loading_s = self.loads + 1, self.loading_s + model.load_s
            self.let_in(model)

        self.at(self.now + LOADING_S, loaded)

    def let_in(self, model: Residence) -> None:
        waiting, model.waiting = list(model.waiting), {}
        for number in waiting:
            self.answer(number)


def world(budget: int, asked: Iterable[Iterable[str]], takes: Any) -> World:
    clients = {i: deque((name, takes()) for name in names) for i, names in enumerate(asked)}
    models = {name: Residence(needed=1) for name in "ABC"}
    made = World(budget, models, clients)
    made.run()
    return made


def test_requests_that_come_together_are_batched_by_model() -> None:
    done = world(1, ["ABC"[i % 3] for i in range(50)], lambda: 1.0)
    assert (done.loads, len(done.waits)) == (3, 50)


def test_clients_that_ask_in_turn_do_not_have_models_reloaded_for_each_request() -> None:
    """Three clients, each with a model of its own, one question after another: a storm would load 300 times."""
    done = world(1, ["A" * 100, "B" * 100, "C" * 100], lambda: 1.0)
    assert len(done.waits) == 300
    assert done.loads <= 3 * 11  # of a hundred seconds' answers ten fit into a turn
    assert done.loading_s < 0.55 * done.now


@pytest.mark.parametrize("seed", range(20))
def test_nobody_starves(seed: int) -> None:
    """However requests come, whoever waits is let in after the turns of the others, and within the budget."""
    chance = random.Random(seed)
    budget = chance.choice([1, 2])
    asked = ["".join(chance.choices("ABC", (6, 3, 1), k=60)) for _ in range(chance.randint(1, 8))]
    longest = 5.0
    done = world(budget, asked, lambda: chance.uniform(0.1, longest))
    assert len(done.waits) == 60 * len(asked)
    swap = LOADING_S + max(LOADING_S, TURN_S) + longest
    assert max(done.waits) <= 3 * swap
