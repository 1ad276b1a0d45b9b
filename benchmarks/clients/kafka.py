"""kafka-python: records are serialised and parsed by the client, and no broker is asked for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from time import perf_counter
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import Fetcher
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


class _Replaying(KafkaConsumer):
    """A consumer whose next fetch has come already, as bytes."""

    fetched: bytes | None = None

    def _poll_once(self, timer: Any, max_records: int, update_offsets: bool = True) -> Any:
        fetched, self.fetched = self.fetched, None
        offset = self._subscription.assignment[PARTITION].position.offset
        records = Fetcher.PartitionRecords(offset, PARTITION, MemoryRecords(fetched))
        return {PARTITION: records.take()}


def open_consumer(kind: Any = _Replaying, **config: Any) -> Any:
    """A consumer of a group with one partition."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    consumer = kind(**_NOWHERE, group_id="billing", **config)
    consumer._net.stop()
    consumer.assign([PARTITION])
    consumer.seek(PARTITION, 0)
    _kept.append(consumer)
    return consumer


class Next:
    """`for record in consumer`, with a body that does nothing."""

    def __init__(self, mode: str) -> None:
        self.headers: Pairs = [*PLAIN, ("traceparent", traceparent(mode).encode())]

    def bare(self) -> Row:
        return self._row("bare", open_consumer())

    def contrib(self, telemetry: Telemetry) -> Row:
        kind = type("_Replaying", (wrapped_by_contrib(telemetry, KafkaConsumer, "__next__"),), {})
        kind._poll_once, kind.fetched = _Replaying._poll_once, None  # type: ignore[attr-defined]
        return self._row("contrib", open_consumer(kind), telemetry)

    def hopspan(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        consumer = hopspan.wrap(open_consumer(), **{**telemetry.providers, **settings})
        return self._row(name, consumer, telemetry)

    def floor(self, by: Floor, telemetry: Telemetry) -> Row:
        return self._row(by.name, open_consumer(), telemetry, _by_hand(by))

    def _row(
        self,
        name: str,
        consumer: Any,
        telemetry: Telemetry | None = None,
        body: Callable[[Any], None] | None = None,
    ) -> Row:
        position = 0

        def prepare(count: int) -> tuple[int, bytes]:
            nonlocal position
            first, position = position, position + count
            return count, batch_of(count, self.headers, first)

        def run(given: tuple[int, bytes]) -> None:
            count, consumer.fetched = given
            for record in islice(consumer, count):
                if body is not None:
                    body(record)

        row = Row(name, run, prepare)
        return row if telemetry is None else row._replace(flush=telemetry.flush)


def batch_of(count: int, headers: Pairs, first: int = 0) -> bytes:
    """A fetch of records as the broker keeps them."""
    builder = MemoryRecordsBuilder(2, 0, 2**30, offset=first)
    for _ in range(count):
        builder.append(1, None, BODY, headers)
    builder.close()
    return bytes(builder.buffer())


def _by_hand(by: Floor) -> Callable[[Any], None]:
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
        detach(token)
        if measure is not None:
            measure(perf_counter() - began, current)
        span.end()

    return handle
