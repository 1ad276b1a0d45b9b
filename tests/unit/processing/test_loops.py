"""Loop scope: the body of a loop over messages is inside each one's span, and leaves nothing.

That the finaliser runs where the loop is left is CPython's; it is what these tests rest on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import attach, detach, get_current, set_value
from opentelemetry.trace import StatusCode

import hopspan
from hopspan.model import PolicyError, UnknownMessageError, Verdict
from hopspan.processing.loops import AsyncLoop, Loop
from hopspan.processing.opening import NOTHING
from hopspan.testing import Message
from tests.unit.support import Adapting, Seen, Telemetry, in_thread

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="finalisers run at once in CPython only"
)


@pytest.fixture(autouse=True)
def nothing_is_left(logged: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever way the loop is left: the context is the one before, and nothing was logged."""
    before = get_current()
    yield
    assert get_current() is before
    assert [record.message for record in logged.records] == []


def messages(count: int = 3) -> list[Message]:
    return [Message(id=str(number)) for number in range(count)]


def ids(telemetry: Telemetry) -> list[Any]:
    return [
        span.attributes["messaging.message.id"]
        for span in telemetry.seen
        if span.name.startswith("process")
    ]


def each(telemetry: Telemetry, source: Any = None, **settings: Any) -> Any:
    return hopspan.each(messages() if source is None else source, **telemetry.settings, **settings)


def current_id() -> str | None:
    found = hopspan.current()
    return found.delivery.message.id if found else None


# -- turns -----------------------------------------------------------------------------------------


def test_the_body_is_inside_the_span_of_its_message(telemetry: Telemetry) -> None:
    inside = [
        (message.id, current_id(), trace.get_current_span() is hopspan.current().span)
        for message in each(telemetry)
    ]
    assert inside == [("0", "0", True), ("1", "1", True), ("2", "2", True)]


def test_every_turn_has_one_span_that_ends_with_it(telemetry: Telemetry) -> None:
    ended = [ids(telemetry) for _ in each(telemetry)]
    assert (ended, ids(telemetry)) == ([[], ["0"], ["0", "1"]], ["0", "1", "2"])


def test_the_spans_are_siblings(telemetry: Telemetry) -> None:
    """A turn must not be the parent of the next one."""
    for _ in each(telemetry):
        pass
    assert [span.parent for span in telemetry.seen] == [None, None, None]


def test_what_is_current_around_the_loop_is_the_parent(telemetry: Telemetry) -> None:
    with telemetry.tracer.start_as_current_span("job") as job:
        for _ in each(telemetry):
            pass
    assert [span.parent for span in telemetry.seen[:3]] == [job.get_span_context().span_id] * 3


def test_what_a_poll_returns_is_iterated_message_by_message(telemetry: Telemetry) -> None:
    """A dictionary of lists, as Kafka's clients have it: a loop over it would be over its keys."""
    first, second, third = messages()
    polled: Any = {"orders-0": [first, second], "orders-1": [], "orders-2": [third]}
    inside = [(message, current_id()) for message in each(telemetry, polled)]
    assert inside == [(first, "0"), (second, "1"), (third, "2")]
    assert ids(telemetry) == ["0", "1", "2"]


def test_an_empty_poll_is_an_empty_loop(telemetry: Telemetry) -> None:
    assert (list(each(telemetry, {})), telemetry.spans) == ([], [])


def test_an_empty_loop_has_no_span(telemetry: Telemetry) -> None:
    assert list(each(telemetry, [])) == []
    assert telemetry.spans == []


def test_a_loop_settles_nothing(telemetry: Telemetry) -> None:
    given = messages()
    for _ in each(telemetry, given):
        pass
    assert [message.verdict for message in given] == [None] * 3


