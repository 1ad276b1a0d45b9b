"""The intercepted calls: each reader has the parameters of the method that it reads."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer

from hopspan.adapters import kafka_common
from hopspan.adapters.kafka.consumer import (
    ConsumerState,
    Records,
    partition_named,
    state_of,
    track,
)
from hopspan.adapters.kafka.producer import completes, send
from hopspan.adapters.kafka.record import polled, taken
from hopspan.interception import Fetch, Point, iterates, receives, sends

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hopspan.adapters.kafka.record import Record
    from hopspan.model import Delivery
    from hopspan.processing import Loop


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
    if state.is_iterating:
        return None

    def read(runs: Any) -> Any:
        return _taken(state, runs)

    return Fetch(_polled_endpoint(consumer, state), read, kafka_common.POLL, several=True)


def next_record(consumer: Any) -> Any:
    """A single `next(consumer)`: a poll for one record. None for that of a loop."""
    state = _tracked(consumer)
    if state.is_looping:
        return None

    def read(record: Any) -> Any:
        return _taken(state, {partition_named(record.topic, record.partition): [record]})

    return Fetch(_polled_endpoint(consumer, state), read, kafka_common.POLL, several=True)


def _taken(state: ConsumerState, runs: Any) -> Sequence[Delivery]:
    """The deliveries of a poll, now in the application's hands."""
    if state.missed:
        state.missed = False
        state.tracker.handed_out(runs)
    state.tracker.partitions.counted_by_poll(runs)
    return polled([record for several in runs.values() for record in several], state)


def _polled_endpoint(consumer: Any, state: ConsumerState) -> Any:
    """The endpoint of a poll that brings nothing: the topic, if there is only one."""
    topics = consumer.subscription() or {each.topic for each in consumer.assignment()}
    return state.endpoint(next(iter(topics)) if len(topics) == 1 else "")


def iterate(consumer: Any) -> Callable[[Any], Record | None]:
    """`for record in consumer`."""
    state = _tracked(consumer)
    state.missed = False

    def take(record: Any) -> Record:
        return taken(record, state)

    return take


def source_of(consumer: Any, source: Any) -> Records | None:
    """The client's iterator, which is the consumer itself, without what is put around it."""
    state = state_of(consumer)
    return Records(state, consumer) if state is not None and source is consumer else None


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
