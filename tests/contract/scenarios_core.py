"""One delivery is one thing: whatever threads, tasks, loops and blocks it meets, and however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from opentelemetry import baggage, trace
from opentelemetry.context import attach, get_current

import hopspan
from hopspan import HopspanError, PolicyError
from tests.contract.client import Client, Message, succeeds, wait
from tests.contract.scenarios_refusals import refusal
from tests.contract.scenarios_robustness import KEYS, VALID
from tests.contract.suite import FACES, SAMPLINGS, needs, over
from tests.contract.telemetry import Span, silence

TRACED = ("wrapped", "instrumented")
NO = ValueError("no stock")
HANDLED = ("messaging.process.duration", "messaging.client.consumed.messages")


def _send(client: Client, *bodies: bytes) -> None:
    for body in bodies:
        with client.baggage(body=body.decode()):
            client.send(body)


def _process_and_below(client: Client) -> list[Span]:
    """The handling of the queue's messages; how they were asked for differs from style to style."""
    return [span for span in client.telemetry.spans() if span.name != client.receives]


# -- a loop that hands its messages on -------------------------------------------------------------


def _each_handled_once(client: Client, count: int) -> None:
    """So many messages, each sent by its own trace, have one process span and were counted once."""
    if client.telemetry.records:
        spans = client.telemetry.spans()
        processed = [span.trace for span in spans if span.name == client.processes]
        assert [*range(count)] == sorted(processed)
        works = [(span.name, span.trace) for span in spans if span.name.startswith("work")]
        assert [(f"work {number + 1}", number) for number in range(count)] == sorted(works)
    counted = Counter[str]()
    for point in client.telemetry.measured():
        counted[point.metric] += point.count
    expected = count if client.telemetry.providers else 0
    assert [expected] * 2 == [counted[metric] for metric in HANDLED]


def _says_to_defer(client: Client) -> None:
    (line,) = client.lines.take()
    assert "defer()" in line


def _work(client: Client, message: Message, meanwhile: Callable[[], None] = lambda: None) -> None:
    """What a pool's thread or a task does with a message; it fails at the second one."""
    with contextlib.suppress(ValueError), client.block(message, policy=client.reject_on_error):
        meanwhile()
        with client.span("work " + message.body.decode()):
            pass
        if message.body == b"2":
            raise NO


def _loop(client: Client, style: str, hand_on: Callable[[Message, Any], Any]) -> None:
    """A loop that hands on three messages, each with a copy of what is current in its body."""
    _send(client, b"1", b"2", b"3")
    for item in client.loop(style, prefetch=3):
        message = client.message(item)
        hand_on(message, contextvars.copy_context())
        if message.body == b"3":
            break


def _until_all_is_settled(client: Client) -> None:
    def is_settled() -> bool:
        ended = len(client.telemetry.named(client.processes)) if client.telemetry.records else 3
        return len(client.settlements()) == 3 and ended >= 3

    client.drive(is_settled)
    client.sync()
    assert ["ack", "ack", "reject"] == sorted(client.settlements())


CONTEXTS: dict[str, Callable[[Any], Any]] = {
    "an empty context": lambda context: contextvars.Context(),
    "a copied context": lambda context: context,
}
"""What a worker starts with: a plain pool's thread, `asyncio.to_thread`."""


@over(style="loops", context=CONTEXTS, face=TRACED, sampling=SAMPLINGS)
@needs("settles", "dead_letters")
def a_message_that_is_handled_elsewhere_in_its_turn_is_handled_once(
    client: Client, style: str, context: str
) -> None:
    def hand_on(message: Message, current: Any) -> None:
        client.in_thread(CONTEXTS[context](current).run, _work, client, message).result()

    _loop(client, style, hand_on)
    _until_all_is_settled(client)
    _each_handled_once(client, 3)
    said = client.lines.take()  # nothing has gone wrong, so nothing need be said
    assert ["defer()" in line for line in said] == [True] * len(said[:1])


@over(style="loops", context=CONTEXTS, face=TRACED, sampling=SAMPLINGS)
@needs("settles", "dead_letters")
def a_message_that_is_handled_after_its_turn_goes_on_with_it_and_is_counted_once(
    client: Client, style: str, context: str
) -> None:
    handed: list[Any] = []
    _loop(client, style, lambda *each: handed.append(each))
    for message, current in handed:
        client.in_thread(CONTEXTS[context](current).run, _work, client, message).result()
    _until_all_is_settled(client)
    _each_handled_once(client, 3)
    _says_to_defer(client)


