"""kafka-python: records are serialised and parsed by the client, and no broker is asked for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import islice, repeat
from time import perf_counter
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.future import Future
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from opentelemetry import propagate, trace
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.kafka import KafkaInstrumentor
from opentelemetry.instrumentation.kafka.utils import _kafka_getter, _kafka_setter
from opentelemetry.trace import Link, set_span_in_context

import hopspan
from benchmarks.clients.captured import captured
from benchmarks.floors import Floor, traceparent
from benchmarks.modes import Telemetry
from benchmarks.sampling import Row

TOPIC, PARTITION = "orders", TopicPartition("orders", 0)
ELSEWHERE = TopicPartition("orders", 1)
"""A partition that no consumer has which hopspan follows."""
BODY = b"x" * 256
PLAIN = (("tenant", b"acme"),)
"""What the application itself has in its headers."""
_NOWHERE = {"bootstrap_servers": ["127.0.0.1:1"], "api_version": (3, 9)}
_kept: list[Any] = []
"""Everything that was opened: what was never connected cannot be closed, and would try to."""

Pairs = list[tuple[str, bytes]]


class _Leader:
    leader_id = 0


def open_producer(kind: Any = KafkaProducer) -> Any:
    """A producer that knows its topic, and whose records go nowhere."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    producer = kind(**_NOWHERE)
    # Its threads would look for the broker beside what is timed.
    producer._sender._running = False
    producer._sender.wakeup()
    producer._sender.join()
    producer._accumulator._closed = False
    producer._sender.wakeup = lambda: None
    producer._metadata._partitions = {TOPIC: {0: _Leader}}
    _kept.append(producer)
    return producer


def _answered(producer: Any) -> int:
    """Close and acknowledge every batch, as the sender thread does; how many bytes there were."""
    size = 0
    for batches in producer._accumulator._batches.values():
        while batches:
            batch = batches.popleft()
            batch.records.close()
            size += batch.records.size_in_bytes()
            batch.complete(0, -1)
            producer._accumulator._incomplete.remove(batch)
    return size


def wrapped_by_contrib(telemetry: Telemetry, owner: type, method: str) -> type:
    """A class whose method is wrapped as contrib's instrumentor wraps it."""
    instrumentor = KafkaInstrumentor()
    other = (KafkaConsumer, "__next__") if method == "send" else (KafkaProducer, "send")
    before = other[0].__dict__[other[1]]
    try:
        return captured(
            owner,
            method,
            lambda: instrumentor._instrument(tracer_provider=telemetry.tracer_provider),
        )
    finally:
        setattr(*other, before)


# -- sending ---------------------------------------------------------------------------------------


