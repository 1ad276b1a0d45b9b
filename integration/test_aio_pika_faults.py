"""Lost connections, loops that are left, a thousand handlers at a time: aio-pika on a real RabbitMQ.

`integration/faults/aio_verdict.py` says precisely what is promised of lost connections.
`TEST_CHAOS_SEED` and `TEST_CHAOS_CUT_MESSAGES` set the seed and how many messages there are.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aio_pika
import pika
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN, SpanKind, get_current_span

import hopspan
from integration.faults.aio_chaos import run
from integration.faults.aio_verdict import Verdict
from integration.faults.chaos import Plan

MESSAGES = int(os.environ.get("TEST_CHAOS_CUT_MESSAGES", "5000"))
HANDLERS = 1_000
DEADLINE = 30.0

EVERY_FACE = pytest.mark.parametrize("face", ["wrapped", "instrumented"])


@EVERY_FACE
def test_ten_cuts_of_a_robust_connection_lose_no_message_and_no_span(
    rabbitmq_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], face: str
) -> None:
    seed = int(os.environ.get("TEST_CHAOS_SEED", "0")) or secrets.randbelow(1_000_000)
    # A classic queue: on a quorum queue what is requeued comes back last, after many a cut.
    plan = Plan(MESSAGES, "classic", face, seed, requeues=0, faults=())
    try:
        report = Verdict(run(plan, rabbitmq_url, tmp_path)).report()
    except AssertionError as error:
        raise AssertionError(f"{plan}: {error}") from error
    with capsys.disabled():
        print(  # noqa: T201 - figures for whoever reads the log of a CI run
            f"\ncuts, {face}: {report}, seed {seed}"
        )


# -- in this process -------------------------------------------------------------------------------


class Traced:
    """The face under test, what it has recorded, and a queue or two that nobody else uses."""

    def __init__(self, url: str, face: str) -> None:
        self.url, self._face = url, face
        provider = TracerProvider(shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("application")
        self.settings: Any = {"tracer_provider": provider}
        if face == "instrumented":
            hopspan.instrument("aio-pika", **self.settings)
        self._admin = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self._admin.channel()
        self._queues: list[str] = []

    def queue(self, purpose: str) -> str:
        """Declare a queue."""
        name = f"{purpose}-{uuid.uuid4().hex[:8]}"
        self.channel.queue_declare(name)
        self._queues.append(name)
        return name

    def ready(self, queue: str) -> int:
        """How many messages wait in a queue."""
        self._admin.process_data_events()
        count: int = self.channel.queue_declare(queue, passive=True).method.message_count
        return count

    async def connect(self) -> Any:
        """Connect robustly."""
        connection = await aio_pika.connect_robust(self.url)
        wrap = self._face == "wrapped"
        return hopspan.wrap(connection, **self.settings) if wrap else connection

    def spans(self, *kinds: SpanKind) -> list[ReadableSpan]:
        """The finished spans of these kinds, as they began."""
        finished = [each for each in self._exporter.get_finished_spans() if each.kind in kinds]
        return sorted(finished, key=lambda span: span.start_time or 0)

    def close(self) -> None:
        """Leave nothing behind."""
        hopspan.uninstrument()
        for queue in self._queues:
            self.channel.queue_delete(queue)
        self._admin.close()


@pytest.fixture
def traced(rabbitmq_url: str, face: str) -> Iterator[Traced]:
    """Return the face under test."""
    made = Traced(rabbitmq_url, face)
    yield made
    made.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something to become true, while the loop goes on."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE} s"
        await asyncio.sleep(0.01)


def identity(span: Any) -> tuple[int, int]:
    """Trace and span id, of a span, or of what stands for one as a parent or in a link."""
    context = getattr(span, "context", span)
    return context.trace_id, context.span_id


def numbered(span: ReadableSpan) -> str:
    """Which message a span is about, or of."""
    attributes = span.attributes or {}
    return str(attributes.get("messaging.message.id", attributes.get("number")))


async def leave_the_iterator(queue: Any, body: Callable[[Any], Awaitable[None]]) -> None:
    async with queue.iterator() as messages:
        async for message in messages:
            await body(message)
            break


async def leave_the_queue(queue: Any, body: Callable[[Any], Awaitable[None]]) -> None:
    async for message in queue:
        await body(message)
        break


@EVERY_FACE
@pytest.mark.parametrize("loop", [leave_the_iterator, leave_the_queue])
def test_of_twenty_prefetched_messages_only_the_one_that_is_taken_has_a_span(
    traced: Traced, loop: Callable[..., Awaitable[None]]
) -> None:
    name = traced.queue("twenty")

    async def body(message: Any) -> None:
        # The other nineteen are prefetched: with the client, and with nobody.
        await until(lambda: traced.ready(name) == 0, "prefetching")
        with traced.tracer.start_as_current_span("body"):
            await message.ack()

    async def consume() -> None:
        async with await traced.connect() as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=50)
            for number in range(20):
                message = aio_pika.Message(b"order", message_id=str(number))
                await channel.default_exchange.publish(message, name)
            await until(lambda: traced.ready(name) == 20, "publishing")
            await loop(await channel.declare_queue(name, passive=True), body)
            assert get_current_span() is INVALID_SPAN
            if loop is leave_the_iterator:  # it cancels its consumer; the other one's channel goes
                await until(lambda: traced.ready(name) == 19, "giving back")

    asyncio.run(consume())
    asyncio.run(until(lambda: traced.ready(name) == 19, "giving back"))

    published = traced.spans(SpanKind.PRODUCER)
    (processed,) = traced.spans(SpanKind.CONSUMER)
    (inside,) = traced.spans(SpanKind.INTERNAL)
    assert [f"publish {name}"] * 20 == [span.name for span in published]
    assert (f"process {name}", "ack") == (
        processed.name,
        (processed.attributes or {})["hopspan.settlement"],
    )
    assert identity(published[0]) == identity(processed.parent)
    assert ("body", identity(processed)) == (inside.name, identity(inside.parent))
    assert [] == traced.spans(SpanKind.CLIENT)


@EVERY_FACE
def test_a_thousand_handlers_at_a_time_are_each_under_their_own_message(traced: Traced) -> None:
    name = traced.queue("thousand")
    numbers, steps = [str(number) for number in range(HANDLERS)], ("first", "second")

    async def publish() -> None:
        async with await traced.connect() as connection:
            exchange = (await connection.channel()).default_exchange
            messages = [aio_pika.Message(b"order", message_id=number) for number in numbers]
            await asyncio.gather(*(exchange.publish(message, name) for message in messages))

    async def consume() -> None:
        came, everybody = Counter[str](), {step: asyncio.Event() for step in steps}

        async def on_message(message: Any) -> None:
            for step in steps:
                of_this = {"number": message.message_id}
                with traced.tracer.start_as_current_span(step, attributes=of_this):
                    came[step] += 1
                    if came[step] == HANDLERS:
                        everybody[step].set()
                    await everybody[step].wait()
            await message.ack()

        async with await traced.connect() as connection:
            with traced.tracer.start_as_current_span("request"):
                channel = await connection.channel()
                await channel.set_qos(prefetch_count=HANDLERS)
                queue = await channel.declare_queue(name, passive=True)
                await queue.consume(on_message)
                await until(lambda: len(traced.spans(SpanKind.CONSUMER)) == HANDLERS, "handling")

    asyncio.run(publish())
    asyncio.run(consume())

    producers = {numbered(span): span for span in traced.spans(SpanKind.PRODUCER)}
    consumers = {numbered(span): span for span in traced.spans(SpanKind.CONSUMER)}
    assert numbers == sorted(producers, key=int) == sorted(consumers, key=int)
    assert HANDLERS == len({identity(span)[0] for span in producers.values()})
    expected = {number: identity(producers[number]) for number in numbers}
    assert expected == {number: identity(consumers[number].parent) for number in numbers}
    assert {number: [identity(producers[number])] for number in numbers} == {
        number: [identity(link) for link in consumers[number].links] for number in numbers
    }
    children = [span for span in traced.spans(SpanKind.INTERNAL) if span.name != "request"]
    assert {
        (step, number): identity(consumers[number]) for step in steps for number in numbers
    } == {(span.name, numbered(span)): identity(span.parent) for span in children}
    assert len(numbers) * len(steps) == len(children)


class Hop(NamedTuple):
    """A span of a message's way."""

    name: str
    kind: SpanKind
    parent: tuple[int, int] | None
    links: list[tuple[int, int]]
    attributes: dict[str, Any]