@over(style="loops", context=CONTEXTS, face=TRACED, sampling=SAMPLINGS)
@needs("settles_on_its_own_thread", "dead_letters")
def a_message_whose_turn_ends_while_a_thread_handles_it_is_handled_once(
    client: Client, style: str, context: str
) -> None:
    go, futures = threading.Event(), []

    def hand_on(message: Message, current: Any) -> None:
        began = threading.Event()

        def meanwhile() -> None:
            began.set()
            wait(go)

        run = CONTEXTS[context](current).run
        futures.append(client.in_thread(run, _work, client, message, meanwhile))
        wait(began)

    _loop(client, style, hand_on)
    assert [] == client.settlements()
    go.set()
    for future in futures:
        future.result()
    _until_all_is_settled(client)
    _each_handled_once(client, 3)
    _says_to_defer(client)


# -- what a loop's body leaves behind --------------------------------------------------------------


def _leave_baggage(_client: Client) -> None:
    attach(baggage.set_baggage("left", "over"))


def _leave_an_extracted_context(_client: Client) -> None:
    attach(hopspan.extract({"traceparent": VALID, "baggage": "left=over"}))


def _leave_a_span(client: Client) -> None:
    attach(trace.set_span_in_context(client.telemetry.tracer.start_span("left over")))


LEAVINGS = (_leave_baggage, _leave_an_extracted_context, _leave_a_span)
"""What is made current, and never undone."""


@over(style="loops", leave=LEAVINGS, face=TRACED)
def what_a_loops_body_leaves_current_is_not_there_in_the_next_turn(
    client: Client, style: str, leave: Callable[[Client], None]
) -> None:
    _send(client, b"1", b"2", b"3")
    seen = []
    for item in client.loop(style, prefetch=3):
        message = client.message(item)
        with client.span("work " + message.body.decode()):
            seen.append(dict(baggage.get_all()))
        leave(client)
        if message.body == b"3":
            break
    del item
    assert client.is_current_nothing()
    assert [{"body": "1"}, {"body": "2"}, {"body": "3"}] == seen
    turns = [
        span
        for number in range(3)
        for span in (
            client.a_process(trace=number),
            Span(f"work {number + 1}", parent=client.processes, trace=number),
        )
    ]
    assert turns == _process_and_below(client)[3:]


def _break(client: Client, loop: Any, leave: Callable[[Client], None]) -> None:
    for _ in loop:
        leave(client)
        break


def _raise(client: Client, loop: Any, leave: Callable[[Client], None]) -> None:
    with contextlib.suppress(ValueError):
        for _ in loop:
            leave(client)
            raise ValueError


def _exhaust(client: Client, loop: Any, leave: Callable[[Client], None]) -> None:
    for _ in loop:
        leave(client)
        client.end_loop()


@over(style="loops", leave=LEAVINGS, way_out=(_break, _raise, _exhaust), face=TRACED)
def what_a_loops_body_leaves_current_is_not_there_after_the_loop(
    client: Client, style: str, leave: Callable[[Client], None], way_out: Callable[..., None]
) -> None:
    _send(client, b"1")
    with client.span("around"), client.baggage(whose="mine"):
        before = get_current()
        way_out(client, client.loop(style), leave)
        assert before is get_current()
        with client.span("after"):
            pass
    assert [
        client.a_publish(),
        Span("around", trace=1),
        client.a_process(parent="around", trace=1),
        Span("after", parent="around", trace=1),
    ] == _process_and_below(client)


# -- a loop inside of a generator of the user's own ------------------------------------------------


def _ours(loops: list[Any], way_out: str) -> Iterator[Any]:
    """A generator that leaves the loop after a turn, and goes on."""
    try:
        for item in loops.pop():
            yield item
            if way_out == "break":
                break
            if way_out == "raise":
                raise ValueError
    except ValueError:
        pass
    yield None


@over(style="loops", way_out=("break", "raise"), face=TRACED)
def a_loop_that_a_generator_has_left_leaves_nothing_current(
    client: Client, style: str, way_out: str
) -> None:
    _send(client, b"1")
    with client.span("around"):
        before = get_current()
        for item in _ours([client.loop(style)], way_out):
            if item is None:
                assert not hopspan.current()
                assert before == get_current()
        assert before == get_current()
    assert client.a_process(parent="around", trace=1) == _process_and_below(client)[-1]


