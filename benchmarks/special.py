"""What is measured once, and not on every client: baggage, batches, handlers that fail."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from celery.exceptions import Ignore
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.instrumentation.kafka.utils import _kafka_getter
from opentelemetry.trace import Link

import hopspan
from benchmarks.checks import WrongRowError, check_rows, watched
from benchmarks.clients import celery, kafka, pika
from benchmarks.floors import Shape, floor
from benchmarks.groups import API, CONTRIB, HOPSPAN, SDK, Group, shape_of
from benchmarks.modes import SAMPLED, UNSAMPLED, Telemetry
from benchmarks.sampling import Row, take

ENTRIES = (3, 10)
BATCHES = (1, 10, 100, 500)
WITH_CONSUMER = "hopspan, with a consumer"


# -- baggage ---------------------------------------------------------------------------------------


def entries(count: int) -> dict[str, str]:
    """Baggage as applications have it: the same for many messages."""
    return {f"key{number}": f"value-{number}" for number in range(count)}


def header(count: int) -> str:
    """The same as a header."""
    return ",".join(f"{key}={value}" for key, value in entries(count).items())


def _with(row: Row, count: int) -> Row:
    """A row that runs where such a baggage is current."""
    context = Context()
    for key, value in entries(count).items():
        context = baggage.set_baggage(key, value, context)

    def run(batch: Any) -> None:
        token = attach(context)
        try:
            row.run(batch)
        finally:
            detach(token)

    return row._replace(run=run)


def named(row: str, count: int) -> str:
    """The name of a row with baggage."""
    return f"{row}, {count} entries"


def baggage_publish() -> Iterator[Group]:
    """Baggage that is current while messages are published."""
    shape, _ = shape_of(lambda _mode: pika.Publish())
    telemetry, made = Telemetry(SAMPLED), pika.Publish()
    rows = [
        made.bare(),
        made.floor(floor(SDK, telemetry, shape), telemetry),
        made.floor(floor(API, telemetry, shape, propagates=True), telemetry),
        made.hopspan(HOPSPAN, telemetry, metrics=False),
    ]
    check_rows(rows, telemetry, shape)
    for count in ENTRIES:
        by_api = floor(named(API, count), telemetry, shape, propagates=True)
        rows += [
            pika.Publish({"baggage": header(count)}).bare()._replace(name=named("bare", count)),
            _with(made.floor(by_api, telemetry), count),
            _with(made.contrib(telemetry)._replace(name=named(CONTRIB, count)), count),
            _with(made.hopspan(named(HOPSPAN, count), telemetry, metrics=False), count),
        ]
    rows.append(made.contrib(telemetry))
    yield Group("pika publish, baggage", SAMPLED, rows)
    telemetry.close()


def baggage_consume() -> Iterator[Group]:
    """Baggage that comes with every message, the same again and again."""
    shape, _ = shape_of(pika.Consume)
    telemetry = Telemetry(SAMPLED)
    rows = []
    for count in (0, *ENTRIES):
        made = pika.Consume(SAMPLED, baggage=header(count))
        by_api = floor(API, telemetry, shape, propagates=True)
        several = [
            made.bare(),
            made.floor(by_api, telemetry),
            made.contrib(telemetry),
            made.hopspan(HOPSPAN, telemetry, metrics=False),
        ]
        check_rows(several, telemetry, shape)
        if count:
            several = [row._replace(name=named(row.name, count)) for row in several]
        else:
            several.append(made.floor(floor(SDK, telemetry, shape), telemetry))
        rows += several
    yield Group("pika consume, baggage", SAMPLED, rows)
    telemetry.close()


# -- batches ---------------------------------------------------------------------------------------


def records(count: int, consumer: Any = None) -> list[Any]:
    """A polled batch, each record from a trace of its own; what is polled again is other records.

    Args:
        count: Of the records.
        consumer: The one that polls. When omitted, one that hopspan does not know, with a partition
            that is no other's.
    """
    rng = random.Random(count)  # noqa: S311 - no secret
    headers = [[*kafka.PLAIN, ("traceparent", _anybodys(rng).encode())] for _ in range(count)]
    if consumer is None:
        consumer = kafka.open_consumer(partition=kafka.ELSEWHERE)
    consumer.fetched = kafka.batch_of(headers, consumer.upcoming)
    consumer.upcoming += count
    return next(iter(consumer.poll(max_records=count).values()))


def _anybodys(rng: random.Random) -> str:
    return f"00-{rng.getrandbits(128) | 1:032x}-{rng.getrandbits(64) | 1:016x}-01"


_GROUP = "messaging.consumer.group.name"


def batches(count: int) -> Iterator[Group]:
    """A batch handled as one: a span with a link for each record."""
    telemetry, nobodys, tracked = Telemetry(SAMPLED), records(count), list[Any]()
    settings: dict[str, Any] = {**telemetry.providers, "metrics": False}
    ours, user = kafka.tracked(), object()

    def alone(batch: Any) -> None:
        for _ in batch:
            with hopspan.process(nobodys, **settings):
                pass

    def hand_out(_count: int) -> None:
        tracked[:] = records(count, ours.consumer)
        telemetry.flush()

    def with_consumer(batch: Any) -> None:
        for _ in batch:
            with hopspan.process(tracked, via=ours.consumer):
                pass

    rows = [
        Row(HOPSPAN, alone),
        Row(
            WITH_CONSUMER,
            with_consumer,
            enter=lambda: ours.use(user, settings, hand_out),
        ),
    ]
    rows = [row._replace(flush=telemetry.flush, warm=3) for row in rows]
    # In this order: a record that was once said to be a consumer's would be found to be.
    for row, knows_group in ((rows[0], False), (rows[1], True), (rows[0], False)):
        (span,) = watched(row, telemetry)
        if not span.links or (_GROUP in (span.attributes or {})) != knows_group:
            raise WrongRowError(f"{row.name}: {len(span.links)} links, {span.attributes}")
    shape = Shape.of(watched(rows[0], telemetry)[0])
    by_hand = _batch_by_hand(telemetry, shape, nobodys)
    yield Group(f"batch of {count}", SAMPLED, [by_hand, *rows])
    telemetry.close()


def _batch_by_hand(telemetry: Telemetry, shape: Shape, several: list[Any]) -> Row:
    start = telemetry.tracer().start_span

    def run(batch: Any) -> None:
        for _ in batch:
            contexts = [propagate.extract(each.headers, getter=_kafka_getter) for each in several]
            links = [Link(trace.get_current_span(each).get_span_context()) for each in contexts]
            span = start(shape.name, Context(), shape.kind, shape.attributes, links)
            token = attach(trace.set_span_in_context(span, Context()))
            detach(token)
            span.end()

    return Row(API, run, flush=telemetry.flush, warm=3)


# -- failures --------------------------------------------------------------------------------------


def fail(_channel: Any, _method: Any, _properties: Any, _body: bytes) -> None:
    """A handler that fails, and leaves its message unsettled."""
    raise ValueError("no such order")


def failing(mode: str) -> Iterator[Group]:
    """A handler that raises: error type, status and, where it is recorded, the exception."""

    def make(mode: str) -> pika.Consume:
        return pika.Consume(mode, fail, raises=True)

    shape, _ = shape_of(make)
    shape = shape._replace(
        attributes={key: each for key, each in shape.attributes.items() if key != "error.type"}
    )
    telemetry, made = Telemetry(mode), make(mode)
    rows = [
        made.bare(),
        made.floor(floor(SDK, telemetry, shape), telemetry),
        made.floor(floor(API, telemetry, shape, propagates=True), telemetry),
        made.contrib(telemetry),
        made.hopspan(HOPSPAN, telemetry, metrics=False),
    ]
    if mode == SAMPLED:
        for row in (rows[1], rows[4]):
            (span,) = watched(row, telemetry)
            if [each.name for each in span.events] != ["exception"]:
                raise WrongRowError(f"{row.name}: {len(span.events)} exceptions recorded")
    elif formatted(rows[4]) != formatted(rows[0]):
        raise WrongRowError("a traceback is formatted for a span that is not recorded")
    yield Group("pika consume, failing", mode, rows)
    telemetry.close()


def formatted(row: Row) -> int:
    """How many tracebacks are formatted while one message is handled."""
    count, original = 0, traceback.TracebackException.__init__

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        original(self, *args, **kwargs)

    traceback.TracebackException.__init__ = counted  # type: ignore[method-assign]
    try:
        take(row, 1)
    finally:
        traceback.TracebackException.__init__ = original  # type: ignore[method-assign]
    return count


def ignore(_order: int) -> None:
    """A task that ends by control flow."""
    raise Ignore


def control_flow() -> Iterator[Group]:
    """A task that ends with Celery's `Ignore`: no failure, and nothing is formatted for it."""

    def make(mode: str) -> celery.Run:
        return celery.Run(mode, ignore)

    shape, _ = shape_of(make)
    telemetry, made = Telemetry(SAMPLED), make(SAMPLED)
    rows = [
        made.bare(),
        made.floor(floor(SDK, telemetry, shape), telemetry),
        made.contrib(telemetry),
        made.hopspan(HOPSPAN, telemetry, metrics=False),
    ]
    if formatted(rows[3]) != formatted(rows[0]):
        raise WrongRowError("a traceback is formatted for control flow")
    yield Group("Celery run, ignored", SAMPLED, rows)
    telemetry.close()


def special_groups() -> Mapping[str, Callable[[], Iterator[Group]]]:
    """By name, each made when its turn has come."""
    return {
        "pika publish, baggage, sampled": baggage_publish,
        "pika consume, baggage, sampled": baggage_consume,
        **{f"batch of {count}, sampled": lambda count=count: batches(count) for count in BATCHES},  # type: ignore[misc]
        "pika consume, failing, sampled": lambda: failing(SAMPLED),
        "pika consume, failing, unsampled": lambda: failing(UNSAMPLED),
        "Celery run, ignored, sampled": control_flow,
    }
