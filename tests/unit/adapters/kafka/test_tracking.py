"""A consumer that is tracked is what it was, for its application and for Python."""

from __future__ import annotations

import gc
import inspect
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kafka import KafkaConsumer

import hopspan
from hopspan import Commits
from hopspan.adapters.kafka import consumer as tracking
from hopspan.adapters.kafka.consumer import ConsumerState, state_of, track
from tests.unit.adapters.kafka.conftest import (
    ORDERS,
    OTHERS,
    Clock,
    Consumer,
    Handle,
    found,
    polled,
    record,
)
from tests.unit.support import Telemetry


class Mine(Consumer):
    """A user's subclass."""

    def poll(self, timeout_ms: Any = 0, max_records: Any = None, update_offsets: Any = True) -> Any:
        self._note("mine")
        return super().poll(timeout_ms, max_records, update_offsets)


def consumer_of(record: Any) -> Any:
    """The consumer that has handed a record out, as hopspan finds it."""
    return found(record).source


# -- identity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Consumer, Mine])
def test_it_stays_what_it_was(kind: type[Consumer]) -> None:
    consumer = kind()
    track(consumer)
    assert isinstance(consumer, kind)
    assert (type(consumer).__name__, type(consumer).__qualname__, type(consumer).__module__) == (
        kind.__name__,
        kind.__qualname__,
        kind.__module__,
    )
    assert type(consumer).__doc__ == kind.__doc__


def test_other_consumers_are_left_alone() -> None:
    before = dict(vars(Consumer))
    track(Consumer())
    assert (state_of(Consumer()), dict(vars(Consumer))) == (None, before)


def test_tracking_twice_is_once(consumer: Consumer) -> None:
    state = track(consumer)
    kind = type(consumer)
    assert track(consumer) is state
    assert type(consumer) is kind
    assert type(consumer).__mro__[1] is Consumer


def test_each_class_has_one_that_tracks() -> None:
    first, second = Consumer(), Consumer()
    track(first)
    track(second)
    assert type(first) is type(second)
    assert state_of(first) is not state_of(second)


def test_what_is_kept_goes_with_the_consumer() -> None:
    consumer = Consumer()
    state = weakref.ref(track(consumer))
    held = weakref.ref(consumer)
    del consumer
    gc.collect()
    assert (held(), state()) == (None, None)


@pytest.mark.parametrize("name", sorted(tracking._METHODS))
def test_methods_look_like_the_clients(name: str, consumer: Consumer) -> None:
    """For tools that look at them, and for ourselves when we wrap them."""
    track(consumer)
    ours, theirs = getattr(type(consumer), name), getattr(Consumer, name)
    assert ours is not theirs
    assert (ours.__name__, inspect.signature(ours)) == (name, inspect.signature(theirs))


@pytest.mark.parametrize("name", sorted(tracking._METHODS))
def test_every_method_that_is_tracked_is_one_of_the_clients(name: str) -> None:
    assert callable(getattr(KafkaConsumer, name))


def test_a_subclass_has_its_say() -> None:
    consumer = Mine()
    track(consumer)
    consumer.poll(5, max_records=3)
    assert consumer.calls == [("mine",), ("poll", 5, 3, True)]


class Narrow(Consumer):
    """A user's subclass whose methods take less than the client's."""

    def poll(self, **options: Any) -> Any:
        return super().poll(**options)

    def commit(self) -> None:
        super().commit()

    def commit_async(self) -> Any:
        return super().commit_async()

    def close(self) -> None:
        super().close()


def test_a_subclass_may_take_less_than_the_client() -> None:
    consumer = Narrow()
    track(consumer)
    consumer.poll()
    consumer.poll(timeout_ms=5)
    consumer.commit()
    consumer.close()
    assert [name for name, *_ in consumer.calls] == ["poll", "poll", "commit", "close"]