def _break_off(turns: Iterator[Any]) -> None:
    for _ in turns:
        break


def _raise_off(turns: Iterator[Any]) -> None:
    with contextlib.suppress(ValueError):
        for _ in turns:
            raise ValueError


def _collected(turns: Iterator[Any]) -> None:
    cycle: list[Any] = [turns]
    cycle.append(cycle)
    next(turns)


@over(style="loops", way_out=(_break_off, _raise_off, _collected), face=TRACED)
def a_generator_that_is_left_in_a_loop_leaves_nothing_current(
    client: Client, style: str, way_out: Callable[[Iterator[Any]], None]
) -> None:
    _send(client, b"1")
    with client.span("around"):
        before = get_current()
        way_out(_ours([client.loop(style)], "break"))
        gc.collect()
        assert not hopspan.current()
        assert before == get_current()
        with client.span("after"):
            pass
    assert [
        client.a_process(parent="around", trace=1),
        Span("after", parent="around", trace=1),
    ] == _process_and_below(client)[2:]


# -- the same for asynchronous ones ----------------------------------------------------------------


async def _fetched(client: Client, *bodies: bytes) -> AsyncIterator[Any]:
    """What a client with an event loop of its own would hand out."""
    for _ in bodies:
        await asyncio.sleep(0)
        yield client.fetch().native


def _async_loop(client: Client, *bodies: bytes) -> Any:
    """A loop over so many messages."""
    _send(client, *bodies)
    return hopspan.each(_fetched(client, *bodies), via=client.via, **client.settings())


async def passed_on(loop: Any) -> AsyncIterator[Any]:
    """A generator of the user's own."""
    async for item in loop:
        yield item


async def _passed_on_twice(loop: Any) -> AsyncIterator[Any]:
    async for item in passed_on(loop):
        yield item


GENERATORS = (passed_on, _passed_on_twice)


async def break_out(turns: AsyncIterator[Any]) -> None:
    async for _ in turns:
        break


async def return_out(turns: AsyncIterator[Any]) -> Any:
    async for item in turns:
        return item
    return None


async def raise_out(turns: AsyncIterator[Any]) -> None:
    with contextlib.suppress(ValueError):
        async for _ in turns:
            raise ValueError


