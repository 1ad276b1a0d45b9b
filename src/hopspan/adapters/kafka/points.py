"""The intercepted calls: each reader has the parameters of the method that it reads."""

from __future__ import annotations

import weakref
from types import MethodType
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer

from hopspan.adapters import kafka_common
from hopspan.adapters.kafka.consumer import (
    NOTHING_TAKEN,
    ConsumerState,
    runs_of_one,
    state_of,
    track,
)
from hopspan.adapters.kafka.producer import completes, send
from hopspan.adapters.kafka.record import KafkaRecord, taken
from hopspan.interception import INTERCEPTED, Fetch, Point, iterates, receives, sends
from hopspan.offsets import Records

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.delivery import Loop


def prepare(instance: Any) -> None:
    """Track a consumer before its methods are replaced."""
    if isinstance(instance, KafkaConsumer):
        track(instance)


def _tracked(consumer: Any) -> ConsumerState:
    """A consumer's state; one that is made only now has not seen what the call in hand returns."""
    state = state_of(consumer)
    if state is None:
        state = track(consumer)
        state.missed = True
        state.seen_here()  # it is being polled
    return state


def poll(
    consumer: Any,
    timeout_ms: Any = 0,  # noqa: ARG001
    max_records: Any = None,  # noqa: ARG001
    *_rest: Any,
    **_added: Any,
) -> Any:
    """`KafkaConsumer.poll`; None for that of the client's own iterator."""
    state = _tracked(consumer)
    return None if state.inside else _fetch(state, lambda runs: runs)


def next_record(consumer: Any) -> Any:
    """A single `next(consumer)`: a poll for one record. None for that of a loop."""
    state = _tracked(consumer)
    return None if state.inside == LOOP else _fetch(state, runs_of_one)


LOOP = "loop"


def _fetch(state: ConsumerState, runs_of: Callable[[Any], Any]) -> Fetch:
    topics = state.native.subscription() or {each.topic for each in state.native.assignment()}
    endpoint = state.endpoint(next(iter(topics)) if len(topics) == 1 else "")

    def read(result: Any) -> Records:
        """The records of a poll, now in the application's hands."""
        runs = runs_of(result)
        if state.missed:
            state.missed = False
            state.tracker.handed_out(runs)
        state.tracker.partitions.counted_by_poll(runs)
        records = [record for several in runs.values() for record in several]
        return Records(KafkaRecord, records, runs, state.tracker)

    return Fetch(endpoint, read, kafka_common.POLL, mixed_endpoints=True)


# -- iterated over ---------------------------------------------------------------------------------


class ConsumerIterator:
    """A consumer as its own iterator: what `next` does, without being looked up on the way."""

    def __init__(self, state: ConsumerState, consumer: Any) -> None:
        original: Any = state.kind.__next__
        inner: Any = getattr(original, INTERCEPTED, None)
        # The mark is also on an application's wrapper of our replacement; that one is called.
        if inner is not None and getattr(original, "__wrapped__", None) is inner:
            original = inner
        self._next: Callable[[], Any] = MethodType(original, consumer)
        self._state = state
        self._tracker = state.tracker

    def __iter__(self) -> ConsumerIterator:
        return self

    def __next__(self) -> Any:
        state, tracker = self._state, self._tracker
        tracker.run_pending()
        state.inside = LOOP
        try:
            record = self._next()
        finally:
            state.inside = ""
        state.taken = record, tracker.handed_out_one(record)
        return record

    def __getattr__(self, name: str) -> Any:
        if "_state" not in self.__dict__:  # not made yet: somebody copies or unpickles it
            raise AttributeError(name)
        return getattr(self._state.native, name)


def iterate(consumer: Any) -> Callable[[Any], KafkaRecord | None]:
    """`for record in consumer`."""
    state = _tracked(consumer)
    state.missed = False
    tracker = state.tracker

    def take(record: Any) -> KafkaRecord:
        known, frontier = state.taken
        state.taken = NOTHING_TAKEN
        if frontier is None or known is not record:
            return taken(record, tracker)
        return KafkaRecord(record, tracker, frontier)

    return take


def source_of(consumer: Any, source: Any) -> ConsumerIterator | None:
    """The client's iterator, which is the consumer itself, without what is put around it."""
    state = state_of(consumer)
    return ConsumerIterator(state, consumer) if state is not None and source is consumer else None


def keep_loop(consumer: Any, loop: Loop[Any]) -> None:
    """Remember the loop, for `close`."""
    state = state_of(consumer)
    if state is not None:
        state.loop = weakref.ref(loop)


_CONSUMER = "kafka.consumer.group:KafkaConsumer"
_PRODUCER = "kafka.producer.kafka:KafkaProducer"

POINTS = (
    Point(_PRODUCER, "send", sends(kafka_common.SEND, send, completes), send),
    Point(_CONSUMER, "poll", receives(poll), poll),
    Point(_CONSUMER, "__iter__", iterates(iterate, keep_loop, source_of), iterate),
    Point(_CONSUMER, "__next__", receives(next_record, (StopIteration,)), next_record),
)
