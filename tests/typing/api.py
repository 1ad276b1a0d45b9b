# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
"""The public API as type checkers see it: checked by mypy and pyright, never executed.

What must be refused is marked with a `type: ignore`, which both checkers report when it is not
needed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from functools import partial
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Span
from typing_extensions import assert_type

import hopspan
from hopspan import (
    Commits,
    Deferred,
    Delivery,
    Endpoint,
    Operation,
    Outcome,
    Policy,
    Processing,
    Settlement,
    Verdict,
)
from hopspan.testing import CapturedSpan, CapturedSpans, Message, Queue, capture_spans

# -- consumer keeps a handler's signature ----------------------------------------------------------


@hopspan.consumer
def bare(message: Message, *, urgent: bool = False) -> int:
    return len(message.headers)


@hopspan.consumer(policy=hopspan.requeue_once, reraise=True)
def with_settings(message: Message, *, urgent: bool = False) -> int:
    return len(message.headers)


@hopspan.consumer()
def with_nothing(message: Message) -> str:
    return ""


@hopspan.consumer
async def bare_async(message: Message, *, urgent: bool = False) -> int:
    return len(message.headers)


@hopspan.consumer(policy=hopspan.reject_on_error, via=object)
async def async_with_settings(message: Message, *, urgent: bool = False) -> int:
    return len(message.headers)


assert_type(bare(Message(), urgent=True), int)
assert_type(with_settings(Message(), urgent=True), int)
assert_type(with_nothing(Message()), str)
bare("not a message")  # type: ignore[arg-type]
bare(Message(), urgent="yes")  # type: ignore[arg-type]
with_settings()  # type: ignore[call-arg]
with_settings(Message(), other=1)  # type: ignore[call-arg]


async def awaits() -> None:
    assert_type(await bare_async(Message()), int)
    assert_type(await async_with_settings(Message(), urgent=True), int)
    await bare_async("not a message")  # type: ignore[arg-type]


def takes_a_coroutine_function(handler: Callable[[Message], Coroutine[Any, Any, int]]) -> None: ...


takes_a_coroutine_function(bare_async)
takes_a_coroutine_function(async_with_settings)
takes_a_coroutine_function(bare)  # type: ignore[arg-type]


class Consumer:
    @hopspan.consumer(policy=hopspan.ack_always)
    def method(self, message: Message) -> bytes:
        return b""

    @hopspan.consumer
    async def async_method(self, message: Message) -> bytes:
        return b""

    @staticmethod
    @hopspan.consumer
    def static(message: Message) -> bytes:
        return b""


assert_type(Consumer().method(Message()), bytes)
assert_type(Consumer.static(Message()), bytes)
Consumer().method("not a message")  # type: ignore[arg-type]


async def awaits_a_method() -> None:
    assert_type(await Consumer().async_method(Message()), bytes)


hopspan.consumer(3)  # type: ignore[call-overload]
hopspan.consumer(polices=hopspan.manual)  # type: ignore[call-overload]
hopspan.consumer(policy="requeue_once")  # type: ignore[call-overload]
hopspan.consumer(correlation="child")  # type: ignore[call-overload]
hopspan.consumer(settle_spans="some")  # type: ignore[call-overload]
hopspan.consumer(reraise="yes")  # type: ignore[call-overload]


# -- handlers of Kafka's records -------------------------------------------------------------------


class Record:
    """What kafka-python hands out has no types; an application's own stub has."""

    value: bytes


class KafkaConsumer:
    def poll(self, timeout_ms: int = 0) -> dict[str, list[Record]]:
        return {}

    def __iter__(self) -> Iterator[Record]:
        return iter([])


kafka = hopspan.wrap(KafkaConsumer(), commits=Commits(every=100), message_key=True)
assert_type(kafka, KafkaConsumer)


@hopspan.consumer(via=kafka, policy=hopspan.dead_letter("dlt", producer=object()))
def on_record(record: Record) -> int:
    return len(record.value)


@hopspan.consumer(via=lambda: kafka, commits=Commits(seconds=5.0, wait=True))
def on_records(records: list[Record], *, urgent: bool = False) -> int:
    return len(records)


assert_type(on_record(Record()), int)
assert_type(on_records([Record()], urgent=True), int)
on_record([Record()])  # type: ignore[arg-type]
on_records(Record())  # type: ignore[arg-type]
hopspan.consumer(commits=5)  # type: ignore[call-overload]
hopspan.consumer(message_key="yes")  # type: ignore[call-overload]

