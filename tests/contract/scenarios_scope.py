"""What a handler does is inside its process span, in every style, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from opentelemetry import baggage, trace
from opentelemetry.context import get_current

import hopspan
from tests.contract.client import DEADLINE, Client, Message, raises, succeeds
from tests.contract.suite import FACES, SAMPLINGS, needs, over
from tests.contract.telemetry import Span


def _process_and_below(client: Client) -> list[Span]:
    """The handling of the queue's messages; how they were asked for differs from style to style."""
    return [span for span in client.telemetry.spans() if span.name != client.receives]


# -- every style -----------------------------------------------------------------------------------


@over(style="styles", face=("wrapped", "instrumented"))
def what_a_handler_does_is_inside_its_process_span(client: Client, style: str) -> None:
    seen: list[Any] = []

    def body(message: Message) -> None:
        seen.append((message.body, dict(baggage.get_all()), bool(hopspan.current())))
        with client.span("work"):
            client.send(b"next")

    with client.baggage(tenant="acme"):
        client.send()
    client.consume_by(style, body)
    assert [(b"order", {"tenant": "acme"}, True)] == seen
    assert [
        client.a_publish(),
        client.a_process(),
        Span("work", parent=client.processes),
        client.a_publish(parent="work"),
    ] == _process_and_below(client)
    assert client.is_current_nothing()


@over(style="styles", sampling=("unsampled", "no SDK"))
def a_handler_finds_its_delivery_also_where_nothing_is_recorded(client: Client, style: str) -> None:
    seen: list[Any] = []

    def body(_message: Message) -> None:
        operation = hopspan.current()
        seen.append((bool(operation), operation.delivery.redelivered, dict(baggage.get_all())))
        with client.span("work"):
            assert operation is hopspan.current()

    with client.baggage(tenant="acme"):
        client.send()
    client.consume_by(style, body)
    assert [(True, False, {"tenant": "acme"})] == seen
    client.expect_spans()


@over(face=FACES, sampling=SAMPLINGS)
def after_a_handler_the_context_is_what_it_was(client: Client) -> None:
    client.send()
    with client.span("around"), client.baggage(whose="mine"):
        before = get_current()
        client.handle(raises(ValueError("no")), policy=client.reject_on_error)
        assert before is get_current()


@over(face=FACES)
def two_messages_in_a_row_share_nothing(client: Client) -> None:
    for number in ("1", "2"):
        with client.baggage(number=number):
            client.send(number.encode())
    ran = client.handle(lambda _: dict(baggage.get_all()), runs=2, prefetch=2)
    assert [{"number": "1"}, {"number": "2"}] == ran.results


def outside_of_a_delivery_the_current_operation_is_falsy_and_does_nothing(client: Client) -> None:
    operation = hopspan.current()
    assert not operation
    operation.fail("nobody hears it")
    with operation.defer() as deferred:
        assert not deferred
    assert not operation.span.get_span_context().is_valid
    client.expect_spans()


# -- loops -----------------------------------------------------------------------------------------


def _send(client: Client, *bodies: bytes) -> None:
    for body in bodies:
        with client.baggage(body=body.decode()):
            client.send(body)


def _break(client: Client, loop: Any) -> None:
    for _ in loop:
        break


def _return(client: Client, loop: Any) -> None:
    def look_for_one(loop: Any) -> Any:
        for item in loop:
            return item
        return None

    look_for_one(loop)


def _raise(client: Client, loop: Any) -> None:
    try:
        for _ in loop:
            raise ValueError
    except ValueError:
        pass


def _cancel(client: Client, loop: Any) -> None:
    try:
        for _ in loop:
            raise asyncio.CancelledError
    except asyncio.CancelledError:
        pass


def _exhaust(client: Client, loop: Any) -> None:
    for _ in loop:
        client.end_loop()


def _close(client: Client, loop: Any) -> None:
    for _ in loop:
        loop.close()