def hop(span: ReadableSpan, name: str) -> Hop:
    """A span as a value, its queue called by another name."""

    def renamed(value: Any) -> Any:
        return value.replace(name, "queue") if isinstance(value, str) else value

    return Hop(
        renamed(span.name),
        span.kind,
        span.parent and identity(span.parent),
        [identity(link) for link in span.links],
        {key: renamed(value) for key, value in (span.attributes or {}).items()},
    )


@EVERY_FACE
def test_from_pika_to_aio_pika_and_back_is_one_trace_of_four_like_hops(traced: Traced) -> None:
    there, back = traced.queue("there"), traced.queue("back")
    channel = hopspan.wrap(traced.channel, **traced.settings)
    ids = {"message_id": "message", "correlation_id": "conversation"}

    async def on_the_way() -> None:
        arrived = asyncio.Event()

        async with await traced.connect() as connection:
            opened = await connection.channel()

            @hopspan.consumer(policy=hopspan.reject_on_error, **traced.settings)
            async def on_message(message: Any) -> None:
                answer = aio_pika.Message(message.body, **ids)
                await opened.default_exchange.publish(answer, back)
                arrived.set()

            await (await opened.declare_queue(there, passive=True)).consume(on_message)
            await asyncio.wait_for(arrived.wait(), DEADLINE)
            await until(lambda: len(traced.spans(SpanKind.CONSUMER)) == 1, "handling")

    @hopspan.consumer(policy=hopspan.reject_on_error, **traced.settings)
    def on_return(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.stop_consuming()

    channel.basic_publish("", there, b"order", pika.BasicProperties(**ids))
    asyncio.run(on_the_way())
    channel.basic_consume(back, on_return)
    channel.start_consuming()

    spans = traced.spans(SpanKind.PRODUCER, SpanKind.CONSUMER)
    hops = [hop(span, name) for span, name in zip(spans, [there, there, back, back], strict=True)]
    published, _, _, processed = hops
    first, second, third, _ = map(identity, spans)
    assert [
        ("publish queue", SpanKind.PRODUCER, None, []),
        ("process queue", SpanKind.CONSUMER, first, [first]),
        ("publish queue", SpanKind.PRODUCER, second, []),
        ("process queue", SpanKind.CONSUMER, third, [third]),
    ] == [each[:4] for each in hops]
    assert {first[0]} == {identity(span)[0] for span in spans}
    assert [published.attributes, processed.attributes] * 2 == [each.attributes for each in hops]
    assert ("ack", "conversation") == (
        processed.attributes["hopspan.settlement"],
        processed.attributes["messaging.message.conversation_id"],
    )