# -- what passes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "noted"),
    [
        (lambda it: it.poll(), ("poll", 0, None, True)),
        (lambda it: it.poll(timeout_ms=5, max_records=2), ("poll", 5, 2, True)),
        (lambda it: it.poll(5, 2, False), ("poll", 5, 2, False)),
        (lambda it: it.seek(ORDERS, 5), ("seek", ORDERS, 5)),
        (lambda it: it.seek(partition=ORDERS, offset=5), ("seek", ORDERS, 5)),
        (lambda it: it.seek_to_beginning(ORDERS), ("seek_to_beginning", ORDERS)),
        (lambda it: it.seek_to_end(), ("seek_to_end",)),
        (lambda it: it.pause(ORDERS, OTHERS), ("pause", ORDERS, OTHERS)),
        (lambda it: it.resume(ORDERS), ("resume", ORDERS)),
        (lambda it: it.subscribe(["orders"]), ("subscribe", ["orders"], None)),
        (lambda it: it.subscribe(pattern="o.*"), ("subscribe", (), "o.*")),
        (lambda it: it.assign([ORDERS]), ("assign", [ORDERS])),
        (lambda it: it.unsubscribe(), ("unsubscribe",)),
        (lambda it: it.commit({}, 5), ("commit", {}, 5)),
        (lambda it: it.commit_async(None), ("commit_async", None)),
        (lambda it: it.close(autocommit=False), ("close", False, None)),
    ],
)
def test_calls_pass_as_they_are(call: Any, noted: Any, consumer: Consumer) -> None:
    track(consumer)
    call(consumer)
    assert consumer.calls == [noted]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("poll", lambda it: it.poll()),
        ("seek", lambda it: it.seek(ORDERS, 5)),
        ("seek_to_end", lambda it: it.seek_to_end()),
        ("pause", lambda it: it.pause(ORDERS)),
        ("assign", lambda it: it.assign([ORDERS])),
        ("subscribe", lambda it: it.subscribe(["orders"])),
        ("close", lambda it: it.close()),
        ("commit", lambda it: it.commit()),
        ("commit_async", lambda it: it.commit_async()),
    ],
)
def test_what_the_client_raises_is_raised(name: str, call: Any, consumer: Consumer) -> None:
    track(consumer)
    consumer.errors[name] = error = ValueError("no")
    with pytest.raises(ValueError, match="no") as raised:
        call(consumer)
    assert raised.value is error


def test_a_call_that_does_not_fit_is_the_clients_to_refuse(consumer: Consumer) -> None:
    track(consumer)
    unfit: Any = consumer
    with pytest.raises(TypeError):
        unfit.seek(ORDERS)
    with pytest.raises(TypeError):
        unfit.poll(nonsense=1)


# -- special methods -------------------------------------------------------------------------------


def test_a_loop_over_a_tracked_consumer_is_the_clients(consumer: Consumer) -> None:
    track(consumer)
    consumer.coming = [[record(10)], [record(11)]]
    assert iter(consumer) is consumer
    assert [each.offset for each in consumer] == [10, 11]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_single_next_hands_out_one_record(
    wrapped: bool, consumer: Consumer, telemetry: Telemetry
) -> None:
    state = track(consumer)
    if wrapped:
        hopspan.wrap(consumer, **telemetry.settings)
    consumer.coming = [[record(10), record(11)]]
    assert next(consumer).offset == 10
    assert (state.tracker.partitions.frontiers[ORDERS].position, state.inside) == (11, "")
    assert [span.name for span in telemetry.spans] == ["poll orders"] * wrapped


def test_what_the_iterator_polls_is_not_handed_out_yet(consumer: Consumer) -> None:
    """It keeps the others back, and gives one at a time."""
    state = track(consumer)
    consumer.coming = [[record(10), record(11)]]
    next(consumer)
    assert state.tracker.partitions.frontiers[ORDERS].is_open(11) is False
    assert state.tracker.partitions.frontiers[ORDERS].frontier() == 10


def test_a_loop_that_ends_is_over(consumer: Consumer, telemetry: Telemetry) -> None:
    """`consumer_timeout_ms`: the end is no failure."""
    hopspan.wrap(consumer, **telemetry.settings)
    with pytest.raises(StopIteration):
        next(consumer)
    assert telemetry.spans == []
    assert track(consumer).inside == ""