def _drop(client: Client, loop: Any) -> None:
    next(loop)


WAYS_OUT = (_break, _return, _raise, _cancel, _exhaust, _close, _drop)


@over(style="loops", way_out=WAYS_OUT, face=("wrapped", "instrumented"))
def however_a_loop_is_left_the_context_is_what_it_was(
    client: Client, style: str, way_out: Callable[..., None]
) -> None:
    _send(client, b"1")
    with client.span("around"), client.baggage(whose="mine"):
        before = get_current()
        way_out(client, client.loop(style))
        assert before is get_current()
    assert client.is_current_nothing()
    with client.span("after"):
        pass
    publish, *rest = _process_and_below(client)
    assert client.a_publish() == publish
    assert [
        Span("around", trace=1),
        client.a_process(parent="around", trace=1),
        Span("after", trace=2),
    ] == rest
    assert [] == client.settlements()


@over(style="loops")
def each_turn_of_a_loop_is_in_its_own_messages_trace(client: Client, style: str) -> None:
    _send(client, b"1", b"2", b"3")
    seen = []
    for item in client.loop(style, prefetch=3):
        message = client.message(item)
        with client.span("work " + message.body.decode()):
            seen.append((message.body, baggage.get_all()["body"]))
        if message.body == b"3":
            break
    assert [(b"1", "1"), (b"2", "2"), (b"3", "3")] == seen
    turns = [
        span
        for trace_, name in enumerate(("1", "2", "3"))
        for span in (
            client.a_process(trace=trace_),
            Span(f"work {name}", parent=client.processes, trace=trace_),
        )
    ]
    assert turns == _process_and_below(client)[3:]


@over(style="loops")
def what_comes_after_the_acknowledgement_is_still_the_handler(client: Client, style: str) -> None:
    _send(client, b"1")
    for item in client.loop(style):
        client.message(item).ack()
        with client.span("after the ack"):
            pass
        break
    assert ["ack"] == client.settlements()
    assert [
        client.a_publish(),
        client.a_process(settlement="ack"),
        Span("after the ack", parent=client.processes),
    ] == _process_and_below(client)


@over(style="loops", sampling=SAMPLINGS)
@needs("nacks")
def a_loop_knows_a_failure_from_a_rejection(client: Client, style: str) -> None:
    _send(client, b"1")
    for item in client.loop(style):
        client.message(item).reject()
        break
    assert ["reject"] == client.settlements()
    failed = {"status": "error", "error": "reject", "description": "reject by handler"}
    settle = [client.a_settle("reject", name=client.rejects)]
    if client.telemetry.records:
        assert [client.a_publish(), client.a_process(settlement="reject", **failed), *settle] == (
            _process_and_below(client)
        )


@over(style="loops", sampling=("sampled",))
def a_loop_knows_a_failure_from_its_spans_status(client: Client, style: str) -> None:
    _send(client, b"1")
    for _ in client.loop(style):
        trace.get_current_span().set_status(trace.StatusCode.ERROR, "no stock")
        break
    failed = {"status": "error", "error": "_OTHER", "description": "no stock"}
    assert client.a_process(**failed) == _process_and_below(client)[-1]


@over(style="loops")
def a_loop_knows_a_failure_that_is_declared(client: Client, style: str) -> None:
    _send(client, b"1")
    for _ in client.loop(style):
        hopspan.current().fail("no stock", type="no_stock")
        break
    failed = {"status": "error", "error": "no_stock", "description": "no stock"}
    assert client.a_process(**failed) == _process_and_below(client)[-1]


@over(style="loops")
def spans_that_the_body_leaves_open_do_not_keep_the_loop_from_ending(
    client: Client, style: str
) -> None:
    _send(client, b"1", b"2")
    for item in client.loop(style, prefetch=2):
        opened = client.span("across turns")
        if client.message(item).body == b"1":
            opened.__enter__()
            first = opened
            continue
        first.__exit__(None, None, None)
        break
    del opened, item
    assert client.is_current_nothing()