def test_acking_in_the_body_neither_ends_the_span_nor_the_turn(telemetry: Telemetry) -> None:
    """What runs after the ack is still the handling."""
    still = []
    for message in each(telemetry):
        message.ack()
        still.append((current_id() == message.id, ids(telemetry).count(message.id)))
    assert still == [(True, 0)] * 3
    assert telemetry.seen[0].attributes["hopspan.settlement"] == "ack"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (Message.reject, ("ERROR", "reject by handler")),
        (Message.requeue, ("ERROR", "requeue by handler")),
        (Message.ack, ("UNSET", None)),
        (
            lambda message: hopspan.current().span.set_status(StatusCode.ERROR, "bad"),
            ("ERROR", "bad"),
        ),
        (lambda message: hopspan.current().fail("no customer"), ("ERROR", "no customer")),
    ],
)
def test_failure_is_known_from_a_nack_or_a_status(
    body: Callable[[Message], None], status: tuple[str, str | None], telemetry: Telemetry
) -> None:
    for message in each(telemetry, messages(1)):
        body(message)
    assert telemetry.only.status == status


def test_deferring_in_the_body_leaves_the_end_to_the_deferred_operation(
    telemetry: Telemetry,
) -> None:
    operations = [hopspan.current().defer() for _ in each(telemetry)]
    assert ids(telemetry) == []
    for operation in operations:
        with operation:
            pass
    assert ids(telemetry) == ["0", "1", "2"]


def test_a_block_in_the_body_joins_and_settles(telemetry: Telemetry) -> None:
    given = messages()
    for message in each(telemetry, given):
        with hopspan.process(message, policy=hopspan.ack_always):
            pass
    assert [message.verdict for message in given] == [Verdict.ACK] * 3
    assert len(telemetry.spans) == 3


def test_a_loop_over_a_loop_is_one_loop(telemetry: Telemetry) -> None:
    """`each` over what an instrumented client's iterator gives out."""
    inside = [current_id() for _ in each(telemetry, each(telemetry))]
    assert (inside, ids(telemetry)) == (["0", "1", "2"], ["0", "1", "2"])


# -- ways to leave a loop --------------------------------------------------------------------------


def exhaustion(loop: Iterable[Message]) -> None:
    for _ in loop:
        pass


def break_(loop: Iterable[Message]) -> None:
    for message in loop:
        if message.id == "1":
            break


def return_(loop: Iterable[Message]) -> Message | None:
    for message in loop:
        if message.id == "1":
            return message
    return None


def exception(loop: Iterable[Message]) -> None:
    try:
        for message in loop:
            if message.id == "1":
                raise ValueError("bad")
    except ValueError:
        pass


def next_only(loop: Iterable[Message]) -> None:
    iterator = iter(loop)
    next(iterator)
    next(iterator)


def unpacking(loop: Iterable[Message]) -> None:
    _first, _second, *_others = loop


def comprehension(loop: Iterable[Message]) -> None:
    any(message.id == "1" for message in loop)


WAYS = [
    (exhaustion, ["0", "1", "2"]),
    (break_, ["0", "1"]),
    (return_, ["0", "1"]),
    (exception, ["0", "1"]),
    (next_only, ["0", "1"]),
    (unpacking, ["0", "1", "2"]),
    (comprehension, ["0", "1"]),
]


@pytest.mark.parametrize(("leave", "ended"), WAYS)
def test_leaving_a_loop_ends_the_turn_and_its_context(
    leave: Callable[[Any], Any], ended: list[str], telemetry: Telemetry
) -> None:
    before = get_current()
    leave(each(telemetry))
    assert (get_current() is before, ids(telemetry)) == (True, ended)


def test_a_loop_that_is_kept_keeps_its_turn_until_it_goes(telemetry: Telemetry) -> None:
    """A reference that is kept is a loop that may be continued."""
    before, loop = get_current(), each(telemetry)
    for _ in loop:
        break
    assert (current_id(), ids(telemetry)) == ("0", [])
    for _ in loop:
        break
    assert (current_id(), ids(telemetry)) == ("1", ["0"])
    del loop
    assert (get_current() is before, ids(telemetry)) == (True, ["0", "1"])


@pytest.mark.parametrize("leave", ["leave", "close"])
def test_a_kept_loop_can_be_left(leave: str, telemetry: Telemetry) -> None:
    before, loop = get_current(), each(telemetry)
    next(loop)
    getattr(loop, leave)()
    assert (get_current() is before, ids(telemetry)) == (True, ["0"])


def test_leaving_twice_is_leaving_once(telemetry: Telemetry) -> None:
    loop = each(telemetry)
    next(loop)
    loop.leave()
    token = attach(set_value("mine", 1))
    loop.leave()
    assert get_current().get("mine") == 1
    detach(token)
    assert ids(telemetry) == ["0"]