class Send:
    """`KafkaProducer.send`, and the acknowledgement that ends it."""

    def __init__(self) -> None:
        self._producers: dict[str, Any] = {}

    def bare(self) -> Row:
        return self._row("bare", self._open("bare"))

    def contrib(self, telemetry: Telemetry) -> Row:
        producer = self._open("contrib", wrapped_by_contrib(telemetry, KafkaProducer, "send"))
        return self._row("contrib", producer, telemetry)

    def hopspan(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        producer = hopspan.wrap(self._open(name), **{**telemetry.providers, **settings})
        return self._row(name, producer, telemetry)

    def floor(self, by: Floor, telemetry: Telemetry) -> Row:
        producer = self._open(by.name)
        start, shape, measure = by.tracer.start_span, by.shape, by.measure
        name, kind, attributes = shape.name, shape.kind, shape.attributes
        ready = [(key, value.encode()) for key, value in by.carried.items()]

        def run(batch: Iterable[int]) -> None:
            for _ in batch:
                headers = [*PLAIN] if by.propagates else [*PLAIN, *ready]
                began = perf_counter()
                span = start(name, None, kind, attributes)
                if by.propagates:
                    propagate.inject(headers, set_span_in_context(span), _kafka_setter)
                producer.send(TOPIC, BODY, headers=headers)
                if measure is not None:
                    measure(perf_counter() - began, set_span_in_context(span))
                span.end()
            _answered(producer)

        return Row(by.name, run, flush=telemetry.flush)

    def carried(self, row: Row) -> Mapping[str, Any]:
        """The headers of a message that a row sends, as they are on the wire."""
        producer = self._producers[row.name]
        sent: list[Any] = []
        complete = producer._accumulator._incomplete.remove

        def remove(batch: Any) -> None:
            sent.append(batch)
            complete(batch)

        producer._accumulator._incomplete.remove = remove
        row.run(range(1))
        del producer._accumulator._incomplete.remove
        (record,) = MemoryRecords(sent[0].records.buffer()).next_batch()
        return {key: value.decode() for key, value in record.headers}

    def _open(self, name: str, kind: Any = KafkaProducer) -> Any:
        producer = self._producers[name] = open_producer(kind)
        return producer

    def _row(self, name: str, producer: Any, telemetry: Telemetry | None = None) -> Row:
        def run(batch: Iterable[int]) -> None:
            for _ in batch:
                producer.send(TOPIC, BODY, headers=[*PLAIN])
            _answered(producer)

        return Row(name, run) if telemetry is None else Row(name, run, flush=telemetry.flush)


# -- consuming -------------------------------------------------------------------------------------


class _Replay:
    """A consumer's next fetch has come already, as bytes, and its commits are answered at once."""

    partition = PARTITION
    fetched: bytes | None = None
    upcoming = 0
    """The offset of the record that is fetched next."""
    told: list[Mapping[Any, Any]] | None = None
    """The offsets that are committed, while somebody is looking."""

    def _poll_once(self: Any, timer: Any, max_records: int, update_offsets: bool = True) -> Any:
        fetched, self.fetched = self.fetched, None
        offset = self._subscription.assignment[self.partition].position.offset
        records = Fetcher.PartitionRecords(offset, self.partition, MemoryRecords(fetched))
        return {self.partition: records.take()}

    def commit_async(self, offsets: Any = None, callback: Any = None) -> Any:
        if self.told is not None:
            self.told.append(offsets)
        if callback is not None:
            callback(offsets, None)
        return Future().success(None)


class _Replaying(_Replay, KafkaConsumer):
    """The client's own consumer, whose broker answers at once."""


def open_consumer(kind: Any = _Replaying, partition: Any = PARTITION, **config: Any) -> Any:
    """A consumer of a group with one partition."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    consumer = kind(**_NOWHERE, group_id="billing", **config)
    consumer._net.stop()
    consumer.partition = partition
    consumer.assign([partition])
    consumer.seek(partition, 0)
    _kept.append(consumer)
    return consumer


_UNSET: Mapping[str, Any] = {
    "tracer_provider": None,
    "meter_provider": None,
    "metrics": True,
    "policy": hopspan.manual,
    "commits": hopspan.Commits(),
}
"""Settings that hold where a row says nothing else: an earlier row's must not."""


class _Tracked:
    """The one consumer of this process that hopspan knows.

    A service has one, so the rows of hopspan's share one: among several, each record that is handed
    out has to be told apart. A row gives it settings of its own before it is timed.
    """

    def __init__(self) -> None:
        self.consumer = hopspan.wrap(open_consumer(enable_auto_commit=False))
        self._user: object = None

    def use(
        self,
        user: object,
        settings: Mapping[str, Any],
        handle: Callable[[int], None],
    ) -> None:
        """Begin a sample of a row; the one that had the consumer the last time has it still.

        Args:
            user: The row, or what stands for it.
            settings: All that are not the defaults.
            handle: Handles so many messages of the row.
        """
        if user is self._user:
            return
        self._user = user
        # Work that the row before has left undone is not this one's, and its commit is not due here.
        self.consumer.seek(PARTITION, self.consumer.upcoming)
        hopspan.wrap(self.consumer, **{**_UNSET, **settings, "commits": hopspan.Commits(every=1)})
        handle(1)
        hopspan.wrap(self.consumer, **{**_UNSET, **settings})
        handle(_PREPARED)


_PREPARED = 20
"""Messages after new settings that are not timed: what is prepared for a subscription is so by then."""


@cache
def tracked() -> _Tracked:
    """The one that all rows share."""
    return _Tracked()


@cache
def policy() -> hopspan.Policy:
    """The twin of `requeue_once` where a broker cannot reject: a second failure goes to another topic."""
    return hopspan.requeue_times(
        1, then=hopspan.dead_letter("orders.dead", producer=open_producer())
    )


Handler = Callable[[Any], None]


def nothing(record: Any) -> None:
    """A body of the loop that does nothing."""


class Next:
    """`for record in consumer`, with a body that calls a function which does nothing."""

    acks = False
    """Whether each row settles its message: here the client commits by itself, once in a while."""
    encloses = False
    """Whether contrib's span is current in the handler: here it is over by then."""

    def __init__(self, mode: str, handler: Handler = nothing) -> None:
        self.headers: Pairs = [*PLAIN, ("traceparent", traceparent(mode).encode())]
        self.handler = handler
        self._mode = mode

    def looking(self, look: Callable[[], None]) -> Next:
        """The same with a handler that looks around."""
        return Next(self._mode, lambda _record: look())

    def policied(self) -> Next:
        """The same where a policy is to settle: nothing else changes."""
        return self

    def bare(self) -> Row:
        return self._row("bare", open_consumer())

    def contrib(self, telemetry: Telemetry) -> Row:
        kind = type(
            "_Replaying", (_Replay, wrapped_by_contrib(telemetry, KafkaConsumer, "__next__")), {}
        )
        return self._row("contrib", open_consumer(kind), telemetry)

    def hopspan(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        return self._ours(name, self.handler, telemetry, settings)

    def decorated(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        """A decorated handler with a policy, called in the loop."""
        handler = hopspan.consumer(policy=policy())(self.handler)
        return self._ours(name, handler, telemetry, settings)

    def wrapped(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        """A consumer with a policy; in its loop a block, because a loop by itself never settles."""
        handler = self.handler

        def handle(record: Any) -> None:
            with hopspan.process(record):
                handler(record)

        return self._ours(name, handle, telemetry, {**settings, "policy": policy()})

    def floor(self, by: Floor, telemetry: Telemetry) -> Row:
        return self._row(by.name, open_consumer(), telemetry, _by_hand(by, self.handler))

    def is_settled(self, row: Row) -> bool:
        """Whether a record that a row handles is committed, as soon as its strategy lets it."""
        consumer = tracked().consumer
        row.enter()
        hopspan.wrap(consumer, commits=hopspan.Commits(every=1))
        consumer.told = []
        row.run(row.prepare(1))
        hopspan.wrap(consumer, commits=hopspan.Commits())
        row.leave()
        told, consumer.told = consumer.told, None
        return [offsets[PARTITION].offset for offsets in told] == [consumer.upcoming]

    def _ours(
        self, name: str, handler: Handler, telemetry: Telemetry, settings: Mapping[str, Any]
    ) -> Row:
        row = self._row(name, tracked().consumer, telemetry, handler)
        every = {**telemetry.providers, **settings}
        user = object()

        def handle(count: int) -> None:
            row.run(row.prepare(count))
            row.flush()

        return row._replace(enter=lambda: tracked().use(user, every, handle))

    def _row(
        self,
        name: str,
        consumer: Any,
        telemetry: Telemetry | None = None,
        handler: Handler | None = None,
    ) -> Row:
        body = self.handler if handler is None else handler

        def prepare(count: int) -> tuple[int, bytes]:
            first = consumer.upcoming
            consumer.upcoming += count
            return count, batch_of(repeat(self.headers, count), first)

        def run(given: tuple[int, bytes]) -> None:
            count, consumer.fetched = given
            for record in islice(consumer, count):
                body(record)

        row = Row(name, run, prepare)
        return row if telemetry is None else row._replace(flush=telemetry.flush)


def batch_of(headers: Iterable[Pairs], first: int = 0) -> bytes:
    """A fetch of records as the broker keeps them, one for each of these headers."""
    builder = MemoryRecordsBuilder(2, 0, 2**30, offset=first)
    for each in headers:
        builder.append(1, None, BODY, each)
    builder.close()
    return bytes(builder.buffer())


def _by_hand(by: Floor, handler: Handler) -> Handler:
    start, shape, measure = by.tracer.start_span, by.shape, by.measure
    name, kind, attributes = shape.name, shape.kind, shape.attributes
    is_linked = shape.is_linked

    def handle(record: Any) -> None:
        began = perf_counter()
        parent, links = by.parent, by.links
        if by.propagates:
            parent = propagate.extract(record.headers, getter=_kafka_getter)
            if is_linked:
                links = (Link(trace.get_current_span(parent).get_span_context()),)
        span = start(name, parent, kind, attributes, links)
        current = set_span_in_context(span, parent)
        token = attach(current)
        try:
            handler(record)
        finally:
            detach(token)
            if measure is not None:
                measure(perf_counter() - began, current)
            span.end()

    return handle