@over(style="loops")
def two_loops_at_once_leave_nothing_behind(client: Client, style: str) -> None:
    _send(client, b"1", b"2", b"3", b"4")
    others = hopspan.each(
        [client.fetch().native for _ in range(2)], via=client.via, **client.settings()
    )
    loop = client.loop(style, prefetch=4)
    bodies = [client.message(item).body for _, item in zip(others, loop, strict=False)]
    assert [b"3", b"4"] == bodies
    del others, loop
    gc.collect()
    assert client.is_current_nothing()


# -- driven from elsewhere -------------------------------------------------------------------------


def _ours(source: Any) -> Iterator[Any]:
    """A generator of the user's own around the loop."""
    yield from source


@over(style="loops")
def a_loop_inside_of_the_users_own_generator_leaves_nothing_behind(
    client: Client, style: str
) -> None:
    _send(client, b"1", b"2")
    before = get_current()
    loop = _ours(client.loop(style, prefetch=2))
    bodies = [client.message(item).body for _, item in zip("12", loop, strict=False)]
    del loop
    gc.collect()
    assert [b"1", b"2"] == bodies
    assert before == get_current()


@over(style="loops")
def a_loop_driven_from_other_threads_is_not_in_scope_and_says_nothing(
    client: Client, style: str
) -> None:
    _send(client, b"1", b"2")

    async def consume() -> None:
        before = get_current()
        loop = iter(client.loop(style, prefetch=2))
        for body in (b"1", b"2"):
            item = await asyncio.to_thread(next, loop)
            assert body == client.message(item).body
            assert before == get_current()
        await asyncio.to_thread(client.in_thread(lambda: None).result)

    asyncio.run(consume())
    deadline = time.monotonic() + DEADLINE
    while len(_process_and_below(client)) < 4 and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.001)  # the last turn ends with the loop, and a thread may still hold that
    assert [client.processes] * 2 == [span.name for span in _process_and_below(client)[2:]]


@over(style="loops")
def a_loop_driven_from_another_task_is_not_in_scope_and_says_nothing(
    client: Client, style: str
) -> None:
    _send(client, b"1", b"2")

    async def consume() -> None:
        loop = iter(client.loop(style, prefetch=2))

        async def following() -> Any:
            return next(loop)

        for body in (b"1", b"2"):
            before = get_current()
            item = await asyncio.wait_for(asyncio.ensure_future(following()), 5)
            assert body == client.message(item).body
            assert before == get_current()

    asyncio.run(consume())
    gc.collect()


@over(style="loops")
def a_loop_that_is_dropped_in_another_thread_leaves_nothing_behind(
    client: Client, style: str
) -> None:
    _send(client, b"1")
    held = [iter(client.loop(style))]
    next(held[0])
    client.in_thread(held.clear).result()
    gc.collect()
    assert client.a_process() == _process_and_below(client)[-1]
    client.forget_context()


# -- several faces, one handling -------------------------------------------------------------------


@over(style="loops")
@needs("settles")
def a_block_in_a_loops_body_settles_and_is_the_same_span(client: Client, style: str) -> None:
    _send(client, b"1")
    for item in client.loop(style):
        with client.block(client.message(item), policy=client.reject_on_error) as operation:
            assert operation is hopspan.current()
        break
    assert ["ack"] == client.settlements()
    assert [client.a_publish(), client.a_process(settlement="ack")] == _process_and_below(client)


@over(face=FACES)
def a_block_in_a_handler_is_the_same_span(client: Client) -> None:
    client.send()

    def handler(message: Message) -> None:
        with hopspan.process(message.native, via=message.via, **client.settings()) as operation:
            assert operation is hopspan.current()

    client.handle(handler)
    client.expect_spans(client.a_publish(), client.a_process())