def test_a_loop_that_is_only_asked_for_its_next_is_in_scope_as_well(
    telemetry: Telemetry,
) -> None:
    loop = each(telemetry)
    assert (next(loop).id, current_id()) == ("0", "0")
    loop.leave()


def test_two_loops_that_run_in_turn_leave_nothing(telemetry: Telemetry) -> None:
    """Neither can undo what the other has on top, and neither piles up contexts for ever."""
    before = get_current()
    first, second = each(telemetry, messages(30)), each(telemetry, messages(30))
    attached = {len(first._scope._attached) for _ in zip(first, second, strict=True)}
    del first, second
    assert (get_current() is before, max(attached) <= 2) == (True, True)
    assert len(telemetry.spans) == 60


def test_a_generator_around_a_loop_does_not_leak(telemetry: Telemetry) -> None:
    def around() -> Iterator[str | None]:
        for _ in each(telemetry):
            yield current_id()

    before = get_current()
    for found in around():
        assert found == current_id()
        break
    assert (get_current() is before, ids(telemetry)) == (True, ["0"])


def test_a_span_of_the_users_that_stays_open_over_a_turn(telemetry: Telemetry) -> None:
    """It is the parent of what comes while it is open, and undone by the user, not by us."""
    before, loop = get_current(), each(telemetry)
    next(loop)
    span = telemetry.tracer.start_span("mine")
    token = attach(trace.set_span_in_context(span))
    next(loop)
    detach(token)
    span.end()
    loop.leave()
    assert get_current() is before
    parents = {span.name: span.parent for span in telemetry.seen}
    assert parents["process test"] in {None, span.get_span_context().span_id}


def test_contexts_that_are_never_undone_are_not_collected_without_end(
    telemetry: Telemetry,
) -> None:
    """The user opens something in every turn and closes none of it."""

    def scenario() -> set[int]:
        loop, kept = each(telemetry, messages(40)), set()
        for message in loop:
            attach(set_value("mine", message.id))
            kept.add(len(loop._scope._attached))
        return kept

    assert copy_context().run(scenario) == set(range(1, 9))