async def cancel_out(turns: AsyncIterator[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        async for _ in turns:
            raise asyncio.CancelledError


async def _close_here(turns: Any) -> None:
    async with contextlib.aclosing(turns):
        async for _ in turns:
            break


async def _close_in_a_task(turns: Any) -> None:
    await turns.__anext__()
    await asyncio.ensure_future(turns.aclose())


async def _drop_in_a_cycle(turns: AsyncIterator[Any]) -> None:
    cycle: list[Any] = [turns]
    cycle.append(cycle)
    await turns.__anext__()


WAYS_OUT: tuple[Callable[[Any], Awaitable[Any]], ...] = (
    break_out,
    return_out,
    raise_out,
    cancel_out,
    _close_here,
    _close_in_a_task,
    _drop_in_a_cycle,
)


async def finalised() -> None:
    """Return when generators that were dropped have been closed, which is done in other tasks."""
    gc.collect()
    for _ in range(10):
        await asyncio.sleep(0)


@over(way_out=WAYS_OUT, generator=GENERATORS)
def an_asynchronous_generator_that_is_left_in_a_loop_leaves_nothing_current(
    client: Client, way_out: Callable[[Any], Awaitable[Any]], generator: Callable[[Any], Any]
) -> None:
    loops = [_async_loop(client, b"1", b"2")]

    async def consume() -> None:
        with client.span("around"):
            before = get_current()
            await way_out(generator(loops.pop()))
            await finalised()
            assert not hopspan.current()
            assert before == get_current()
            with client.span("after"):
                pass

    asyncio.run(consume())
    assert [
        client.a_process(parent="around", trace=2),
        Span("after", parent="around", trace=2),
    ] == _process_and_below(client)[3:]


@over(way_out=(break_out, raise_out))
def a_task_may_end_before_its_generator_is_closed(
    client: Client, way_out: Callable[[Any], Awaitable[Any]]
) -> None:
    loops = [_async_loop(client, b"1", b"2")]

    async def consume() -> None:
        await way_out(passed_on(loops.pop()))

    async def main() -> None:
        await asyncio.ensure_future(consume())
        await finalised()
        assert not hopspan.current()

    asyncio.run(main())
    assert [client.a_process()] == _process_and_below(client)[2:]


async def _leaves_by_break(loops: list[Any]) -> AsyncIterator[Any]:
    """A generator that is done with the loop after a turn, and goes on."""
    async for item in loops.pop():
        yield item
        break
    yield None


async def _leaves_by_raise(loops: list[Any]) -> AsyncIterator[Any]:
    with contextlib.suppress(ValueError):
        async for item in loops.pop():
            yield item
            raise ValueError
    yield None


async def _leaves_by_return(loops: list[Any]) -> AsyncIterator[Any]:
    yield await return_out(loops.pop())
    yield None


LEAVERS = (_leaves_by_break, _leaves_by_raise, _leaves_by_return)


@over(generator=LEAVERS)
def a_loop_that_an_asynchronous_generator_has_left_leaves_nothing_current(
    client: Client, generator: Callable[[list[Any]], AsyncIterator[Any]]
) -> None:
    loops = [_async_loop(client, b"1", b"2")]

    async def consume() -> None:
        with client.span("around"):
            before = get_current()
            async for item in generator(loops):
                if item is None:
                    assert not hopspan.current()
                    assert before == get_current()
            assert not hopspan.current()
            assert before == get_current()

    asyncio.run(consume())
    assert [client.a_process(parent="around", trace=2)] == _process_and_below(client)[3:]


# -- what a loop's message came by is lost ---------------------------------------------------------

GONE = {"settlement": "leave", "cancelled": True}
REASONS = {"closed", "lost", "channel closed"}


@over(style="loops", face=TRACED, sampling=SAMPLINGS)
@needs("settles")
def a_turn_says_that_its_message_was_lost_meanwhile(client: Client, style: str) -> None:
    _send(client, b"1")
    with client.span("around"):
        before = get_current()
        for _ in client.loop(style):
            client.lose()
            with client.span("work"):
                pass
            break
        assert before is get_current()
    assert [] == client.settlements()
    client.expect_queues(waiting=1)
    if client.telemetry.records:
        _, around, process, work = _process_and_below(client)
        assert [
            Span("around", trace=1),
            client.a_process(parent="around", trace=1, reason=process.reason, **GONE),
            Span("work", parent=client.processes, trace=1),
        ] == [around, process, work]
        assert process.reason in REASONS


@over(style="loops", face=TRACED)
@needs("acks_on_the_wire")
def a_turn_whose_message_was_acked_before_all_was_lost_is_as_ever(
    client: Client, style: str
) -> None:
    _send(client, b"1")
    for item in client.loop(style):
        client.message(item).ack()
        client.sync()
        client.lose()
        break
    assert ["ack"] == client.settlements()
    client.expect_queues()
    assert [client.a_publish(), client.a_process(settlement="ack")] == _process_and_below(client)


# -- refusals --------------------------------------------------------------------------------------


@over(face=("wrapped", "instrumented", "together"))
@needs("pushes", "settles")
def a_policy_that_cannot_work_is_refused_when_its_handler_is_subscribed(client: Client) -> None:
    refused = {"policy": client.refused_policy}
    said = refusal(PolicyError, lambda: client.subscribe_decorated(succeeds, refused, {}))
    assert said.startswith(f"policy {client.refused_policy.name} cannot work with {client.NAME}: ")
    client.send()
    client.expect_spans(client.a_publish())
    client.expect_queues(waiting=1)


@over(face=FACES, sampling=SAMPLINGS)
@needs("settles")
def a_blocks_policy_that_was_refused_settles_nothing(client: Client) -> None:
    client.send()

    def handler(message: Message) -> None:
        block = client.block(message, policy=client.refused_policy)
        refusal(PolicyError, block.__enter__)

    client.handle(handler)
    assert [] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process())
    client.expect_queues(waiting=1)


async def _coroutine_function(*_: Any) -> None: ...


async def _asynchronous_generator_function(*_: Any) -> AsyncIterator[None]:
    yield


def _generator_function(*_: Any) -> Iterator[None]:
    yield


NEVER_RUN = (_coroutine_function, _asynchronous_generator_function, _generator_function)
"""Functions of which a client that calls plain functions never runs the body."""


@over(handler=NEVER_RUN, decorated=(False, True), face=("wrapped", "instrumented"))
@needs("calls_plainly")
def a_handler_whose_body_would_never_run_is_refused_when_it_is_subscribed(
    client: Client, handler: Callable[..., Any], decorated: bool
) -> None:
    given = hopspan.consumer(**client.settings())(handler) if decorated else handler
    client.enter_face()
    try:
        client.register(given)
    except HopspanError as error:
        said = str(error)
    else:
        raise AssertionError("it was not refused")
    assert "plain function" in said
    client.send()
    client.expect_spans(client.a_publish())
    client.expect_queues(waiting=1)


def _a_coroutine() -> Any:
    return _coroutine_function()


def _an_asynchronous_generator() -> Any:
    return _asynchronous_generator_function()


def _a_generator() -> Any:
    return _generator_function()


BODIES = (_a_coroutine, _an_asynchronous_generator, _a_generator)


@over(make=BODIES, face=FACES, sampling=SAMPLINGS)
@needs("settles")
def a_body_that_has_not_run_is_passed_on_and_left(client: Client, make: Callable[[], Any]) -> None:
    body = make()
    client.send_untraced()
    message = client.fetch()
    client.subscribe(lambda _: body, policy=client.reject_on_error)
    assert body is client.registered()(message)
    if hasattr(body, "close"):
        body.close()
    client.sync()
    assert [] == client.settlements()
    (line,) = client.lines.take()
    assert "has not run" in line
    if client.telemetry.records:
        (process,) = (span for span in client.telemetry.spans() if span.name == client.processes)
        assert ("error", "hopspan.never_run", None) == (
            process.status,
            process.error,
            process.settlement,
        )
    client.expect_queues(waiting=1)


# -- suppression -----------------------------------------------------------------------------------


@over(what=("opened", "consuming"), key=KEYS, face=FACES)
@needs("pushes")
def what_was_suppressed_when_a_consumer_began_does_not_silence_it(
    client: Client, what: str, key: str
) -> None:
    silent: list[Any] = []

    def work(_message: Message) -> None:
        silent.append(get_current().get(KEYS[key]))
        with client.span("work"):
            pass

    with silence(KEYS[key]):
        client.open_consumer()
        if what == "consuming":
            ran = client.subscribe(work)
    if what == "opened":
        ran = client.subscribe(work)
    client.send()
    client.drive(lambda: ran.times, ran)
    client.sync()
    assert [None] == silent
    client.expect_spans(
        client.a_publish(), client.a_process(), Span("work", parent=client.processes)
    )


# -- what a handler starts -------------------------------------------------------------------------


def is_held(bodies: list[bytes]) -> bool:
    """Whether anybody but this list holds its only entry."""
    nobodys = [bytes(1000)]
    return sys.getrefcount(bodies[0]) > sys.getrefcount(nobodys[0])


@over(face=FACES, sampling=SAMPLINGS)
@needs("settles")
def what_a_handler_starts_does_not_keep_its_message(client: Client) -> None:
    """A task keeps a copy of what is current where it is made, for as long as it runs."""
    started: list[Any] = []
    bodies: list[bytes] = []

    def handler(message: Message) -> None:
        started.append(contextvars.copy_context())
        bodies.append(message.body)

    client.send(b"x" * 1000)
    ran = client.handle(handler, policy=client.reject_on_error)
    ran.messages.clear()
    client.move_on()
    gc.collect()
    assert not is_held(bodies)
    assert started


# -- a batch of one --------------------------------------------------------------------------------


@over(correlation=("auto", "parent", "link", "none"), around=(True, False))
@needs("batches")
def a_batch_of_one_is_a_batch(client: Client, correlation: str, around: bool) -> None:
    _send(client, b"1")
    messages = [client.fetch()]
    seen: list[Any] = []
    with contextlib.ExitStack() as stack:
        if around:
            stack.enter_context(client.span("asking"))
        with client.block(messages, correlation=correlation):
            seen.append(dict(baggage.get_all()))
    assert [{}] == seen
    parent = "asking" if around and correlation != "link" else None
    links = () if correlation == "none" else (client.publishes,)
    process = client.a_process(parent=parent, links=links, trace=1 if parent else 1 + around)
    client.expect_spans(client.a_publish(), *[Span("asking", trace=1)] * around, process)
    assert 1 == client.telemetry.attributes(client.processes)["messaging.batch.message_count"]


@needs("batches", "settles")
def a_batch_of_one_is_settled(client: Client) -> None:
    _send(client, b"1")
    with client.block([client.fetch()], policy=client.reject_on_error):
        pass
    client.sync()
    assert ["ack"] == client.settlements()
    client.expect_spans(
        client.a_publish(), client.a_process(parent=None, trace=1, settlement="ack")
    )
