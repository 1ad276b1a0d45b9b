"""What is aio-pika's own: messages that are copied, iterators, reconnects, awaited settlements."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import gc
import importlib.util
import inspect
import warnings
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

import aio_pika
import aiormq
import pytest
from aio_pika.abc import AbstractExchange
from aio_pika.exceptions import MessageProcessError, QueueEmpty
from aio_pika.exchange import get_exchange_name
from aio_pika.patterns import RPC, Master
from opentelemetry import baggage
from opentelemetry.context import get_current

import hopspan
from hopspan import interception
from hopspan.adapters import adapter_named
from hopspan.telemetry import binding_of
from tests.contract.aio_pika_client import AioPikaClient
from tests.contract.client import Message, Ran, in_turn, raises, succeeds
from tests.contract.scenarios_core import (
    CONTEXTS,
    GENERATORS,
    _each_handled_once,
    _says_to_defer,
    _send,
    break_out,
    cancel_out,
    finalised,
    is_held,
    raise_out,
    return_out,
)
from tests.contract.scenarios_refusals import DEAD_LETTER, refusal
from tests.contract.suite import FACES, SAMPLINGS, over
from tests.contract.telemetry import Span, silence

NO = ValueError("no stock")
REJECTED = {"settlement": "reject", "reason": "failed: ValueError"}
TRACED = ("wrapped", "instrumented")


# -- messages are copied ---------------------------------------------------------------------------


class Slotted(aio_pika.Message):
    """A message of the application's own, of the leanest kind."""

    __slots__ = ("__secret", "note")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.note, self.__secret = "slotted", "kept"

    @property
    def properties(self) -> Any:
        properties = super().properties
        properties.message_type = f"{self.note}, {self.__secret}"
        return properties


class Free(aio_pika.Message):
    """A message of the application's own, with a dictionary."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.note = "free"

    @property
    def properties(self) -> Any:
        properties = super().properties
        properties.message_type = f"{self.note}, kept"
        return properties


KINDS: dict[str, tuple[Any, str | None]] = {
    "Message": (aio_pika.Message, None),
    "Slotted": (Slotted, "slotted, kept"),
    "Free": (Free, "free, kept"),
}


@over(kind=KINDS, face=TRACED)
def a_message_is_copied_and_stays_what_it_is(client: AioPikaClient, kind: str) -> None:
    make, type_ = KINDS[kind]
    headers = {"color": "red"}
    message = make(b"order", headers=headers, priority=3, expiration=60, correlation_id="c-1")
    before = _held(message)
    for _ in range(2):
        client.events.step(client.producer.default_exchange.publish(message, client.queue))
    assert before == _held(message)
    assert {"color": "red"} == headers
    for _ in range(2):
        arrived = client.take()
        assert ("red", 3, "c-1", type_, 60) == (
            arrived.headers["color"],
            arrived.priority,
            arrived.correlation_id,
            arrived.type,
            arrived.expiration,
        )
        assert "traceparent" in arrived.headers


def _held(message: Any) -> dict[str, Any]:
    names = [name for name in aio_pika.Message.__slots__ if not name.startswith("_")]
    held = {name: getattr(message, name) for name in names}
    return copy.deepcopy({**held, **getattr(message, "__dict__", {})})


@over(face=TRACED, settled=(True, False))
def an_incoming_message_can_be_published_again(client: AioPikaClient, settled: bool) -> None:
    client.send(b"order", client.carrier({"color": "red"}))
    message = client.take()
    if settled:  # from then on it is locked
        client.events.step(message.ack())
    before = _held(message)
    client.events.step(client.producer.default_exchange.publish(message, client.queue))
    assert before == _held(message)
    again = client.take()
    assert (b"order", "red") == (again.body, again.headers["color"])
    sent = {message.headers["traceparent"], again.headers["traceparent"]}
    assert 2 == len(sent)


# -- what becomes of a publish ---------------------------------------------------------------------


@contextlib.contextmanager
def _never_confirmed() -> Any:
    """The client does not hear the broker's confirms."""

    async def deaf(_channel: Any, _frame: Any) -> None: ...

    with mock.patch.object(aiormq.Channel, "_on_confirm_frame", deaf):
        yield


def _waiting_sender(client: AioPikaClient) -> Any:
    channel = client.open_channel()
    if client.face == "wrapped":
        hopspan.wrap(channel, **client.settings())
    return channel.default_exchange


@over(face=TRACED)
def a_publish_that_takes_too_long_has_failed(client: AioPikaClient) -> None:
    with _never_confirmed():
        exchange = _waiting_sender(client)
        with pytest.raises(asyncio.TimeoutError) as late:
            client.events.done(
                exchange.publish(aio_pika.Message(b"order"), client.queue, timeout=0.01)
            )
    error = f"{type(late.value).__module__}.{type(late.value).__qualname__}"
    error = error.removeprefix("builtins.")
    (span,) = client.telemetry.spans()
    assert (
        client.a_publish(
            status="error", error=error, exceptions=(error,), description=str(late.value)
        )
        == span
    )


@over(face=TRACED)
def a_publish_that_is_cancelled_has_failed(client: AioPikaClient) -> None:
    with _never_confirmed():
        exchange = _waiting_sender(client)
        message = aio_pika.Message(b"order")
        task = client.events.create_task(exchange.publish(message, client.queue))
        assert client.events.until(lambda: client.waiting(client.queue) == 1)
        task.cancel()
        assert client.events.until(task.cancelled)
    (span,) = client.telemetry.spans()
    assert (client.publishes, "error", "asyncio.exceptions.CancelledError") == (
        span.name,
        span.status,
        span.error,
    )


