import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pumice.bulk import Record, run_batch
from pumice.bulk.item import BatchItem
from pumice.bulk.record import failed
from pumice.bulk.window import answer_all
from pumice.errors import EngineClosedError, UsageError
from tests.runtime.bulk.engine import FakeEngine, generation

PATIENCE = 300.0
"""Seconds after which a test gives up."""


def requests(number: int) -> Iterator[BatchItem]:
    for i in range(number):
        yield BatchItem(index=i, id=str(i), prompt=f"prompt {i}", images=(), raw=False, options={})


def uneven(prompt: str) -> float:
    return (hash(prompt) % 5) / 2000


def test_records_come_in_the_order_of_their_inputs() -> None:
    records = list(answer_all(FakeEngine(pace=uneven), requests(300), in_flight=8))
    assert [record.index for record in records] == list(range(300))
    assert len({record.text for record in records}) == 300
    assert all(record.error is None for record in records)


def held_until(most: int) -> FakeEngine:
    """An engine that answers nothing before so many are in flight at once."""

    def pace(prompt: str) -> float:
        end = time.monotonic() + PATIENCE
        while engine.most < most:
            assert time.monotonic() < end, f"there were never {most} in flight"
            time.sleep(0.001)
        return uneven(prompt)

    engine = FakeEngine(pace=pace)
    return engine


def test_no_more_are_in_flight_than_may() -> None:
    engine = held_until(6)
    list(answer_all(engine, requests(100), in_flight=6))
    assert engine.most == 6


def test_one_slow_record_holds_up_only_so_many() -> None:
    read = 0

    def counted() -> Iterator[BatchItem]:
        nonlocal read
        for item in requests(1000):
            read += 1
            yield item

    gate = threading.Event()
    engine = FakeEngine(pace=lambda prompt: 0.0 if prompt != "prompt 0" or gate.wait(PATIENCE) else 1.0)
    records = answer_all(engine, counted(), in_flight=4, ahead=50)
    first: list[Record] = []
    reader = threading.Thread(target=lambda: first.append(next(records)))
    reader.start()
    while read < 50:
        time.sleep(0.001)
    time.sleep(0.05)
    assert read == 50  # others overtake it, but not without end
    gate.set()
    reader.join()
    assert [record.index for record in itertools.chain(first, records)] == list(range(1000))


def test_a_full_queue_is_waited_for() -> None:
    engine = held_until(3)
    engine._max_queue = 3
    records = list(answer_all(engine, requests(50), in_flight=16))
    assert [record.index for record in records] == list(range(50))
    assert engine.most == 3


def test_a_queue_that_others_have_filled_is_asked_again() -> None:
    engine = FakeEngine(max_queue=1, pace=lambda prompt: 0.2 if prompt == "theirs" else 0.0)
    engine.submit("theirs")
    assert len(list(answer_all(engine, requests(3), in_flight=2))) == 3


def test_a_failing_record_hurts_no_other() -> None:
    def prompts() -> Iterator[Any]:
        yield {"prompt": "a"}
        yield {"prompt": "a", "max_new_tokens": 0}  # refused by submit
        yield {"prompt": "a", "images": ["https://example.org/a.png"]}  # fails in the engine
        yield {"prompt": 3}
        yield ["no mapping"]
        yield {"prompt": "a", "frobnicate": 1}
        yield {"prompt": "b", "id": "named"}

    records = list(run_batch(FakeEngine(), prompts()))
    assert [record.index for record in records] == list(range(7))
    assert [record.error and record.error.type for record in records] == [
        *(None, "UsageError", "ImageError", "UsageError", "UsageError", "UsageError", None)
    ]
    assert records[2].error is not None
    assert "remote images are not fetched" in records[2].error.message
    assert records[6].id == "named"


def test_whatever_an_engine_raises_is_told_with_its_type() -> None:
    class Broken(FakeEngine):
        def submit(self, prompt: Any, images: Any = None, **options: Any) -> Future[Any]:
            raise TypeError("unexpected\nkeyword")

    (record,) = run_batch(Broken(), [{"prompt": "a"}])
    assert record.error is not None
    assert (record.error.type, record.error.message) == ("TypeError", r"TypeError: unexpected\nkeyword")


