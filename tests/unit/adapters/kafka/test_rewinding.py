"""Going back to a record: at once, after a pause, from another thread, and never elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

import hopspan
from hopspan.adapters.kafka.consumer import ConsumerState
from hopspan.model import Verdict
from tests.unit.adapters.kafka.conftest import (
    ORDERS,
    OTHERS,
    Clock,
    Consumer,
    Handle,
    polled,
    record,
)
from tests.unit.support import in_thread

BAD = ValueError("bad")


def again(pause: float = 0.0) -> Any:
    """Hand out again on failure, for ever."""
    return hopspan.requeue_times(100, then=Verdict.LEAVE, pause=pause)


MOVES = ("seek", "pause", "resume")


def test_a_requeued_record_is_sought_at_once(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    handling(first, policy=again()).conclude(BAD)
    assert consumer.asked(*MOVES) == [("seek", ORDERS, 10)]
    consumer.poll()
    assert consumer.asked(*MOVES) == [("seek", ORDERS, 10)]


def test_a_requeued_record_has_one_more_attempt(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    for attempt in (1, 2, 3):
        (first,) = polled(consumer, record(10))
        processing = handling(first, policy=again())
        assert processing.delivery.attempt == attempt
        assert processing.delivery.redelivered is (attempt > 1)
        processing.conclude(BAD)


def test_of_a_batch_the_lowest_is_sought(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    batch = polled(consumer, record(10), record(11), record(12))
    handling(*batch, policy=again()).conclude(BAD)
    assert consumer.asked("seek")[-1] == ("seek", ORDERS, 10)


def test_another_thread_leaves_seeking_to_the_consumers(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    one, two, three = polled(consumer, record(10), record(11), record(20, partition=1))
    for each in (two, one, three):
        in_thread(lambda each=each: handling(each, policy=again()).conclude(BAD))
    assert consumer.asked(*MOVES) == []
    consumer.poll()
    assert sorted(consumer.asked(*MOVES)) == [("seek", ORDERS, 10), ("seek", OTHERS, 20)]


def test_a_record_that_comes_again_anyway_is_not_sought(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    """The consumer went back further than to it already."""
    first, second = polled(consumer, record(10), record(11))
    handling(first, policy=again()).conclude(BAD)
    handling(second, policy=again()).conclude(BAD)
    assert consumer.asked("seek") == [("seek", ORDERS, 10)]


def test_where_the_application_went_nobody_goes_back(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    in_thread(lambda: handling(first, policy=again()).conclude(BAD))
    consumer.seek(ORDERS, 50)
    consumer.poll()
    assert consumer.asked("seek") == [("seek", ORDERS, 50)]


# -- pausing ---------------------------------------------------------------------------------------


def test_a_pause_stops_the_partition_until_it_is_over(
    consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    handling(first, policy=again(0.5)).conclude(BAD)
    assert consumer.asked(*MOVES) == [("seek", ORDERS, 10), ("pause", ORDERS)]
    clock.now += 0.499
    consumer.poll()
    assert consumer.stopped == {ORDERS}
    clock.now += 0.001
    consumer.poll()
    assert consumer.asked(*MOVES)[2:] == [("resume", ORDERS)]
    clock.now += 10
    consumer.poll()
    assert consumer.asked(*MOVES)[3:] == []


def test_a_blocking_poll_ends_with_the_pause(
    consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle, monkeypatch: Any
) -> None:
    original = Consumer.poll

    def poll(self: Consumer, timeout_ms: Any = 0, *args: Any, **kwargs: Any) -> Any:
        clock.now += timeout_ms / 1000
        return original(self, timeout_ms, *args, **kwargs)

    monkeypatch.setattr(Consumer, "poll", poll)
    (first,) = polled(consumer, record(10))
    handling(first, policy=again(0.5)).conclude(BAD)
    consumer.poll(2_000)
    assert consumer.asked("poll", "resume")[1:] == [
        ("poll", pytest.approx(500), None, True),
        ("resume", ORDERS),
        ("poll", pytest.approx(1_500), None, True),
    ]


def test_the_longest_pause_counts(
    consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle
) -> None:
    first, second = polled(consumer, record(10), record(11))
    in_thread(lambda: handling(first, policy=again(2.0)).conclude(BAD))
    in_thread(lambda: handling(second, policy=again(1.0)).conclude(BAD))
    consumer.poll()
    clock.now += 1.5
    consumer.poll()
    assert consumer.stopped == {ORDERS}
    clock.now += 0.5
    consumer.poll()
    assert consumer.stopped == set()


def test_a_later_pause_makes_it_longer(
    consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle
) -> None:
    first, second = polled(consumer, record(10), record(11))
    handling(second, policy=again(1.0)).conclude(BAD)
    clock.now += 0.5
    handling(first, policy=again(1.0)).conclude(BAD)
    clock.now += 0.75
    consumer.poll()
    assert consumer.stopped == {ORDERS}
    clock.now += 0.25
    consumer.poll()
    assert consumer.stopped == set()


def test_a_later_requeue_without_a_pause_does_not_end_one(
    consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle
) -> None:
    first, second = polled(consumer, record(10), record(11))
    handling(second, policy=again(1.0)).conclude(BAD)
    handling(first, policy=again()).conclude(BAD)
    consumer.poll()
    assert consumer.stopped == {ORDERS}


def test_a_partition_that_the_application_paused_is_its_own(
    consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    consumer.pause(ORDERS)
    handling(first, policy=again(0.5)).conclude(BAD)
    clock.now += 1
    consumer.poll()
    assert consumer.asked(*MOVES) == [("pause", ORDERS), ("seek", ORDERS, 10)]


@pytest.mark.parametrize("method", ["pause", "resume"])
def test_a_pause_that_the_application_takes_over_is_its_own(
    method: str, consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    handling(first, policy=again(0.5)).conclude(BAD)
    getattr(consumer, method)(ORDERS)
    clock.now += 1
    consumer.poll()
    assert consumer.asked(*MOVES)[2:] == [(method, ORDERS)]


# -- what can go wrong -----------------------------------------------------------------------------


def test_a_seek_that_fails_is_tried_again(
    consumer: Consumer, state: ConsumerState, handling: Handle, logged: pytest.LogCaptureFixture
) -> None:
    (first,) = polled(consumer, record(10))
    consumer.errors["seek"] = ValueError("Unassigned partition")
    handling(first, policy=again()).conclude(BAD)
    consumer.errors.clear()
    consumer.poll()
    consumer.poll()
    assert consumer.asked("seek") == [("seek", ORDERS, 10)] * 2
    assert len(logged.records) == 1


def test_a_seek_that_fails_does_not_stop_the_others(
    consumer: Consumer,
    state: ConsumerState,
    handling: Handle,
    monkeypatch: pytest.MonkeyPatch,
    logged: pytest.LogCaptureFixture,
) -> None:
    sought: list[Any] = []

    def seek(self: Consumer, partition: Any, offset: Any) -> None:
        if partition == ORDERS:
            raise ValueError("Unassigned partition")
        sought.append((partition, offset))

    monkeypatch.setattr(Consumer, "seek", seek)
    for each in polled(consumer, record(10), record(20, partition=1)):
        in_thread(lambda each=each: handling(each, policy=again()).conclude(BAD))
    consumer.poll()
    assert sought == [(OTHERS, 20)]


def test_a_partition_that_is_gone_is_not_sought(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    in_thread(lambda: handling(first, policy=again()).conclude(BAD))
    state.tracker.revoke([ORDERS])
    consumer.poll()
    assert consumer.asked(*MOVES) == []


def test_a_partition_that_is_gone_is_not_resumed(
    consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    handling(first, policy=again(0.5)).conclude(BAD)
    state.tracker.revoke([ORDERS])
    clock.now += 1
    consumer.poll()
    assert consumer.asked("resume") == []
    assert state.tracker.max_block() is None