@over(face=TRACED)
def publishes_that_wait_end_with_their_channel(client: AioPikaClient) -> None:
    with _never_confirmed():
        exchange = _waiting_sender(client)
        tasks = [
            client.events.create_task(exchange.publish(aio_pika.Message(b"order"), client.queue))
            for _ in range(3)
        ]
        assert client.events.until(lambda: client.waiting(client.queue) == 3)
        client.events.step(exchange.channel.close())
        assert client.events.until(lambda: all(task.done() for task in tasks))
    assert all(task.exception() for task in tasks)
    assert [(client.publishes, "error")] * 3 == [
        (span.name, span.status) for span in client.telemetry.spans()
    ]


# -- patterns --------------------------------------------------------------------------------------


@over(face=TRACED)
def master_and_worker_are_traced(client: AioPikaClient) -> None:
    if client.face == "wrapped":
        hopspan.wrap(client.consumer, **client.settings())
    seen: list[Any] = []

    async def work(*, number: int) -> None:
        seen.append((number, baggage.get_baggage("tenant")))

    name = f"tasks-{client.queue}"
    client._queues.add(name)
    with client.span("order"), client.baggage(tenant="acme"):
        master = Master(client.consumer)
        worker = client.events.step(master.create_worker(name, work))
        producer = Master(client.producer)
        client.events.step(producer.create_task(name, {"number": 7}))
    client.drive(lambda: seen)
    client.events.step(worker.close())
    assert [(7, "acme")] == seen
    assert ["ack"] == client.settlements()
    client.expect_spans(
        Span("order"),
        Span(f"publish {name}", "producer", parent="order"),
        Span(
            f"process {name}",
            "consumer",
            parent=f"publish {name}",
            links=(f"publish {name}",),
            settlement="ack",
        ),
    )


@over(face=TRACED)
def a_remote_procedure_is_called_in_one_trace(client: AioPikaClient) -> None:
    if client.face == "wrapped":
        hopspan.wrap(client.consumer, **client.settings())
    name = f"rpc-{client.queue}"

    async def double(*, number: int) -> int:
        with client.span("work"):
            return 2 * number

    async def call() -> Any:
        server = await RPC.create(client.consumer)
        await server.register(name, double, auto_delete=True)
        caller = await RPC.create(client.producer)
        with client.span("asking"):
            answer = await caller.call(name, {"number": 21})
        await caller.close()
        await server.close()
        return answer

    assert 42 == client.events.done(call())
    spans = client.telemetry.spans()
    assert {span.trace for span in spans} == {0}
    assert ["asking", f"publish {name}", f"process {name}", "work", "publish"] == [
        span.name for span in spans
    ][:5]
    assert ["work", f"publish {name}"] == [
        span.parent if span.name != "work" else "work"
        for span in spans
        if span.name in {"work", f"process {name}"}
    ][::-1]


# -- get -------------------------------------------------------------------------------------------


@over(face=TRACED)
def a_get_is_a_receive_span_and_an_empty_one_is_nothing(client: AioPikaClient) -> None:
    client.send()
    client.enter_face()
    with client.span("asking"):
        client.take()
        assert client.events.step(client.inbox.get(fail=False)) is None
        with pytest.raises(QueueEmpty):
            client.events.step(client.inbox.get())
    client.expect_spans(
        client.a_publish(), Span("asking", trace=1), client.a_receive(parent="asking", trace=1)
    )


@over(face=TRACED, no_ack=(True, False))
def what_a_get_returned_is_not_kept(client: AioPikaClient, no_ack: bool) -> None:
    client.enter_face()
    client.send(b"large" * 20_000)
    message = client.take(no_ack=no_ack)
    body = message.body
    if not no_ack:
        client.events.step(message.ack())
    holders = [each for each in gc.get_referrers(message) if isinstance(each, tuple)]
    assert (b"large" * 20_000, []) == (body, holders)


def what_is_wrapped_by_itself_keeps_its_settings(client: AioPikaClient) -> None:
    connection = client.connect(robust=True)
    channel = hopspan.wrap(
        client.events.step(connection.channel()), **client.settings(policy=hopspan.reject_on_error)
    )
    queue = client.events.step(channel.declare_queue(client.queue, passive=True))
    hopspan.wrap(queue, policy=hopspan.requeue_once)
    again = client.events.step(channel.get_queue(client.queue, ensure=False))
    assert hopspan.requeue_once is binding_of(queue).instrumenter.config.policy  # type: ignore[union-attr]
    assert again is queue or binding_of(again) is not None


@over(face=FACES)
def the_block_of_an_empty_get_is_nothing(client: AioPikaClient) -> None:
    client.enter_face()
    empty = client.events.step(client.inbox.get(fail=False))
    with hopspan.process(empty, via=client.consumer, **client.settings()) as operation:
        assert not operation
    client.expect_spans()


@over(face=TRACED)
def the_block_of_a_message_that_was_got_acked_cannot_settle(client: AioPikaClient) -> None:
    client.send()
    client.enter_face()
    got = client.take(no_ack=True)
    block = hopspan.process(got, policy=hopspan.reject_on_error, **client.settings())
    said = refusal(hopspan.PolicyError, block.__enter__)
    assert said.startswith(
        f"policy reject_on_error cannot settle for the consumer of {client.queue}: it was given "
        "no_ack=True"
    )
    assert client.is_current_nothing()


# -- iterators -------------------------------------------------------------------------------------