@over(face=FACES)
def a_handler_may_handle_another_message_inside(client: Client) -> None:
    client.send(b"1")
    client.send(b"2")
    other = client.fetch()

    def handler(_message: Message) -> None:
        with client.block(other):
            pass

    client.handle(handler)
    inner = client.a_process(parent=client.processes, trace=1)
    assert [client.a_process(trace=1), inner] == _process_and_below(client)[2:]


@over(face=("decorated",))
def a_handler_is_still_the_plain_function_underneath(client: Client) -> None:
    plain = client.receiver(succeeds)
    decorated = hopspan.consumer(**client.settings())(plain)
    assert plain is decorated.__wrapped__
    assert plain.__name__ == decorated.__name__


# -- asynchronous loops ----------------------------------------------------------------------------


async def _fetched(client: Client, *bodies: bytes) -> AsyncIterator[Any]:
    """What a client with an event loop of its own would hand out."""
    for _ in bodies:
        await asyncio.sleep(0)
        yield client.fetch().native


def _async_loop(client: Client, *bodies: bytes) -> Any:
    _send(client, *bodies)
    return hopspan.each(_fetched(client, *bodies), via=client.via, **client.settings())


def each_turn_of_an_asynchronous_loop_is_in_its_own_messages_trace(client: Client) -> None:
    loop = _async_loop(client, b"1", b"2")

    async def consume() -> list[Any]:
        seen = []
        async for item in loop:
            await asyncio.sleep(0)
            with client.span("work"):
                seen.append((client.message(item).body, baggage.get_all()["body"]))
        return seen

    assert [(b"1", "1"), (b"2", "2")] == asyncio.run(consume())
    work = Span("work", parent=client.processes)
    assert [
        client.a_process(),
        work,
        client.a_process(trace=1),
        work._replace(trace=1),
    ] == _process_and_below(client)[2:]


async def _break_out(loop: Any) -> None:
    async for _ in loop:
        break


async def _raise_out(loop: Any) -> None:
    with contextlib.suppress(ValueError):
        async for _ in loop:
            raise ValueError


async def _cancel_out(loop: Any) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        async for _ in loop:
            raise asyncio.CancelledError


async def _run_out(loop: Any) -> None:
    async for _ in loop:
        pass


async def _close_out(loop: Any) -> None:
    async for _ in loop:
        await loop.aclose()


@over(way_out=(_break_out, _raise_out, _cancel_out, _run_out, _close_out))
def however_an_asynchronous_loop_is_left_the_context_is_what_it_was(
    client: Client, way_out: Callable[[Any], Awaitable[None]]
) -> None:
    loops = [_async_loop(client, b"1")]

    async def consume() -> None:
        with client.span("around"):
            before = get_current()
            await way_out(loops.pop())
            assert before is get_current()

    asyncio.run(consume())
    assert client.a_process(parent="around", trace=1) == _process_and_below(client)[-1]


def an_asynchronous_loop_driven_from_other_tasks_is_not_in_scope_and_says_nothing(
    client: Client,
) -> None:
    loops = [_async_loop(client, b"1", b"2")]

    async def consume() -> None:
        turns = loops.pop().__aiter__()
        for body in (b"1", b"2"):
            before = get_current()
            # A task of its own, also where `wait_for` would not make one.
            item = await asyncio.wait_for(asyncio.ensure_future(turns.__anext__()), 5)
            assert body == client.message(item).body
            assert before is get_current()

    asyncio.run(consume())
    gc.collect()


def an_asynchronous_loop_inside_of_the_users_own_generator_leaves_nothing_behind(
    client: Client,
) -> None:
    loop = _async_loop(client, b"1", b"2")

    async def ours() -> AsyncIterator[Any]:
        async for item in loop:
            yield item

    async def consume() -> list[bytes]:
        before = get_current()
        bodies = []
        async for item in ours():
            bodies.append(client.message(item).body)  # noqa: PERF401 - the turns are what matters
        assert before is get_current()
        return bodies

    assert [b"1", b"2"] == asyncio.run(consume())