# -- who has handed out ----------------------------------------------------------------------------


def test_a_records_consumer_is_the_one_that_handed_it_out(consumer: Consumer) -> None:
    other = Consumer()
    track(other)
    track(consumer)
    (mine,) = polled(consumer, record(10))
    (theirs,) = polled(other, record(10))
    assert (consumer_of(mine), consumer_of(theirs)) == (consumer, other)


def test_nobody_has_handed_out_a_record_of_ones_own(consumer: Consumer) -> None:
    track(consumer)
    (mine,) = polled(consumer, record(10))
    assert (consumer_of(mine), consumer_of(record(10))) == (consumer, None)


def test_a_record_at_an_address_that_another_consumer_had_is_who_hands_it_outs(
    consumer: Consumer,
) -> None:
    """The other has dropped its own, left unsettled: what comes to lie there is not that one."""
    other = Consumer(group_id="audit")
    track(other)
    track(consumer)
    (mine,) = polled(other, record(10))
    assert polled(consumer, mine) == [mine]
    assert consumer_of(mine) is consumer
    assert track(other).tracker.partitions.frontiers[ORDERS].is_open(10)


def test_one_at_a_time_it_is_who_hands_it_outs_as_well(consumer: Consumer) -> None:
    other = Consumer(group_id="audit")
    track(other)
    track(consumer)
    (mine,) = polled(other, record(10))
    consumer.coming.append([mine])
    assert next(consumer) is mine
    assert consumer_of(mine) is consumer


@pytest.mark.parametrize("partition", [0, 1])
def test_who_hands_out_does_not_wait_for_another_consumer(
    consumer: Consumer, partition: int
) -> None:
    """Whoever has its lock may be busy, or be in the process that this one was forked from."""
    other = Consumer(group_id="audit")
    state = track(other)
    track(consumer)
    theirs = polled(other, record(10))
    with ThreadPoolExecutor(1) as pool, state.tracker.partitions.lock:
        mine = pool.submit(polled, consumer, record(10, partition)).result(timeout=10)
    assert consumer_of(mine[0]) is consumer
    assert consumer_of(theirs[0]) is other


# -- moving about ----------------------------------------------------------------------------------


def test_seeking_leaves_what_was_not_begun(consumer: Consumer) -> None:
    state = track(consumer)
    polled(consumer, record(10), record(20, partition=1))
    consumer.seek(ORDERS, 50)
    assert {each: at.frontier() for each, at in state.tracker.partitions.frontiers.items()} == {
        ORDERS: 50,
        OTHERS: 20,
    }


@pytest.mark.parametrize("method", ["seek_to_beginning", "seek_to_end"])
@pytest.mark.parametrize(
    ("partitions", "left"),
    [((), {ORDERS: None, OTHERS: None}), ((OTHERS,), {ORDERS: 10, OTHERS: None})],
)
def test_seeking_to_an_end_goes_where_nobody_knows(
    method: str, partitions: Any, left: Any, consumer: Consumer
) -> None:
    """Without partitions, all of them."""
    state = track(consumer)
    polled(consumer, record(10), record(20, partition=1))
    getattr(consumer, method)(*partitions)
    assert {each: at.frontier() for each, at in state.tracker.partitions.frontiers.items()} == left


def test_a_seek_that_was_refused_changes_nothing(consumer: Consumer) -> None:
    state = track(consumer)
    polled(consumer, record(10))
    consumer.errors["seek"] = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        consumer.seek(ORDERS, 50)
    assert state.tracker.partitions.frontiers[ORDERS].frontier() == 10


def test_what_is_no_longer_assigned_is_lost(consumer: Consumer, handling: Handle) -> None:
    state = track(consumer)
    first, second = polled(consumer, record(10), record(20, partition=1))
    one, other = handling(first), handling(second)
    consumer.assign([OTHERS])
    assert (list(state.tracker.partitions.frontiers), one.is_over, other.is_over) == (
        [OTHERS],
        True,
        False,
    )


