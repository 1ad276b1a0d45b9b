"""The consumer's calls that are intercepted: each reader has the parameters of what it reads."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer
from kafka.structs import TopicPartition

from hopspan.adapters import _kafka
from hopspan.adapters.kafka.consumers import Received, State, state_of
from hopspan.adapters.kafka.describing import Polled
from hopspan.adapters.kafka.tracking import Records, track
from hopspan.interception import Fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hopspan.model import Delivery
    from hopspan.processing import Loop


def prepare(instance: Any) -> None:
    """A consumer is tracked before its methods are replaced."""
    if isinstance(instance, KafkaConsumer):
        track(instance)


def _tracked(consumer: Any) -> State:
    """A consumer's state; one that is made only now has not seen what the call in hand returns."""
    state = state_of(consumer)
    if state is None:
        state = track(consumer)
        state.missed = True
        state.thread = threading.get_ident()  # it is being polled
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

    def read(batches: Any) -> Any:
        return _taken(state, batches)

    return Fetch(_asked(consumer, state), read, _kafka.POLL, several=True)


def next_record(consumer: Any) -> Any:
    """A single `next(consumer)`: a poll for one record. None for that of a loop."""
    state = _tracked(consumer)
    if state.is_looping:
        return None

    def read(record: Any) -> Any:
        return _taken(state, {TopicPartition(record.topic, record.partition): [record]})

    return Fetch(_asked(consumer, state), read, _kafka.POLL, several=True)


def _taken(state: State, batches: Any) -> Sequence[Delivery]:
    """The deliveries of a poll, now in the application's hands."""
    if state.missed:
        state.missed = False
        state.hand(batches)
    state.count(batches)
    return Polled([each for several in batches.values() for each in several], state)


def _asked(consumer: Any, state: State) -> Any:
    """Where a poll that brings nothing is from: the topic, if there is only one."""
    topics = consumer.subscription() or {each.topic for each in consumer.assignment()}
    return state.endpoint(next(iter(topics)) if len(topics) == 1 else "")


def iterate(consumer: Any) -> Callable[[Any], Received | None]:
    """`for record in consumer`."""
    state = _tracked(consumer)
    state.missed = False
    return state.received


def source_of(consumer: Any, source: Any) -> Records | None:
    """The client's iterator, which is the consumer itself, without what is put around it."""
    state = state_of(consumer)
    return Records(state, consumer) if state is not None and source is consumer else None


def keep_loop(consumer: Any, loop: Loop[Any]) -> None:
    """Remember the loop, for `close`."""
    state = state_of(consumer)
    if state is not None:
        state.loop = weakref.ref(loop)