@pytest.mark.parametrize("how", ["refused", "cancelled", "cut short"])
def test_a_closed_engine_ends_the_run_without_a_record(how: str) -> None:
    class Closed(FakeEngine):
        def submit(self, prompt: Any, images: Any = None, **options: Any) -> Future[Any]:
            if prompt != "prompt 2":
                return super().submit(prompt, images, **options)
            if how == "refused":
                raise EngineClosedError("closed")
            future: Future[Any] = Future()
            if how == "cancelled":
                future.cancel()
                future.set_running_or_notify_cancel()
            else:
                future.set_result(_cancelled())
            return future

    records: list[Record] = []
    with pytest.raises(EngineClosedError):
        records.extend(answer_all(Closed(), requests(10), in_flight=1))
    assert len(records) <= 2


def _cancelled() -> Any:
    import dataclasses

    return dataclasses.replace(generation("half"), finish_reason="cancelled")


def test_what_is_under_way_is_cancelled_when_nobody_wants_it() -> None:
    gate = threading.Event()
    engine = FakeEngine(
        workers=1, pace=lambda prompt: 0.0 if prompt == "prompt 0" or gate.wait(PATIENCE) else 1.0
    )
    records = answer_all(engine, requests(100), in_flight=10)
    next(records)
    records.close()  # type: ignore[attr-defined]
    gate.set()
    engine.close()
    assert engine.begun <= 2 < engine.submitted


def test_records_among_the_requests_are_passed_on() -> None:
    items = [
        *requests(1),
        failed(1, "x", UsageError("no")),
        BatchItem(index=2, id="2", prompt="c", images=(), raw=False, options={}),
    ]
    records = list(answer_all(FakeEngine(), items, in_flight=1))
    assert [record.error is None for record in records] == [True, False, True]


def test_several_answers_of_a_record() -> None:
    (record,) = run_batch(FakeEngine(), [{"prompt": "a"}], num_return_sequences=3)
    assert record.answers is not None
    assert [answer.text[-1] for answer in record.answers] == ["0", "1", "2"]
    assert (record.text, record.completion_tokens) == (record.answers[0].text, 6)


def test_relative_paths_begin_at_the_folder(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    inside, outside = run_batch(
        FakeEngine(), [{"image": "a.png"}, {"image": tmp_path / "a.png"}], prompt="?", folder=tmp_path
    )
    assert inside.text == outside.text is not None


def test_sampling_is_by_id_and_not_by_place() -> None:
    def seeds(records: list[dict[str, Any]], **options: Any) -> list[Any]:
        class Listening(FakeEngine):
            seen: list[Any] = []  # noqa: RUF012

            def submit(self, prompt: Any, images: Any = None, **given: Any) -> Future[Any]:
                self.seen.append(given.get("seed"))
                return super().submit(prompt, images, **given)

        engine = Listening()
        engine.seen = []
        list(run_batch(engine, records, prompt="?", **options))
        return engine.seen

    a, b = {"id": "a"}, {"id": "b"}
    one, two = seeds([a, b], seed=7)
    assert one != two
    assert seeds([b, a], seed=7) == [two, one]
    assert seeds([a, b], seed=8) != [one, two]
    assert seeds([a, {"id": "b", "seed": 3}], seed=7) == [one, 3]
    assert seeds([a, b]) == [None, None]


def test_a_record_of_its_own_constraint() -> None:
    asked: list[dict[str, Any]] = []

    class Listening(FakeEngine):
        def submit(self, prompt: Any, images: Any = None, **given: Any) -> Future[Any]:
            asked.append(given)
            return super().submit(prompt, images, **given)

    records = [{"regex": "a+"}, {}, {"json_schema": None}]
    list(run_batch(Listening(), records, prompt="?", json_schema="{}"))
    assert [{**given, "raw": None} for given in asked] == [
        {"raw": None, "regex": "a+"},
        {"raw": None, "json_schema": "{}"},
        {"raw": None},
    ]


def test_in_flight_has_an_interval() -> None:
    with pytest.raises(UsageError, match="in_flight is 0, expected 1 or more"):
        run_batch(FakeEngine(), [], in_flight=0)