def test_what_is_done_is_committed_before_it_is_given_up(
    consumer: Consumer, handling: Handle
) -> None:
    track(consumer)
    (first,) = polled(consumer, record(10))
    handling(first).conclude()
    consumer.unsubscribe()
    assert consumer.asked("commit", "unsubscribe") == [
        ("commit", {ORDERS: 11}, 10_000),
        ("unsubscribe",),
    ]


def test_closing_ends_what_is_open(
    consumer: Consumer, handling: Handle, telemetry: Telemetry
) -> None:
    track(consumer)
    (first,) = polled(consumer, record(10))
    processing = handling(first)
    consumer.close()
    processing.conclude()
    assert (processing.settled, consumer.commits()) == (False, [])
    attributes = telemetry.only.attributes
    assert (
        attributes["hopspan.settlement"],
        attributes["hopspan.settlement.reason"],
        attributes["hopspan.cancelled"],
    ) == ("leave", "closed", True)


# -- waiting ---------------------------------------------------------------------------------------


def naps(consumer: Consumer) -> list[float]:
    """For how long each poll was to block, in milliseconds."""
    return [call[1] for call in consumer.asked("poll")]


class Passing(Consumer):
    """Time goes by while it polls."""

    clock: Clock

    def poll(self, timeout_ms: Any = 0, max_records: Any = None, update_offsets: Any = True) -> Any:
        self.clock.now += timeout_ms / 1000
        return super().poll(timeout_ms, max_records, update_offsets)


@pytest.fixture
def passing(clock: Clock) -> Passing:
    consumer = Passing()
    consumer.clock = clock
    consumer._subscription.assignment = {ORDERS: "a"}
    track(consumer)
    return consumer


def test_with_nothing_to_do_a_poll_blocks_as_it_likes(passing: Passing) -> None:
    passing.poll(60_000)
    assert naps(passing) == [60_000]


def test_while_something_is_handled_a_poll_looks_for_its_end(
    passing: Passing, handling: Handle
) -> None:
    """On another thread, which cannot use the consumer."""
    (first,) = polled(passing, record(10))
    processing = handling(first, via=passing)
    passing.poll(2_500)
    assert naps(passing)[1:] == pytest.approx([1_000, 1_000, 500])
    processing.conclude()


@pytest.mark.parametrize("strategy", [Commits(every=1), Commits(every=1, wait=True)])
def test_what_is_committed_needs_no_looking_after(
    strategy: Commits, passing: Passing, handling: Handle
) -> None:
    (first,) = polled(passing, record(10))
    handling(first, via=passing, commits=strategy).conclude()
    passing.poll(60_000)
    assert (passing.commits(), naps(passing)[1:]) == ([{ORDERS: 11}], [60_000])


def test_records_end_the_waiting(passing: Passing, handling: Handle) -> None:
    (first,) = polled(passing, record(10))
    processing = handling(first, via=passing)
    passing.coming = [[], [record(11)]]
    (records,) = passing.poll(10_000).values()
    assert ([each.offset for each in records], len(naps(passing)[1:])) == ([11], 2)
    processing.conclude()


@pytest.mark.parametrize("timeout", [0, -1, None, "soon"])
def test_what_is_no_time_to_wait_is_the_clients(
    timeout: Any, consumer: Consumer, handling: Handle
) -> None:
    track(consumer)
    (first,) = polled(consumer, record(10))
    processing = handling(first)
    consumer.poll(timeout)
    assert naps(consumer)[1:] == [timeout]
    processing.conclude()


def test_what_a_consumer_hands_out_is_its_own_also_where_another_that_is_gone_has_had_it(
    consumer: Consumer, state: ConsumerState
) -> None:
    """Records are known by their addresses, and what is kept of a consumer may outlive it."""
    gone = Consumer()
    gone._subscription.assignment = {ORDERS: "a"}
    outliving = track(gone)
    (native,) = polled(gone, record(10))
    assert found(native).tracker is outliving.tracker
    del gone
    gc.collect()
    polled(consumer, native)
    assert found(native).tracker is state.tracker
    assert found([native, *polled(consumer, record(11))]).delivery.tracker is state.tracker