assert_type(Commits().every, "int | None")
assert_type(Commits().seconds, "float | None")
assert_type(Commits(1, None, wait=True).wait, bool)
assert_type(Commits(every=1).checked(), Commits)
Commits(every="1")  # type: ignore[arg-type]
Commits(after=1)  # type: ignore[call-arg]

for records in kafka.poll().values():
    for record in hopspan.each(records, via=kafka):
        assert_type(record, Record)
with hopspan.process(kafka.poll(), via=kafka, commits=Commits(every=1)) as polled:
    assert_type(polled, Processing)


# -- policies --------------------------------------------------------------------------------------


def decide(outcome: Outcome, delivery: Delivery) -> Verdict:
    return Verdict.REQUEUE if outcome.failed and delivery.attempt == 1 else Verdict.ACK


def decide_with_reason(outcome: Outcome, delivery: Delivery) -> Settlement:
    return Settlement(Verdict.REJECT, outcome.error_type)


def decide_nothing(outcome: Outcome, delivery: Delivery) -> str:
    return "ack"


async def decide_later(outcome: Outcome, delivery: Delivery) -> Verdict:
    return Verdict.ACK


hopspan.process(Message(), policy=decide)
hopspan.process(Message(), policy=decide_with_reason)
hopspan.process(Message(), policy=lambda outcome, delivery: Verdict.ACK)
hopspan.process(Message(), policy=decide_nothing)  # type: ignore[arg-type]
hopspan.process(Message(), policy=decide_later)  # type: ignore[arg-type]

assert_type(hopspan.manual, Policy)
assert_type(hopspan.ack_always, Policy)
assert_type(hopspan.reject_on_error, Policy)
assert_type(hopspan.requeue_once, Policy)
assert_type(hopspan.requeue_times(3), Policy)
assert_type(hopspan.dead_letter("orders.dlt", producer=object()), Policy)
assert_type(
    hopspan.by_exception(
        {ValueError: Verdict.REJECT, TimeoutError: hopspan.requeue_times(5), OSError: decide},
        default=hopspan.requeue_once,
    ),
    Policy,
)
assert_type(Policy("mine", decide, {Verdict.ACK}).decide(Outcome(), hopspan.current()), Settlement)
assert_type(hopspan.requeue_times(3, then=Verdict.LEAVE, pause=0.5), Policy)
assert_type(hopspan.requeue_times(3, then=hopspan.ack_always, pause=1), Policy)
assert_type(hopspan.requeue_times(3, then=decide), Policy)
assert_type(hopspan.requeue_times(3).pauses, bool)
assert_type(Settlement(Verdict.REQUEUE, pause=1.0).pause, float)
hopspan.requeue_times("3")  # type: ignore[arg-type]
hopspan.requeue_times(3, then="reject")  # type: ignore[arg-type]
hopspan.requeue_times(3, pause="1s")  # type: ignore[arg-type]
hopspan.requeue_times(3, hopspan.manual)  # type: ignore[call-arg]
hopspan.dead_letter("dlt")  # type: ignore[call-arg]
hopspan.by_exception({ValueError: "reject"}, default=hopspan.manual)  # type: ignore[dict-item]
hopspan.by_exception({})  # type: ignore[call-arg]


# -- process ---------------------------------------------------------------------------------------

with hopspan.process(Message(), policy=hopspan.reject_on_error) as operation:
    assert_type(operation, Processing)
    assert_type(operation.span, Span)
    assert_type(operation.delivery, Delivery)
    assert_type(operation.fail("no customer", type="invalid_order"), None)
    assert_type(operation.defer(), Deferred)
    assert_type(operation.outcome, "Outcome | None")
    assert_type(operation.settled, bool)

with hopspan.process([Message(), Message()], via=object(), metrics={"x"}, on_start=None) as batch:
    assert_type(batch, Processing)


async def in_async_blocks() -> None:
    async with hopspan.process(Message()) as operation:
        assert_type(operation, Processing)
    async with operation.defer() as deferred:
        assert_type(deferred, Processing)


with operation.defer() as later:
    assert_type(later, Processing)

hopspan.process()  # type: ignore[call-arg]
hopspan.process(Message(), polices=hopspan.manual)  # type: ignore[call-arg]
operation.fail()  # type: ignore[call-arg]


def returns_from_a_block() -> int:
    """A block always raises again, so this function always returns a number."""
    with hopspan.process(Message()):
        return 1


# -- each ------------------------------------------------------------------------------------------