ITERATED = ("queue", "iterator", "each over iterator")


@over(style=ITERATED, face=TRACED)
def only_what_was_handed_over_is_processed(client: AioPikaClient, style: str) -> None:
    for number in range(20):
        client.send_untraced(b"%d" % number)
    client.events.step(client.consumer.set_qos(prefetch_count=50))

    async def take_one() -> None:
        async for message in client.loop_by(style):
            await _until(lambda: client.prefetched() == 19)
            with client.span("body"):
                await message.ack()
            break
        assert not hopspan.current()

    client.events.done(take_one())
    client.end_loop()
    client.sync()
    assert {"ack", "requeue"} == set(client.settlements())  # aio-pika 9.4 requeues all at once
    assert 1 == client.settlements().count("ack")
    client.expect_spans(
        client.a_process(parent=None, links=(), settlement="ack"),
        Span("body", parent=client.processes),
    )
    client.expect_queues(waiting=19)


async def _until(condition: Any) -> None:
    async with asyncio.timeout(5) if hasattr(asyncio, "timeout") else contextlib.nullcontext():
        while not condition():  # noqa: ASYNC110 - it is the client's, who tells nobody
            await asyncio.sleep(0)


@over(style=ITERATED, face=TRACED)
def an_iterator_that_is_abandoned_leaves_nothing_current(client: AioPikaClient, style: str) -> None:
    client.send_untraced()

    async def abandon() -> None:
        before = get_current()
        turns = client.loop_by(style).__aiter__()
        await turns.__anext__()
        assert before is not get_current()
        del turns
        assert before is get_current()

    client.events.done(abandon())
    client.expect_spans(client.a_process(parent=None, links=()))


@over(style=ITERATED, face=TRACED)
def a_turn_that_is_waited_for_with_a_timeout_leaves_nothing_current(
    client: AioPikaClient, style: str
) -> None:
    client.send_untraced(b"1")
    client.send_untraced(b"2")

    async def consume() -> list[bytes]:
        before, bodies = get_current(), []
        turns = client.loop_by(style).__aiter__()
        for _ in range(2):
            # A task of its own, also where `wait_for` would not make one.
            message = await asyncio.wait_for(asyncio.ensure_future(turns.__anext__()), 5)
            bodies.append(message.body)
            assert before is get_current()
            await message.ack()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(turns.__anext__(), 0.01)
        assert before is get_current()
        return bodies

    assert [b"1", b"2"] == client.events.done(consume())
    client.expect_spans(
        client.a_process(parent=None, links=(), settlement="ack"),
        client.a_process(parent=None, links=(), settlement="ack", trace=1),
    )


@over(style=ITERATED, face=TRACED)
def a_loop_that_is_cancelled_leaves_nothing_current(client: AioPikaClient, style: str) -> None:
    client.send_untraced()
    reached: list[Any] = []

    async def consume() -> None:
        before = get_current()
        with contextlib.suppress(asyncio.CancelledError):
            async for _ in client.loop_by(style):
                reached.append(1)
                await asyncio.Event().wait()
        reached.append(before is get_current())

    task = client.events.create_task(consume())
    assert client.events.until(lambda: reached)
    task.cancel()
    assert client.events.until(task.done)
    assert [1, True] == reached
    client.expect_spans(client.a_process(parent=None, links=()))


@over(
    style=ITERATED,
    way_out=(break_out, return_out, raise_out, cancel_out),
    generator=GENERATORS,
    face=TRACED,
)
def a_generator_around_an_iterator_leaves_nothing_current(
    client: AioPikaClient,
    style: str,
    way_out: Callable[[Any], Awaitable[Any]],
    generator: Callable[[Any], Any],
) -> None:
    client.send_untraced()

    async def consume() -> None:
        with client.span("around"):
            before = get_current()
            await way_out(generator(client.loop_by(style)))
            await finalised()
            assert not hopspan.current()
            assert before == get_current()
            with client.span("after"):
                pass

    client.events.done(consume())
    client.expect_spans(
        Span("around"),
        client.a_process(parent="around", links=()),
        Span("after", parent="around"),
    )


@over(
    style=ITERATED,
    when=("at once", "later", "meanwhile"),
    context=CONTEXTS,
    face=TRACED,
    sampling=SAMPLINGS,
)
def a_message_that_a_loop_hands_to_a_task_is_handled_once(
    client: AioPikaClient, style: str, when: str, context: str
) -> None:
    _send(client, b"1", b"2", b"3")
    client.events.step(client.consumer.set_qos(prefetch_count=3))
    policy = client.settings(policy=hopspan.reject_on_error)

    async def work(message: Any, began: asyncio.Event, go: asyncio.Event) -> None:
        with contextlib.suppress(ValueError):
            async with hopspan.process(message, **policy):
                began.set()
                await go.wait()
                with client.span("work " + message.body.decode()):
                    pass
                if message.body == b"2":
                    raise NO

    async def consume() -> None:
        go, tasks = asyncio.Event(), []
        if when != "meanwhile":
            go.set()
        async for message in client.loop_by(style):
            began = asyncio.Event()
            run = CONTEXTS[context](contextvars.copy_context()).run
            tasks.append(run(asyncio.ensure_future, work(message, began, go)))
            if when == "at once":
                await tasks[-1]
            elif when == "meanwhile":
                await began.wait()
            if len(tasks) == 3:
                break
        go.set()
        await asyncio.gather(*tasks)

    client.events.done(consume())
    client.sync()
    assert ["ack", "ack", "reject"] == sorted(client.settlements())
    _each_handled_once(client, 3)
    if when != "at once":
        _says_to_defer(client)
    client.lines.take()


