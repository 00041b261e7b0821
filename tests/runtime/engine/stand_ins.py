"""A scheduler and a preparation that do what a test says, so that what threads do to each other shows in no time.

The prompt of a request is an `Ask`: how many tokens the answer has, and where the request is held up or fails.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from pumice.errors import UsageError
from pumice.result import Generated
from pumice.scheduler.request import Clock, Request, RequestState
from pumice.sessions.runs import Cancellation, RunCancelledError

PATIENCE = 300.0
"""Seconds after which a test gives up; nothing takes nearly as long, however busy the machine is."""


def eventually(condition: Callable[[], object]) -> None:
    """Wait for what other threads do."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.0005)


@dataclass(eq=False)
class Gate:
    """Where a thread is held up: `reached` says that it is, `open` lets it go on."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def open(self) -> None:
        self.opened.set()

    def pass_through(self, cancellation: Cancellation | None = None) -> None:
        self.reached.set()
        end = time.monotonic() + PATIENCE
        while not self.opened.wait(0.001):
            assert time.monotonic() < end
            if cancellation is not None and cancellation.is_set:
                raise RunCancelledError


@dataclass(eq=False)
class Ask:
    """What a request is to do. `endless` answers end by being cancelled only."""

    tokens: int = 3
    rows: int = 1
    endless: bool = False
    preparing: Gate | None = None
    encoding: Gate | None = None
    prefill: Gate | None = None
    prepare_error: BaseException | None = None
    text_error: BaseException | None = None
    step_error: BaseException | None = None


class Words:
    """A strategy whose tokens are words `w0 w1 …`; no logits are looked at."""

    def __init__(self, ask: Ask) -> None:
        self.ask, self.said, self.shown = ask, 0, 0

    @property
    def rows(self) -> int:
        return self.ask.rows

    def advance(self, logits_RV: Any) -> list[Any]:
        self.said += 1
        return [] if self.said == self.ask.tokens and not self.ask.endless else [None] * self.rows

    def take_text(self) -> str:
        if self.ask.text_error is not None and self.said:
            raise self.ask.text_error
        text = "" if self.rows > 1 else "".join(f"w{i} " for i in range(self.shown, self.said))
        self.shown = self.said
        return text

    def finish(self, *, cancelled: bool = False) -> list[Generated]:
        text = "".join(f"w{i} " for i in range(self.said))
        reason = "cancelled" if cancelled else "stop"
        return [
            Generated(text=text, token_ids=list(range(self.said)), finish_reason=reason)
            for _ in range(self.rows)
        ]


class HeldFeatures:
    """Images whose encoding is held up."""

    def __init__(self, gate: Gate | None) -> None:
        self.gate = gate

    def encode(self, cancellation: Cancellation) -> None:
        if self.gate is not None:
            self.gate.pass_through(cancellation)


class FakeScheduler:
    """Slots, first come first served; a token of every row in each step."""

    def __init__(self, slots: int) -> None:
        self.slots, self.free_slots = slots, slots
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.order: list[Request] = []
        self.threads: set[str] = set()
        self.steps = 0

    def add(self, request: Request) -> None:
        self._here()
        self.waiting.append(request)

    def cancel(self, request: Request) -> None:
        self._here()
        request.cancellation.set()
        self._drop(request)

    def step(self) -> bool:
        self._here()
        self.steps += 1
        for request in [*self.waiting, *self.running]:
            if request.cancellation.is_set:
                self._drop(request)
        while self.waiting and self.waiting[0].strategy.rows <= self.free_slots:
            request = self.waiting.popleft()
            request.slots = list(range(request.strategy.rows))
            self.free_slots -= len(request.slots)
            request.state = RequestState.PREFILL
            self.running.append(request)
            self.order.append(request)
        for request in list(self.running):
            self._advance(request)
        return bool(self.waiting or self.running)

    def _advance(self, request: Request) -> None:
        ask = request.strategy.ask  # type: ignore[attr-defined]
        if request.state is RequestState.PREFILL and ask.prefill is not None:
            try:
                ask.prefill.pass_through(request.cancellation)
            except RunCancelledError:
                self._drop(request)
                return
        if ask.step_error is not None:
            raise ask.step_error
        request.state = RequestState.DECODE
        if not request.advance([None] * request.strategy.rows):  # type: ignore[list-item]
            self._end(request, RequestState.FINISHED)

    def _drop(self, request: Request) -> None:
        if not request.done:
            self._end(request, RequestState.CANCELLED)

    def _end(self, request: Request, state: RequestState) -> None:
        request.state = state
        if request in self.waiting:
            self.waiting.remove(request)
        if request in self.running:
            self.running.remove(request)
        self.free_slots += len(request.slots)
        request.slots = []

    def _here(self) -> None:
        self.threads.add(threading.current_thread().name)


class FakePipeline:
    """Makes requests of `Ask`s; `asked` are those that were prepared, `questions` what came with them."""

    def __init__(self, slots: int) -> None:
        self.schedule = FakeScheduler(slots)
        self.decoder = SimpleNamespace(new_cache=lambda context, slots: None)
        self.asked: list[Ask] = []
        self.answered_options: list[Any] = []

    def slot_context(self, slots: int) -> int:
        return 64

    def scheduler(self, cache: Any) -> FakeScheduler:
        return self.schedule

    def options(self, arguments: Mapping[str, Any]) -> Any:
        if not set(arguments) <= {"num_beams", "num_return_sequences", "seed"}:
            raise UsageError(f"unknown options {sorted(arguments)}")
        return SimpleNamespace(**{"num_beams": 1, "num_return_sequences": 1, **arguments})

    def request(self, prompt: Any, images: Any, options: Any, *, started: float, **_: Any) -> Request:
        ask = prompt[0]["ask"] if isinstance(prompt, list) else prompt
        self.asked.append(ask)
        if ask.preparing is not None:
            ask.preparing.pass_through()
        if ask.prepare_error is not None:
            raise ask.prepare_error
        return Request(
            [1, 2, 3],
            [1, 2, 3],
            HeldFeatures(ask.encoding),  # type: ignore[arg-type]
            Words(ask),  # type: ignore[arg-type]
            Clock(started=started),
            max_new_tokens=ask.tokens,
        )

    def model(self) -> Any:
        """What an `Engine` is made of."""
        return SimpleNamespace(context_length=64, pipeline=self)