for message in hopspan.each([Message()], via=object()):
    assert_type(message, Message)


def generated() -> Iterator[Message]:
    yield Message()


for message in hopspan.each(generated()):
    assert_type(message, Message)
hopspan.each([Message()]).leave()


async def generated_later() -> AsyncIterator[Message]:
    yield Message()


async def in_async_loops() -> None:
    async for message in hopspan.each(generated_later()):
        assert_type(message, Message)
    await hopspan.each(generated_later()).aclose()


hopspan.each(3)  # type: ignore[call-overload]
hopspan.each([Message()], correlation="child")  # type: ignore[call-overload]


# -- wrap, instrument ------------------------------------------------------------------------------


class Channel:
    """A client's object."""


class MyChannel(Channel):
    """A user's subclass."""


def on_start(operation: Operation, native: object) -> None:
    assert_type(operation.span, Span)


assert_type(hopspan.wrap(Channel()), Channel)
assert_type(hopspan.wrap(MyChannel(), policy=hopspan.requeue_once, on_start=on_start), MyChannel)
assert_type(hopspan.instrument("pika", policy=decide, correlation="parent"), None)
assert_type(hopspan.instrument(), None)
assert_type(hopspan.uninstrument("pika"), None)
hopspan.wrap(Channel(), polices=1)  # type: ignore[call-arg]
hopspan.instrument(policy="requeue_once")  # type: ignore[arg-type]
hopspan.instrument(3)  # type: ignore[arg-type]


# -- current, inject, extract ----------------------------------------------------------------------

assert_type(hopspan.current(), Processing)
assert_type(bool(hopspan.current()), bool)
assert_type(hopspan.current().fail("always there"), None)

assert_type(hopspan.inject(), dict[str, Any])
assert_type(hopspan.inject({"a": 1}), dict[str, Any])
assert_type(hopspan.inject([("a", b"1")]), list[tuple[str, Any]])
assert_type(hopspan.inject({}, Context()), dict[str, Any])
hopspan.inject("traceparent")  # type: ignore[call-overload]


def headers_of(stored: Mapping[str, str]) -> dict[str, Any]:
    return hopspan.inject(stored)


assert_type(hopspan.extract({"traceparent": "00"}), Context)
assert_type(hopspan.extract([("traceparent", b"00")]), Context)
assert_type(hopspan.extract(None), Context)
hopspan.extract(3)  # type: ignore[arg-type]


# -- baggage ---------------------------------------------------------------------------------------


@hopspan.baggage(tenant_id="t1")
def ordering(number: int, *, urgent: bool = False) -> str:
    return ""


@hopspan.baggage({"customer.tier": "enterprise"}, tenant_id=7, other=None)
async def ordering_async(number: int) -> str:
    return ""


assert_type(ordering(3, urgent=True), str)
ordering_later: Callable[[int], Coroutine[Any, Any, str]] = ordering_async
ordering("3")  # type: ignore[arg-type]
with hopspan.baggage(tenant_id="t1") as nothing:
    assert_type(nothing, None)
assert_type(hopspan.baggage(), hopspan.Baggage)
hopspan.baggage("tenant_id")  # type: ignore[arg-type]

hopspan.instrument(
    baggage_allow=["tenant_id", "app.*"],
    baggage_attributes={"tenant_id"},
    baggage_metrics=("tier",),
    trust=False,
    ignore=["health.*"],
    capture_headers=frozenset({"x-request-id"}),
)
hopspan.wrap(Channel(), baggage_allow=None)
hopspan.instrument(baggage_allow="tenant_id")  # type: ignore[arg-type]
hopspan.instrument(trust="no")  # type: ignore[arg-type]


# -- testing ---------------------------------------------------------------------------------------

with capture_spans() as spans:
    assert_type(spans, CapturedSpans)
    assert_type(spans.one("process test").succeeded().was_settled("ack"), CapturedSpan)

assert_type(Queue("orders").publish(b"body", {"a": 1}), Message)
assert_type(Message().verdict, "Verdict | None")
Queue().run(bare)


async def runs() -> None:
    handler: Callable[[Message], Awaitable[Any]] = bare_async
    await Queue().run_async(handler)


# -- values ----------------------------------------------------------------------------------------

assert_type(Settlement(Verdict.ACK).verdict, Verdict)
assert_type(Outcome().error, "BaseException | None")
assert_type(Endpoint("rabbitmq").server_port, "int | None")
assert_type(hopspan.__version__, str)
partial(bare, urgent=True)(Message())