@over(face=TRACED)
def an_iterators_own_block_goes_on_to_work(client: AioPikaClient) -> None:
    client.send_untraced()
    client.enter_loop_face()

    async def consume() -> Any:
        before = get_current()
        async with client.inbox.iterator() as messages:
            async for message in messages:
                async with hopspan.process(message, policy=hopspan.reject_on_error):
                    assert hopspan.current()
                break
        assert before is get_current()
        return messages.consumer_tag

    assert client.events.done(consume()) is None
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_process(parent=None, links=(), settlement="ack"))


@over(face=TRACED)
def what_was_settled_while_it_was_prefetched_is_not_settled_again(client: AioPikaClient) -> None:
    for body in (b"1", b"2", b"3"):
        client.send(body)
    client.enter_loop_face()
    client.events.step(client.consumer.set_qos(prefetch_count=3))

    async def consume() -> None:
        async for message in client.inbox:
            if message.body == b"1":
                await _until(lambda: client.prefetched() == 2)
                await (await client.consumer.get_underlay_channel()).basic_ack(0, multiple=True)
                continue
            async with hopspan.process(message, policy=hopspan.reject_on_error):
                pass
            if message.body == b"3":
                break

    client.events.done(consume())
    client.sync()
    assert [("ack", 0, True)] == client.frames
    client.expect_queues()


# -- handlers' contexts ----------------------------------------------------------------------------


@over(face=FACES, robust=(True, False))
def the_context_in_which_a_channel_was_opened_is_nobodys_parent(
    client: AioPikaClient, robust: bool
) -> None:
    with client.span("opening"), client.baggage(whose="the opener's"):
        client.consumer = client.open_channel(robust=robust)
    with client.baggage(tenant="acme"):
        client.send(b"1")
    seen: list[Any] = []
    ran = client.subscribe(lambda _: seen.append(dict(baggage.get_all())))
    client.drive(lambda: ran.times)
    assert [{"tenant": "acme"}] == seen
    client.expect_spans(Span("opening"), client.a_publish(trace=1), client.a_process(trace=1))


@over(face=FACES)
def a_suppressed_handler_is_settled_and_finds_its_delivery(client: AioPikaClient) -> None:
    found: list[bool] = []

    def handler(message: Message) -> None:
        operation = hopspan.current()
        found.append(bool(operation))
        if message.body == b"2":
            operation.fail("no stock")

    with silence():
        client.consumer = client.open_channel()
    for body in (b"1", b"2"):
        client.send_untraced(body)
    ran = client.subscribe(handler, policy=hopspan.reject_on_error)
    client.drive(lambda: ran.times == 2, ran)
    client.sync()
    assert [True, True] == found
    assert ["ack", "reject"] == client.settlements()


# -- kinds of handlers -----------------------------------------------------------------------------


