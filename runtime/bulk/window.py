"""Requests through an engine, a bounded number at a time, and their records in the order of the inputs.

    inputs ─▶ submitted, at most `in_flight` ─▶ done, waiting for an earlier one ─▶ records
              └────────────────── at most `ahead` together ───────────────────┘

So memory does not grow with the number of inputs, and one long answer does not leave the engine idle until `ahead`
others have overtaken it.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from pumice.bulk.item import BatchItem, Defaults, make_item, record_id
from pumice.bulk.record import Record, answered, failed
from pumice.errors import EngineClosedError, PumiceError, QueueFullError, UsageError

if TYPE_CHECKING:
    from pumice.model import Model

AHEAD = 1024
"""Records that may wait for one before them."""

_RETRY_SECONDS = 0.05
"""How soon to ask again when others have filled the engine's queue."""


_CLOSED = "the engine was closed before all records were answered"


class Submitter(Protocol):
    """What is needed of `pumice.Engine`."""

    @property
    def submit(self) -> Callable[..., Future[Any]]:
        """Take a request; raises `QueueFullError`, `EngineClosedError`, or what is wrong with the request."""
        ...


def run_batch(
    engine: Submitter | Model,
    records: Iterable[Mapping[str, Any]],
    *,
    prompt: str | None = None,
    raw: bool = False,
    folder: str | Path | None = None,
    slots: int = 8,
    in_flight: int | None = None,
    **options: Any,
) -> Iterator[Record]:
    """Answer records, in their order; bad ones give records with an `error`, and the run goes on.

    Args:
        engine: an engine, which stays open; or a model, for which an engine of `slots` slots is made and closed.
        records: mappings as in a JSONL input: `id`, `prompt` or `messages`, `image` or `images`, options of
            `generate`. They are read as they are needed. A record without id has its index as one.
        prompt: the prompt of records without one.
        raw: take prompts as they stand.
        folder: where relative paths of images begin; by default the working directory.
        slots: answers at a time, if `engine` is a model.
        in_flight: requests in the engine at most, 1 …; by default twice `slots`.
        options: options of `generate` for all records; a record's own come first. Each record draws with a seed made of
            `seed` and its id.

    Raises:
        EngineClosedError: the engine was closed meanwhile, or has failed.
        UsageError: `in_flight` outside its interval.
    """
    if in_flight is not None and in_flight < 1:
        raise UsageError(f"in_flight is {in_flight}, expected 1 or more")
    defaults = Defaults(
        prompt=prompt, raw=raw, options=options, folder=None if folder is None else Path(folder)
    )
    items = (_item(index, fields, defaults) for index, fields in enumerate(records))
    return _run(engine, items, slots, 2 * slots if in_flight is None else in_flight)


def _run(
    engine: Submitter | Model, items: Iterator[BatchItem | Record], slots: int, in_flight: int
) -> Iterator[Record]:
    from pumice.engine import Engine
    from pumice.model import Model

    with contextlib.ExitStack() as stack:
        if isinstance(engine, Model):
            engine = stack.enter_context(Engine(engine, slots=slots))
        yield from answer_all(engine, items, in_flight=in_flight)


def _item(index: int, fields: Mapping[str, Any], defaults: Defaults) -> BatchItem | Record:
    identity = str(index)
    try:
        if not isinstance(fields, Mapping):
            raise UsageError(f"the record is a {type(fields).__name__}, expected a mapping of fields")
        identity = record_id(fields, identity)
        return make_item(index, identity, fields, defaults)
    except PumiceError as error:
        return failed(index, identity, error)


@dataclass(kw_only=True)
class _Place:
    """An input's place in the order: `record`, once it has ended."""

    index: int
    id: str
    where: str | None = None
    submitted: float = 0.0
    record: Record | None = None


def answer_all(
    engine: Submitter, items: Iterable[BatchItem | Record], *, in_flight: int, ahead: int = AHEAD
) -> Iterator[Record]:
    """The records of requests, in order; records among them are passed on. What is under way is cancelled if this is
    closed. Raises as `run_batch`."""
    window = _Window(engine, items, in_flight=in_flight, ahead=max(ahead, in_flight))
    try:
        while (place := window.first()) is not None:
            if place.record is None:
                window.wait()
            else:
                yield window.pop(place.record)
    finally:
        window.cancel()


class _Window:
    """Inputs that were begun and are not given out yet."""

    def __init__(
        self, engine: Submitter, items: Iterable[BatchItem | Record], *, in_flight: int, ahead: int
    ) -> None:
        self._engine, self._items = engine, iter(items)
        self._in_flight, self._ahead = in_flight, ahead
        self._line: deque[_Place] = deque()
        self._flying: dict[Future[Any], _Place] = {}
        self._landed: SimpleQueue[tuple[Future[Any], float]] = SimpleQueue()
        self._next: BatchItem | Record | None = None
        """Read from the inputs, and not begun."""

    def first(self) -> _Place | None:
        """The earliest place, after beginning as many as may be; None once there are no more."""
        self._fill()
        while not self._line and self._next is not None:  # others have filled the engine's queue
            self.wait()
            self._fill()
        return self._line[0] if self._line else None

    def pop(self, record: Record) -> Record:
        """Give out the earliest."""
        self._line.popleft()
        return record

    def wait(self) -> None:
        """Wait until a request has ended, or may be submitted again."""
        refused = (
            self._next is not None and len(self._flying) < self._in_flight and len(self._line) < self._ahead
        )
        with contextlib.suppress(Empty):
            self._land(*self._landed.get(timeout=_RETRY_SECONDS if refused else None))

    def cancel(self) -> None:
        """End what is under way."""
        for future in list(self._flying):
            future.cancel()

    def _fill(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._land(*self._landed.get_nowait())
        while len(self._flying) < self._in_flight and len(self._line) < self._ahead:
            if self._next is None:
                self._next = next(self._items, None)
            if self._next is None or not self._begin(self._next):
                return
            self._next = None

    def _begin(self, item: BatchItem | Record) -> bool:
        """Give an input its place; False if the engine has no room now."""
        place = _Place(index=item.index, id=item.id, submitted=time.perf_counter())
        if isinstance(item, Record):
            place.record = item
        else:
            place.where = item.where
            try:
                future = self._engine.submit(item.prompt, item.images, raw=item.raw, **item.options)
            except QueueFullError:
                return False
            except EngineClosedError:
                raise
            except Exception as error:  # whatever an input can cause is the record's
                place.record = failed(item.index, item.id, error, item.where)
            else:
                self._flying[future] = place
                future.add_done_callback(lambda done: self._landed.put((done, time.perf_counter())))
        self._line.append(place)
        return True

    def _land(self, future: Future[Any], ended: float) -> None:
        place = self._flying.pop(future)
        try:
            result = future.result()
        except CancelledError:
            raise EngineClosedError(_CLOSED) from None
        except EngineClosedError:
            raise
        except Exception as error:
            place.record = failed(place.index, place.id, error, place.where)
            return
        place.record = answered(place.index, place.id, result, seconds=ended - place.submitted)
        if (
            place.record.finish_reason == "cancelled"
        ):  # by whoever closed the engine: no answer of the model's
            raise EngineClosedError(_CLOSED)