@pytest.mark.filterwarnings("default")
def test_a_fault_at_the_end_of_a_turn_does_not_stop_the_loop(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    def cannot(self: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("hopspan.processing.delivery.Processing.finish_loop", cannot)
    assert len([current_id() for _ in each(telemetry)]) == 3
    assert len(logged.records) == 1
    logged.clear()


# -- driven from elsewhere -------------------------------------------------------------------------


def test_driven_from_another_thread_nothing_is_made_current_there(telemetry: Telemetry) -> None:
    loop = each(telemetry)
    assert in_thread(lambda: (next(loop).id, current_id())) == ("0", None)
    assert current_id() is None
    loop.leave()
    assert ids(telemetry) == ["0"]


def test_a_thread_that_iterates_makes_it_its_own(telemetry: Telemetry) -> None:
    """Made here, iterated there."""
    loop = each(telemetry)
    assert in_thread(lambda: [current_id() for _ in loop]) == ["0", "1", "2"]


def test_a_turn_that_began_here_can_be_ended_elsewhere(telemetry: Telemetry) -> None:
    """Its span ends; its context is undone when the loop comes back."""
    loop = each(telemetry)
    next(loop)
    in_thread(loop.leave)
    assert ids(telemetry) == ["0"]
    loop.leave()


def test_next_in_a_worker_thread(telemetry: Telemetry) -> None:
    async def scenario() -> list[Any]:
        loop = iter(each(telemetry))
        found = []
        for _ in range(3):
            message = await asyncio.to_thread(next, loop)
            found.append((message.id, current_id()))
        return found

    assert asyncio.run(scenario()) == [("0", None), ("1", None), ("2", None)]
    assert ids(telemetry) == ["0", "1", "2"]


# -- async for -------------------------------------------------------------------------------------


class Source:
    """A client's asynchronous iterator."""

    def __init__(self, count: int = 3) -> None:
        self._messages = iter(messages(count))
        self.closed = False

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Message:
        await asyncio.sleep(0)
        try:
            return next(self._messages)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        self.closed = True


def test_an_async_body_is_inside_the_span_of_its_message(telemetry: Telemetry) -> None:
    async def scenario() -> tuple[list[Any], bool]:
        before, inside = get_current(), []
        async for message in each(telemetry, Source()):
            await asyncio.sleep(0)
            inside.append((message.id, current_id()))
        return inside, get_current() is before

    assert asyncio.run(scenario()) == ([("0", "0"), ("1", "1"), ("2", "2")], True)
    assert ids(telemetry) == ["0", "1", "2"]


@pytest.mark.parametrize("way", ["break", "exception"])
def test_leaving_an_async_loop_ends_the_turn_and_its_context(
    way: str, telemetry: Telemetry
) -> None:
    async def scenario() -> bool:
        before = get_current()
        try:
            async for message in each(telemetry, Source()):
                if message.id == "1" and way == "break":
                    break
                if message.id == "1":
                    raise ValueError("bad")
        except ValueError:
            pass
        return get_current() is before

    assert asyncio.run(scenario()) is True
    assert ids(telemetry) == ["0", "1"]


def test_cancelling_an_async_loop_ends_the_turn(telemetry: Telemetry) -> None:
    async def scenario() -> None:
        reached = asyncio.Event()

        async def consume() -> None:
            async for _ in each(telemetry, Source()):
                reached.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(consume())
        await reached.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    assert ids(telemetry) == ["0"]


def test_closing_an_async_loop_closes_the_source(telemetry: Telemetry) -> None:
    async def scenario() -> tuple[bool, bool]:
        source = Source()
        loop = each(telemetry, source)
        before = get_current()
        await anext(loop)
        await loop.aclose()
        return source.closed, get_current() is before

    assert asyncio.run(scenario()) == (True, True)
    assert ids(telemetry) == ["0"]


def test_an_async_source_that_cannot_be_closed_is_left_alone(telemetry: Telemetry) -> None:
    class Endless:
        def __aiter__(self) -> Endless:
            return self

        async def __anext__(self) -> Message:
            return Message(id="0")

    async def scenario() -> None:
        loop = each(telemetry, Endless())
        await anext(loop)
        await loop.aclose()

    asyncio.run(scenario())
    assert ids(telemetry) == ["0"]


def test_a_timeout_around_each_turn_leaks_nothing(telemetry: Telemetry) -> None:
    """`wait_for` may run `__anext__` in a task of its own, whose context goes when it returns."""

    async def scenario() -> tuple[list[str | None], bool]:
        before = get_current()
        loop = each(telemetry, Source())
        iterator, found = loop.__aiter__(), []
        for _ in range(3):
            message = await asyncio.wait_for(iterator.__anext__(), 10)
            found.append(message.id)
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(iterator.__anext__(), 10)
        return found, get_current() is before

    assert asyncio.run(scenario()) == (["0", "1", "2"], True)
    assert ids(telemetry) == ["0", "1", "2"]


def test_turns_in_tasks_of_their_own_attach_nothing(telemetry: Telemetry) -> None:
    async def scenario() -> list[str | None]:
        loop = each(telemetry, Source())
        found = []
        for _ in range(3):
            await asyncio.create_task(anext_of(loop))
            found.append(current_id())
        return found

    async def anext_of(loop: Any) -> Message:
        found: Message = await loop.__anext__()
        return found

    assert asyncio.run(scenario()) == [None, None, None]


def test_a_users_async_generator_around_a_loop_leaks_nothing(telemetry: Telemetry) -> None:
    async def around() -> AsyncIterator[str | None]:
        async for message in each(telemetry, Source()):
            yield message.id

    async def scenario() -> bool:
        before = get_current()
        generator = around()
        async for _ in generator:
            break
        await generator.aclose()  # type: ignore[attr-defined]
        return get_current() is before

    assert asyncio.run(scenario()) is True
    assert ids(telemetry) == ["0"]


def test_two_tasks_may_loop_at_the_same_time(telemetry: Telemetry) -> None:
    async def consume() -> list[bool]:
        return [message.id == current_id() async for message in each(telemetry, Source())]

    async def scenario() -> list[list[bool]]:
        return await asyncio.gather(consume(), consume())

    assert asyncio.run(scenario()) == [[True] * 3, [True] * 3]


# -- the iterator itself ---------------------------------------------------------------------------


class Client(Iterator[Message]):
    """A client's own iterator, which can do more than iterate."""

    def __init__(self) -> None:
        self._messages = iter(messages())
        self.closed = False
        self.position = 7

    def __next__(self) -> Message:
        return next(self._messages)

    def close(self) -> None:
        self.closed = True


def test_everything_else_is_passed_on_to_the_clients_iterator() -> None:
    loop: Any = Loop(Client(), lambda item: NOTHING)
    assert loop.position == 7


def test_everything_else_is_passed_on_to_the_clients_async_iterator() -> None:
    source = Source()
    loop: Any = AsyncLoop(source, lambda item: NOTHING)
    assert loop.closed is False


def test_what_the_clients_iterator_cannot_do_is_an_attribute_error() -> None:
    loop: Any = Loop(Client(), lambda item: NOTHING)
    with pytest.raises(AttributeError):
        _ = loop.nonsense


@pytest.mark.parametrize("kind", [Loop, AsyncLoop])
def test_an_iterator_that_was_never_made_has_no_attributes(kind: type) -> None:
    """`copy` and `pickle` look at objects before they are made."""
    unmade: Any = kind.__new__(kind)
    with pytest.raises(AttributeError):
        _ = unmade.nonsense


def test_closing_a_loop_closes_the_clients_iterator(telemetry: Telemetry) -> None:
    client = Client()
    loop = each(telemetry, client)
    next(loop)
    loop.close()
    assert (client.closed, ids(telemetry)) == (True, ["0"])


def test_items_of_which_nothing_was_begun_are_handed_on() -> None:
    """A tick of an inactivity timeout is in nobody's trace."""
    loop: Loop[int] = Loop(iter([1, 2]), lambda item: NOTHING)
    assert [(item, current_id()) for item in loop] == [(1, None), (2, None)]


def test_a_tick_ends_the_turn_before_it(telemetry: Telemetry) -> None:
    adapter: Any = Adapting(given=lambda item, via: [item] if isinstance(item, Message) else [])
    source = [Message(id="0"), "tick", Message(id="1")]
    loop = hopspan.each(source, adapter=adapter, **telemetry.settings)
    found = [(current_id(), ids(telemetry)) for _ in loop]
    assert found == [("0", []), (None, ["0"]), ("1", ["0"])]


# -- each ------------------------------------------------------------------------------------------


def test_each_refuses_a_policy_that_settles() -> None:
    with pytest.raises(PolicyError) as raised:
        hopspan.each([], policy=hopspan.requeue_once)
    assert str(raised.value) == (
        "each(policy=<policy requeue_once>): a loop cannot see whether its body failed, so it "
        "never settles. Put `with hopspan.process(message, via=..., policy=...)` into its body"
    )


def test_each_takes_a_policy_that_settles_nothing(telemetry: Telemetry) -> None:
    assert len(list(each(telemetry, policy=hopspan.manual))) == 3


def test_each_tells_of_what_is_no_message_while_iterating() -> None:
    loop = hopspan.each([3])
    with pytest.raises(UnknownMessageError) as raised:
        next(loop)
    assert str(raised.value) == (
        "each: no message of a client that hopspan knows in what it was given (int); "
        "give it what the client handed out, and the channel as via="
    )


def test_each_gives_via_to_the_adapter() -> None:
    vias: list[Any] = []

    def given(message: Any, via: Any) -> Any:
        vias.append(via)
        return []

    adapter: Any = Adapting(given=given)
    assert list(hopspan.each([1, 2], via="the consumer", adapter=adapter)) == [1, 2]
    assert vias == ["the consumer"] * 2


def test_each_refuses_what_the_adapter_does_not_know() -> None:
    adapter: Any = Adapting(given=lambda message, via: None)
    with pytest.raises(UnknownMessageError):
        next(hopspan.each([1], adapter=adapter))


def test_a_span_of_a_turn(telemetry: Telemetry) -> None:
    for _ in each(telemetry, messages(1)):
        pass
    assert telemetry.only == Seen(
        "process test",
        attributes={
            "messaging.system": "memory",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "test",
            "messaging.message.id": "0",
            "hopspan.attempt": 1,
        },
    )