class _Worker:
    """Handlers of all kinds."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def handle(self, message: Any) -> None:
        self.bodies.append(message.body)

    @hopspan.consumer
    async def decorated(self, message: Any) -> None:
        self.bodies.append(message.body)

    async def __call__(self, message: Any) -> None:
        self.bodies.append(message.body)

    async def with_more(self, more: str, message: Any) -> None:
        assert more == "more"
        self.bodies.append(message.body)

    def plainly(self, message: Any) -> None:
        self.bodies.append(message.body)

    def coroutine_of(self, message: Any) -> Any:
        return self.handle(message)


HANDLERS: dict[str, Any] = {
    "method": lambda worker: worker.handle,
    "object": lambda worker: worker,
    "partial": lambda worker: functools.partial(worker.with_more, "more"),
    "decorated method": lambda worker: worker.decorated,
    "partial of a decorated method": lambda worker: functools.partial(worker.decorated),
    "decorated object": hopspan.consumer,
    "decorated partial": lambda worker: hopspan.consumer(
        functools.partial(worker.with_more, "more")
    ),
    "plain method": lambda worker: worker.plainly,
    "plain function": lambda worker: lambda message: worker.plainly(message),
    "function that returns a coroutine": lambda worker: lambda message: worker.handle(message),
}


@over(kind=HANDLERS, face=TRACED)
def every_kind_of_callable_is_a_handler(client: AioPikaClient, kind: str) -> None:
    worker = _Worker()
    client.send()
    client.enter_face(policy=hopspan.reject_on_error)
    with _deprecated():
        client.register(HANDLERS[kind](worker))
        client.drive(client.settlements)
    assert [b"order"] == worker.bodies
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))


@contextlib.contextmanager
def _deprecated() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _plainly(_message: Any) -> None: ...


def _failing(_message: Any) -> None:
    raise NO


async def _awaited(_message: Any) -> None: ...


async def _failing_later(_message: Any) -> None:
    raise NO


PLAIN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "plain function": (_plainly, "ack"),
    "plain function that fails": (_failing, "reject"),
    "function that returns a coroutine": (lambda message: _awaited(message), "ack"),
    "function that returns a coroutine that fails": (
        lambda message: _failing_later(message),
        "reject",
    ),
}
"""Handlers that are no coroutine functions, and what becomes of their message."""


@over(kind=PLAIN, face=FACES, sampling=SAMPLINGS)
def a_decorated_handler_that_is_no_coroutine_function_is_settled(
    client: AioPikaClient, kind: str
) -> None:
    plain, verdict = PLAIN[kind]
    client.send()
    client.enter_face()
    with _deprecated():
        client.register(hopspan.consumer(**client.settings(policy=hopspan.reject_on_error))(plain))
        client.drive(client.settlements)
    client.sync()
    assert [verdict] == client.settlements()
    if verdict == "ack":
        client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))
    else:
        client.expect_spans(
            client.a_publish(), client.a_process(**REJECTED).failed(NO), client.a_settle(**REJECTED)
        )


@over(face=TRACED)
def a_decorator_that_the_queue_cannot_see_still_has_its_say(client: AioPikaClient) -> None:
    client.send()
    decorated = client.receiver(raises(NO), decorated=True, policy=client.rejecting, reraise=True)

    async def around(message: Any) -> Any:
        return await decorated(message)

    client.enter_face(policy=hopspan.ack_always)
    client.register(around)
    ran = Ran()
    client.drive(lambda: ran.escaped, ran)
    client.sync()
    assert [NO] == ran.escaped
    assert ["reject"] == client.settlements()


# -- reconnects ------------------------------------------------------------------------------------


@over(face=("wrapped", "instrumented", "together"))
def a_handler_has_one_layer_however_often_its_connection_came_back(client: AioPikaClient) -> None:
    connection = client.connect(robust=True)
    with client.span("opening"):
        client.consumer = client.events.step(connection.channel())
    client.events.step(client.consumer.set_qos(prefetch_count=1))
    ran = client.subscribe(succeeds, policy=hopspan.reject_on_error)
    for number in range(3):
        before = client.events.step(client.consumer.get_underlay_channel())
        client.cut()
        assert client.events.until(lambda: _is_back(client, before))  # noqa: B023 - awaited here
        with client.span(f"order {number}"):
            client.send(b"%d" % number)
        client.drive(lambda: ran.times == number + 1, ran)  # noqa: B023 - as well
    client.sync()
    assert [b"0", b"1", b"2"] == ran.bodies
    assert ["ack"] * 3 == client.settlements()
    expected = [Span("opening")]
    for number in range(3):
        order = Span(f"order {number}", trace=number + 1)
        sent = client.a_publish(parent=order.name, trace=number + 1)
        expected += [order, sent, client.a_process(settlement="ack", trace=number + 1)]
    client.expect_spans(*expected)


def _is_back(client: AioPikaClient, before: Any) -> bool:
    now: Any = getattr(client.consumer, "_channel", None)
    return now is not None and now.channel is not before and bool(now.channel.consumers)


@over(face=TRACED)
def a_message_from_before_a_reconnect_is_not_settled_after_it(client: AioPikaClient) -> None:
    connection = client.connect(robust=True)
    client.consumer = client.events.step(connection.channel())
    client.send()
    client.enter_face()
    message = client.take()
    before = client.events.step(client.consumer.get_underlay_channel())
    client.cut()
    assert client.events.until(lambda: before.is_closed)
    with client.block(client.message(message), policy=hopspan.reject_on_error):
        pass
    (line,) = client.lines.take()
    assert f"could not ack a message of {client.queue}; the broker will hand it out again" == line
    *_, settle = client.telemetry.spans()
    assert (f"ack {client.queue}", "error", "ack") == (
        settle.name,
        settle.status,
        settle.settlement,
    )
    assert [] == client.frames
    assert client.events.until(lambda: not client.consumer.is_closed)


# -- settled by the user ---------------------------------------------------------------------------


async def _by_message(message: Any) -> None:
    await message.ack()


async def _up_to_it(message: Any) -> None:
    await message.ack(multiple=True)


async def _by_raw_channel(message: Any) -> None:
    await message.channel.basic_ack(message.delivery_tag)


async def _without_waiting(message: Any) -> None:
    await message.channel.basic_ack(message.delivery_tag, wait=False)


async def _by_keyword(message: Any) -> None:
    await message.channel.basic_ack(multiple=True, delivery_tag=message.delivery_tag)


async def _by_process(message: Any) -> None:
    async with message.process():
        pass


WAYS = (_by_message, _up_to_it, _by_raw_channel, _without_waiting, _by_keyword, _by_process)


@over(way=WAYS, face=FACES, sampling=SAMPLINGS)
def whichever_way_a_message_is_acked_it_is_acked_once(client: AioPikaClient, way: Any) -> None:
    client.send(b"1")
    client.send(b"2")

    def handler(message: Message) -> None:
        if message.body == b"1":
            client.events.step(way(message.native))

    client.handle(handler, runs=2, policy=hopspan.reject_on_error)
    assert ["ack", "ack"] == client.settlements()
    client.expect_queues()


@over(face=FACES, sampling=SAMPLINGS)
def what_message_process_rejects_is_rejected_once(client: AioPikaClient) -> None:
    client.send()

    def handler(message: Message) -> None:
        async def work() -> None:
            async with message.native.process():
                raise NO

        client.events.step(work())

    client.handle(handler, policy=hopspan.requeue_once)
    assert ["reject"] == client.settlements()
    client.expect_spans(
        client.a_publish(),
        client.a_process(settlement="reject").failed(NO),
        client.a_settle("reject", name=client.rejects),
    )
    client.expect_queues(dead=1)


@over(face=FACES)
def the_defaults_of_nack_and_reject_are_known(client: AioPikaClient) -> None:
    client.send()
    handler = in_turn(
        lambda message: client.events.step(message.native.nack()),
        lambda message: client.events.step(message.native.reject()),
    )
    client.handle(handler, runs=2)
    assert [("nack", 1, False, True), ("reject", 2, False)] == client.frames
    assert ["requeue", "reject"] == [
        (span.attributes or {})["hopspan.settlement"]
        for span in client.telemetry.named(client.processes)
    ]


@over(sampling=SAMPLINGS)
def a_second_ack_is_refused_by_the_client_and_not_sent(client: AioPikaClient) -> None:
    client.send()

    def handler(message: Message) -> None:
        message.ack()
        with pytest.raises(MessageProcessError):
            message.ack()

    client.handle(handler, policy=hopspan.reject_on_error)
    assert [("ack", 1, False)] == client.frames


def settlements_at_once_are_each_made_once(client: AioPikaClient) -> None:
    for body in (b"1", b"2", b"3"):
        client.send_untraced(body)
    arrived: list[Any] = []
    go = asyncio.Event()

    @hopspan.consumer(policy=hopspan.reject_on_error, **client.settings())
    async def handler(message: Any) -> None:
        arrived.append(message)
        if len(arrived) == 3:
            go.set()
            await message.ack(multiple=True)
        else:
            await go.wait()

    client.events.step(client.consumer.set_qos(prefetch_count=3))
    client.register(handler)
    client.drive(lambda: len(arrived) == 3)
    client.sync()
    assert [("ack", 3, True)] == client.frames
    client.expect_queues()


# -- cancelled -------------------------------------------------------------------------------------


@over(face=FACES, sampling=SAMPLINGS, policy=("reject_on_error", "ack_always", "requeue_once"))
def the_message_of_a_handler_that_is_cancelled_is_given_back(
    client: AioPikaClient, policy: str
) -> None:
    client.send()
    tasks: list[Any] = []
    settings = client.settings(policy=getattr(hopspan, policy))

    async def handler(_message: Any) -> None:
        tasks.append(asyncio.current_task())
        if len(tasks) == 1:
            await asyncio.Event().wait()

    _register(client, handler, settings)
    assert client.events.until(lambda: tasks)
    tasks[0].cancel()
    client.drive(lambda: len(tasks) == 2)
    client.sync()
    assert ["requeue", "ack"] == client.settlements()
    verdict = {"settlement": "requeue", "reason": "cancelled"}
    client.expect_spans(
        client.a_publish(),
        client.a_process(cancelled=True, **verdict),
        client.a_settle(**verdict),
        client.a_process(settlement="ack"),
    )
    client.expect_queues()


def _register(client: AioPikaClient, handler: Any, settings: dict[str, Any]) -> None:
    """Have a coroutine called with the queue's messages, under the scenario's face."""
    policy = {"policy": settings["policy"]}
    if client.face in {"decorated", "together"}:
        handler = hopspan.consumer(**settings)(handler)
        policy = {}
    client.enter_face(**policy)
    client.register(handler)


@over(face=FACES, sampling=SAMPLINGS)
def the_message_of_a_handler_that_its_closed_channel_cancels_is_left(client: AioPikaClient) -> None:
    client.send()
    ended: list[str] = []

    async def handler(_message: Any) -> None:
        ended.append("began")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    _register(client, handler, client.settings(policy=hopspan.reject_on_error))
    assert client.events.until(lambda: ended)
    client.close_channel()
    client.drive(lambda: len(ended) == 2)
    assert ["began", "cancelled"] == ended
    assert [] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(cancelled=True))
    client.expect_queues(waiting=1)


@over(face=FACES, sampling=SAMPLINGS)
def a_task_that_a_handler_starts_does_not_keep_its_message(client: AioPikaClient) -> None:
    go, tasks = asyncio.Event(), []
    bodies: list[bytes] = []

    async def handler(message: Any) -> None:
        tasks.append(asyncio.ensure_future(go.wait()))
        bodies.append(message.body)

    client.send(b"x" * 1000)
    _register(client, handler, client.settings(policy=hopspan.reject_on_error))
    client.drive(client.settlements)
    gc.collect()
    assert not tasks[0].done()
    assert not is_held(bodies)
    go.set()
    client.drive(tasks[0].done)


# -- deferred to tasks -----------------------------------------------------------------------------


@over(face=FACES, sampling=SAMPLINGS)
def deferred_work_in_a_task_is_settled_when_it_is_done(client: AioPikaClient) -> None:
    client.send()
    go, tasks = asyncio.Event(), []

    async def work(deferred: Any) -> None:
        async with deferred as operation:
            await go.wait()
            assert operation is hopspan.current()
            with client.span("work"):
                pass

    async def handler(_message: Any) -> None:
        tasks.append(asyncio.ensure_future(work(hopspan.current().defer())))

    _register(client, handler, client.settings(policy=hopspan.reject_on_error))
    client.drive(lambda: tasks)
    client.sync()
    assert [] == client.settlements()
    go.set()
    client.drive(tasks[0].done)
    client.sync()
    assert ["ack"] == client.settlements()
    client.expect_spans(
        client.a_publish(),
        client.a_process(settlement="ack"),
        Span("work", parent=client.processes),
    )
    client.expect_queues()


def a_handler_that_raises_while_its_task_goes_on_leaves_it_to_the_task(
    client: AioPikaClient,
) -> None:
    client.send()
    go, entered, tasks = asyncio.Event(), asyncio.Event(), []

    async def work(deferred: Any) -> None:
        async with deferred:
            entered.set()
            await go.wait()

    async def handler(_message: Any) -> None:
        tasks.append(asyncio.ensure_future(work(hopspan.current().defer())))
        await entered.wait()
        raise NO

    _register(client, handler, client.settings(policy=hopspan.reject_on_error))
    ran = Ran()
    client.drive(lambda: ran.escaped, ran)
    assert [NO] == ran.escaped
    assert [] == client.settlements()
    go.set()
    client.drive(tasks[0].done)
    client.sync()
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))


@over(way=("block", "deferred"))
def a_plain_block_that_would_settle_is_refused(client: AioPikaClient, way: str) -> None:
    client.send()
    message = client.fetch()
    block: Any = client.block(message, policy=hopspan.reject_on_error)
    written = "hopspan.process(...)"
    if way == "deferred":
        with block as operation:
            block, written = operation.defer(), "operation"
    with client.plain_blocks():
        said = refusal(hopspan.PolicyError, block.__enter__)
    assert (
        f"`with {written}` cannot settle for aio-pika, whose settlement is awaited: "
        f"write `async with {written}`"
    ) == said
    if way == "deferred":
        with block:
            pass
    assert ["ack"] * (way == "deferred") == client.settlements()


def _refused_plain_block(client: AioPikaClient, message: Message) -> None:
    """A block that is refused, because settling must be awaited."""
    with client.plain_blocks(), client.block(message, policy=hopspan.reject_on_error):
        raise AssertionError("unreachable")


@over(face=FACES, sampling=SAMPLINGS, escapes=(True, False))
def a_plain_block_that_was_refused_in_a_handler_settles_nothing(
    client: AioPikaClient, escapes: bool
) -> None:
    def handler(message: Message) -> None:
        try:
            _refused_plain_block(client, message)
        except hopspan.PolicyError:
            if escapes:
                raise

    client.send()
    ran = client.handle(handler)
    client.drive(lambda: not client.running, ran)
    assert ["PolicyError"] * escapes == [type(each).__name__ for each in ran.escaped]
    assert [] == client.settlements()
    if client.telemetry.records:
        (process,) = (span for span in client.telemetry.spans() if span.kind == "consumer")
        assert (None, None) == (process.settlement, process.reason)
    client.expect_queues(waiting=1)


@over(style="loops", face=TRACED, sampling=SAMPLINGS)
def a_plain_block_that_was_refused_in_a_loop_settles_nothing(
    client: AioPikaClient, style: str
) -> None:
    client.send()
    with contextlib.suppress(hopspan.PolicyError):
        for item in client.loop(style):
            _refused_plain_block(client, client.message(item))
    assert [] == client.settlements()
    assert [] == client.lines.take()
    client.expect_queues(waiting=1)


def a_plain_block_that_settles_nothing_is_fine(client: AioPikaClient) -> None:
    client.send()
    message = client.fetch()
    with client.plain_blocks(), client.block(message) as operation:
        assert operation is hopspan.current()
    client.expect_spans(client.a_publish(), client.a_process())


# -- wrapped objects -------------------------------------------------------------------------------


def _objects(client: AioPikaClient, connection: Any) -> dict[str, Any]:
    """One of each, by way of a connection."""
    step = client.events.step
    channel = step(connection.channel())
    name = f"objects-{client.queue}"
    client._exchanges.add(name)
    queue = step(channel.declare_queue(client.queue, passive=True))
    return {
        "connection": connection,
        "channel": channel,
        "declared exchange": step(channel.declare_exchange(name, "topic")),
        "exchange": step(channel.get_exchange(name)),
        "default exchange": channel.default_exchange,
        "declared queue": queue,
        "queue": step(channel.get_queue(client.queue)),
        "iterator": queue.iterator(),
    }


@over(robust=(True, False))
def wrapped_objects_are_what_they_were(client: AioPikaClient, robust: bool) -> None:
    plain = _objects(client, client.connect(robust=robust))
    wrapped = _objects(client, hopspan.wrap(client.connect(robust=robust), **client.settings()))
    for name, original in plain.items():
        ours = wrapped[name]
        assert isinstance(ours, type(original)), name
        assert type(original).__name__ == type(ours).__name__
        dunders = {each for each in dir(original) if each.startswith("__")}
        assert set() == dunders - {each for each in dir(ours) if each.startswith("__")}, name
        assert str(original).split("-")[0] == str(ours).split("-")[0]
        assert ours == ours  # noqa: PLR0124 - that is what it is about
        assert isinstance(hash(ours), int)
        for method in ("__aenter__", "__aexit__", "__aiter__", "__anext__", "__await__"):
            theirs = getattr(type(original), method, None)
            assert inspect.iscoroutinefunction(theirs) is inspect.iscoroutinefunction(
                getattr(type(ours), method, None)
            ), (name, method)
    exchange, queue = wrapped["exchange"], wrapped["queue"]
    assert isinstance(exchange, AbstractExchange)
    assert exchange.name == get_exchange_name(exchange)
    client.events.step(queue.bind(exchange, "order.#"))
    client.send_to(exchange.name, "order.created")
    assert b"order" == client.take().body
    client.events.step(queue.unbind(exchange, "order.#"))


def wrapped_objects_can_be_used_as_the_originals(client: AioPikaClient) -> None:
    async def use() -> bytes:
        connection = await aio_pika.connect(client.url)
        async with hopspan.wrap(connection, **client.settings()) as entered:
            assert entered is connection
            async with connection.channel() as channel:
                queue = await channel.get_queue(client.queue)
                await channel.default_exchange.publish(aio_pika.Message(b"order"), queue.name)
                async with queue.iterator() as messages:
                    async for message in messages:
                        await message.ack()
                        break
        assert connection.is_closed
        return message.body

    assert b"order" == client.events.done(use())
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))


@over(what=("channel", "exchange", "queue"))
def each_kind_of_object_can_be_wrapped_alone(client: AioPikaClient, what: str) -> None:
    step, channel = client.events.step, client.open_channel()
    exchange, queue = channel.default_exchange, step(channel.get_queue(client.queue))
    hopspan.wrap(
        {"channel": channel, "exchange": exchange, "queue": queue}[what], **client.settings()
    )
    if what == "channel":
        queue = step(channel.get_queue(client.queue))
    step(channel.default_exchange.publish(aio_pika.Message(b"order"), client.queue))
    step(step(queue.get()).ack())
    sent = {"links": ()} if what == "queue" else {}
    spans = {
        "channel": (client.a_publish(), client.a_receive(trace=1)),
        "exchange": (client.a_publish(),),
        "queue": (client.a_receive(**sent),),
    }
    client.expect_spans(*spans[what])


def a_method_that_was_replaced_on_a_channel_is_left_alone(client: AioPikaClient) -> None:
    channel = client.open_channel()
    exchange = channel.default_exchange
    before = exchange.publish

    async def theirs(*args: Any, **kwargs: Any) -> Any:
        return await before(*args, **kwargs)

    vars(exchange)["publish"] = theirs
    hopspan.wrap(exchange, **client.settings())
    assert theirs is vars(exchange)["publish"]
    assert [
        "hopspan leaves Exchange.publish alone: another instrumentation replaced it on this instance"
    ] == client.lines.take()


def a_policy_that_another_instrumentation_would_lose_is_refused(client: AioPikaClient) -> None:
    original = aio_pika.Queue.consume

    @functools.wraps(original)
    async def theirs(*args: Any, **kwargs: Any) -> Any:
        return await original(*args, **kwargs)

    with mock.patch.object(aio_pika.Queue, "consume", theirs):
        with pytest.raises(hopspan.ConfigurationError) as refused:
            client.instrument(policy=hopspan.ack_always)
        assert theirs is vars(aio_pika.Queue)["consume"]
    client.lines.take()
    assert (
        "Queue.consume cannot be instrumented, so policy ack_always would be lost: another "
        "instrumentation wraps aio_pika.queue:Queue.consume already; use one of the two, or spans "
        "are doubled"
    ) == str(refused.value)
    assert interception.owner_of(adapter_named(client.NAME).points[0].owner) is aio_pika.Exchange


# -- in aio-pika's words ---------------------------------------------------------------------------

RABBITMQ_DOES_IT = (
    "policy dead_letter('orders.dlt') cannot work with aio-pika: RabbitMQ dead-letters by itself. "
    "Declare the queue with the argument x-dead-letter-exchange and use "
    "policy=hopspan.reject_on_error"
)
NO_ACK = (
    "it was given no_ack=True, so the broker forgets a message when it hands it out. Consume with "
    "no_ack=False, or use policy=hopspan.manual"
)


@over(face=FACES)
def a_policy_that_dead_letters_is_refused(client: AioPikaClient) -> None:
    client.send()
    block = client.block(client.fetch(), policy=DEAD_LETTER)
    assert RABBITMQ_DOES_IT == refusal(hopspan.PolicyError, block.__enter__)
    if client.face != "decorated":
        said = refusal(hopspan.PolicyError, lambda: client.subscribe(succeeds, policy=DEAD_LETTER))
        assert RABBITMQ_DOES_IT == said
        return
    client.send()
    ran = client.subscribe(succeeds, policy=DEAD_LETTER)
    client.drive(lambda: ran.escaped, ran)
    assert [RABBITMQ_DOES_IT] == list(map(str, ran.escaped))
    assert 0 == ran.times


@over(face=FACES)
def a_policy_that_settles_is_refused_where_nothing_is_left_to_settle(client: AioPikaClient) -> None:
    settle: dict[str, Any] = {"auto_ack": True, "policy": hopspan.reject_on_error}
    cannot = "policy reject_on_error cannot settle for"
    if client.face != "decorated":
        said = refusal(hopspan.PolicyError, lambda: client.subscribe(succeeds, **settle))
        assert f"{cannot} a consumer of {client.queue!r}: {NO_ACK}" == said
        return
    client.send()
    ran = client.subscribe(succeeds, **settle)
    client.drive(lambda: ran.escaped, ran)
    assert [f"{cannot} the consumer of {client.queue}: {NO_ACK}"] == list(map(str, ran.escaped))
    assert 0 == ran.times


def mistakes_are_told_with_the_name_that_users_write(_client: AioPikaClient) -> None:
    with pytest.raises(hopspan.ConfigurationError) as error:
        hopspan.instrument("rabbit")
    assert "unknown client 'rabbit'; hopspan knows aio-pika, celery, kafka, pika" == str(
        error.value
    )
    with (
        mock.patch.object(importlib.util, "find_spec", return_value=None),
        pytest.raises(hopspan.ConfigurationError) as error,
    ):
        hopspan.instrument("aio-pika")
    assert "aio-pika is not installed: pip install 'hopspan[aio-pika]'" == str(error.value)


def counters_only_ever_rise(client: AioPikaClient) -> None:
    counted = []
    for _ in range(2):
        client.send()
        client.handle(succeeds, policy=hopspan.ack_always)
        client.events.step(client.consumer.close())
        client.consumer = client.open_channel()
        counted.append(
            {
                name: point.value
                for name, _, point in client.telemetry.points()
                if hasattr(point, "value")
            }
        )
    names = ("messaging.client.sent.messages", "messaging.client.consumed.messages")
    assert [dict.fromkeys(names, 1), dict.fromkeys(names, 2)] == counted
