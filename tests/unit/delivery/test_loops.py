"""`each`: the body of a loop over messages is inside each one's span, and leaves nothing.

That a loop ends where it is left is CPython's finaliser; it is what these tests rest on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import attach, detach, get_current, set_value

import hopspan
from hopspan import PolicyError, UnknownMessageError
from tests.unit.delivery.client import Channel, Letter
from tests.unit.support import Seen, Telemetry, in_thread

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="finalisers run at once in CPython only"
)

NAMES = ["0", "1", "2"]


@pytest.fixture(autouse=True)
def nothing_is_logged(logged: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever way a loop is left."""
    yield
    assert [] == [record.message for record in logged.records]


def letters(count: int = 3) -> list[Letter]:
    return [Letter(str(number)) for number in range(count)]


def each(telemetry: Telemetry, source: Any = None, **settings: Any) -> Any:
    return hopspan.each(letters() if source is None else source, **telemetry.settings, **settings)


def ended(telemetry: Telemetry) -> list[Any]:
    """The names of the letters whose handling has ended."""
    return [
        span.attributes["messaging.message.id"]
        for span in telemetry.seen
        if span.name == "process orders"
    ]


def current() -> str | None:
    """The name of the letter that is handled around the caller."""
    found = hopspan.current()
    return found.delivery.message.id if found else None


# -- turns -----------------------------------------------------------------------------------------


def test_the_body_is_inside_the_span_of_its_message_which_ends_with_the_turn(
    telemetry: Telemetry,
) -> None:
    turns = [
        (
            letter.name,
            current(),
            trace.get_current_span() is hopspan.current().span,
            ended(telemetry),
        )
        for letter in each(telemetry)
    ]
    assert [(name, name, True, NAMES[:index]) for index, name in enumerate(NAMES)] == turns
    assert NAMES == ended(telemetry)
    assert (
        Seen(
            "process orders",
            attributes={
                "messaging.system": "letters",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": "orders",
                "messaging.message.id": "0",
            },
        )
        == telemetry.seen[0]
    )


def test_the_turns_are_siblings_below_what_is_current_around_the_loop(
    telemetry: Telemetry,
) -> None:
    for _ in each(telemetry):
        pass
    with telemetry.tracer.start_as_current_span("job") as job:
        for _ in each(telemetry):
            pass
    parent = job.get_span_context().span_id
    assert [None] * 3 + [parent] * 3 == [span.parent for span in telemetry.seen[:6]]


def test_what_a_poll_returns_is_iterated_message_by_message(telemetry: Telemetry) -> None:
    """A dictionary of lists, as Kafka's clients have it: a loop over it would be over its keys."""
    first, second, third = letters()
    polled: Any = {"orders-0": [first, second], "orders-1": [], "orders-2": [third]}
    assert [(first, "0"), (second, "1"), (third, "2")] == [
        (letter, current()) for letter in each(telemetry, polled)
    ]
    assert NAMES == ended(telemetry)


@pytest.mark.parametrize("empty", [[], {}, iter(())])
def test_an_empty_loop_has_no_span(empty: Any, telemetry: Telemetry) -> None:
    assert ([], []) == (list(each(telemetry, empty)), telemetry.spans)


@pytest.mark.parametrize(
    ("body", "sent", "status"),
    [
        (lambda letter: None, None, ("UNSET", None)),
        (Letter.ack, "ack", ("UNSET", None)),
        (Letter.reject, "reject", ("ERROR", "reject by handler")),
        (Letter.requeue, "requeue", ("ERROR", "requeue by handler")),
        (
            lambda letter: hopspan.current().span.set_status(trace.StatusCode.ERROR, "bad"),
            None,
            ("ERROR", "bad"),
        ),
        (lambda letter: hopspan.current().fail("no customer"), None, ("ERROR", "no customer")),
    ],
)
def test_a_turn_settles_nothing_and_fails_by_a_nack_or_a_status(
    body: Callable[[Letter], None], sent: str | None, status: Any, telemetry: Telemetry
) -> None:
    given = letters(1)
    for letter in each(telemetry, given):
        body(letter)
        assert ("0", []) == (current(), telemetry.spans)  # what comes after it is the handling too
    assert ([(sent, "0")] if sent else []) == given[0].channel.sent
    assert status == telemetry.only.status
    assert sent == telemetry.only.attributes.get("hopspan.settlement")


def test_a_block_in_the_body_joins_and_settles(telemetry: Telemetry) -> None:
    given = letters()
    for letter in each(telemetry, given):
        with hopspan.process(letter, policy=hopspan.ack_always) as operation:
            assert operation is hopspan.current()
    assert ["ack"] * 3 == [letter.verb for letter in given]
    assert NAMES == ended(telemetry)


def test_a_handler_that_is_called_in_the_body_joins_and_settles(telemetry: Telemetry) -> None:
    @hopspan.consumer(policy=hopspan.ack_always, **telemetry.settings)
    def on_letter(letter: Letter) -> None:
        assert letter.name == current()

    given = letters()
    for letter in each(telemetry, given):
        on_letter(letter)
    assert ["ack"] * 3 == [letter.verb for letter in given]
    assert NAMES == ended(telemetry)


def test_deferring_in_the_body_leaves_the_end_to_the_deferred_operation(
    telemetry: Telemetry,
) -> None:
    operations = [hopspan.current().defer() for _ in each(telemetry)]
    assert [] == ended(telemetry)
    for operation in operations:
        with operation:
            pass
    assert NAMES == ended(telemetry)


def test_a_loop_over_a_loop_is_one_loop(telemetry: Telemetry) -> None:
    """`each` over what an instrumented client's iterator gives out."""
    inside = [current() for _ in each(telemetry, each(telemetry))]
    assert (NAMES, NAMES) == (inside, ended(telemetry))


# -- ways to leave a loop --------------------------------------------------------------------------


def exhaustion(loop: Iterable[Letter]) -> None:
    for _ in loop:
        pass


def break_(loop: Iterable[Letter]) -> None:
    for letter in loop:
        if letter.name == "1":
            break


def return_(loop: Iterable[Letter]) -> Letter | None:
    for letter in loop:
        if letter.name == "1":
            return letter
    return None


def exception(loop: Iterable[Letter]) -> None:
    try:
        for letter in loop:
            if letter.name == "1":
                raise ValueError("bad")
    except ValueError:
        pass


def next_only(loop: Iterable[Letter]) -> None:
    iterator = iter(loop)
    next(iterator)
    next(iterator)


def unpacking(loop: Iterable[Letter]) -> None:
    _first, _second, *_others = loop


def generator(loop: Iterable[Letter]) -> None:
    any(letter.name == "1" for letter in loop)


@pytest.mark.parametrize(
    ("leave", "count"),
    [
        (exhaustion, 3),
        (break_, 2),
        (return_, 2),
        (exception, 2),
        (next_only, 2),
        (unpacking, 3),
        (generator, 2),
    ],
)
def test_leaving_a_loop_ends_the_turn_and_its_context(
    leave: Callable[[Any], Any], count: int, telemetry: Telemetry
) -> None:
    before = get_current()
    leave(each(telemetry))
    assert (True, NAMES[:count]) == (get_current() is before, ended(telemetry))


def test_a_loop_that_is_kept_keeps_its_turn_until_it_goes(telemetry: Telemetry) -> None:
    """A reference that is kept is a loop that may be continued."""
    before, loop = get_current(), each(telemetry)
    for _ in loop:
        break
    assert ("0", []) == (current(), ended(telemetry))
    for _ in loop:
        break
    assert ("1", ["0"]) == (current(), ended(telemetry))
    del loop
    assert (True, ["0", "1"]) == (get_current() is before, ended(telemetry))


def test_a_loop_that_is_kept_can_be_left_once(telemetry: Telemetry) -> None:
    loop = each(telemetry)
    next(loop)
    loop.close()
    assert (None, ["0"]) == (current(), ended(telemetry))
    token = attach(set_value("mine", 1))
    loop.close()
    assert 1 == get_current().get("mine")
    detach(token)
    assert ["0"] == ended(telemetry)


def test_two_loops_that_run_in_turn_leave_nothing(telemetry: Telemetry) -> None:
    before = get_current()
    for _ in zip(each(telemetry, letters(30)), each(telemetry, letters(30)), strict=True):
        pass
    assert (True, 60) == (get_current() is before, len(telemetry.spans))


def test_a_loop_inside_of_a_loop_is_inside_of_its_turn(telemetry: Telemetry) -> None:
    seen: list[Any] = []
    for _ in each(telemetry, letters(2)):
        seen.append([current(), *(current() for _ in each(telemetry, [Letter("inner")]))])
        seen.append(current())
    assert [["0", "inner"], "0", ["1", "inner"], "1"] == seen


# -- driven from elsewhere -------------------------------------------------------------------------


def test_driven_from_another_thread_nothing_is_made_current(telemetry: Telemetry) -> None:
    loop = iter(each(telemetry))
    assert ("0", None) == in_thread(lambda: (next(loop).name, current()))
    assert None is current()
    loop.close()
    assert ["0"] == ended(telemetry)


def test_a_thread_that_iterates_makes_it_its_own(telemetry: Telemetry) -> None:
    """Made here, iterated there."""
    loop = each(telemetry)
    assert NAMES == in_thread(lambda: [current() for _ in loop])


def test_a_turn_that_began_here_can_be_ended_elsewhere(telemetry: Telemetry) -> None:
    """Its span ends; its context is undone when the loop comes back."""
    loop = each(telemetry)
    next(loop)
    in_thread(loop.close)
    assert ["0"] == ended(telemetry)
    loop.close()


def test_each_turn_may_be_waited_for_in_a_worker_thread(telemetry: Telemetry) -> None:
    async def consume() -> list[Any]:
        loop, seen = iter(each(telemetry)), []
        for _ in NAMES:
            letter = await asyncio.to_thread(next, loop)
            seen.append((letter.name, current()))
        return seen

    assert [(name, None) for name in NAMES] == asyncio.run(consume())
    assert NAMES == ended(telemetry)


# -- asynchronous loops ----------------------------------------------------------------------------


class Source:
    """A client's asynchronous iterator."""

    def __init__(self, count: int = 3) -> None:
        self._letters = iter(letters(count))
        self.closed = False

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Letter:
        await asyncio.sleep(0)
        try:
            return next(self._letters)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        self.closed = True


def test_an_asynchronous_body_is_inside_the_span_of_its_message(telemetry: Telemetry) -> None:
    async def consume() -> tuple[list[Any], bool]:
        before, seen = get_current(), []
        async for letter in each(telemetry, Source()):
            await asyncio.sleep(0)
            seen.append((letter.name, current(), ended(telemetry)))
        return seen, get_current() is before

    turns = [(name, name, NAMES[:index]) for index, name in enumerate(NAMES)]
    assert (turns, True) == asyncio.run(consume())
    assert NAMES == ended(telemetry)


@pytest.mark.parametrize("way", ["break", "exception", "cancelled"])
def test_leaving_an_asynchronous_loop_ends_the_turn_and_its_context(
    way: str, telemetry: Telemetry
) -> None:
    async def consume() -> bool:
        before = get_current()
        try:
            async for letter in each(telemetry, Source()):
                if letter.name == "1" and way == "break":
                    break
                if letter.name == "1":
                    raise asyncio.CancelledError if way == "cancelled" else ValueError
        except (ValueError, asyncio.CancelledError):
            pass
        return get_current() is before

    assert asyncio.run(consume()) is True
    assert ["0", "1"] == ended(telemetry)


def test_a_timeout_around_each_turn_leaves_nothing(telemetry: Telemetry) -> None:
    """`wait_for` may run `__anext__` in a task of its own, whose context goes when it returns."""

    async def consume() -> tuple[list[str], bool]:
        before = get_current()
        turns = each(telemetry, Source()).__aiter__()
        seen = [(await asyncio.wait_for(turns.__anext__(), 10)).name for _ in NAMES]
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(turns.__anext__(), 10)
        return seen, get_current() is before

    assert (NAMES, True) == asyncio.run(consume())
    assert NAMES == ended(telemetry)


def test_turns_in_tasks_of_their_own_make_nothing_current(telemetry: Telemetry) -> None:
    async def consume() -> list[str | None]:
        turns, seen = each(telemetry, Source()), []
        for _ in NAMES:
            await asyncio.ensure_future(turns.__anext__())
            seen.append(current())
        return seen

    assert [None] * 3 == asyncio.run(consume())


def test_a_users_asynchronous_generator_that_is_closed_leaves_nothing(
    telemetry: Telemetry,
) -> None:
    async def around() -> AsyncIterator[str | None]:
        async for letter in each(telemetry, Source()):
            yield letter.name

    async def consume() -> bool:
        before, turns = get_current(), around()
        async for _ in turns:
            break
        await turns.aclose()  # type: ignore[attr-defined]
        return get_current() is before

    assert asyncio.run(consume()) is True
    assert ["0"] == ended(telemetry)


def test_two_tasks_may_loop_at_the_same_time(telemetry: Telemetry) -> None:
    async def consume() -> list[bool]:
        return [letter.name == current() async for letter in each(telemetry, Source())]

    async def both() -> list[list[bool]]:
        return [*await asyncio.gather(consume(), consume())]

    assert [[True] * 3] * 2 == asyncio.run(both())


# -- the iterator itself ---------------------------------------------------------------------------


class Letters(Iterator[Letter]):
    """A client's own iterator, which can do more than iterate."""

    def __init__(self) -> None:
        self._letters = iter(letters())
        self.closed = False
        self.position = 7

    def __next__(self) -> Letter:
        return next(self._letters)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("source", "name"), [(Letters(), "position"), (Source(), "closed")])
def test_a_loop_can_do_what_the_clients_iterator_can(
    source: Any, name: str, telemetry: Telemetry
) -> None:
    loop = each(telemetry, source)
    assert getattr(source, name) == getattr(loop, name)
    with pytest.raises(AttributeError):
        _ = loop.nonsense


def test_a_loop_that_was_never_made_has_no_attributes(telemetry: Telemetry) -> None:
    """`copy` and `pickle` look at objects before they are made."""
    for source in (Letters(), Source()):
        kind: Any = type(each(telemetry, source))
        with pytest.raises(AttributeError):
            _ = kind.__new__(kind).nonsense


def test_closing_a_loop_closes_the_clients_iterator(telemetry: Telemetry) -> None:
    source = Letters()
    loop = each(telemetry, source)
    next(loop)
    loop.close()
    assert (True, ["0"]) == (source.closed, ended(telemetry))


def test_closing_an_asynchronous_loop_closes_the_clients_iterator(telemetry: Telemetry) -> None:
    async def consume(source: Any) -> bool:
        loop, before = each(telemetry, source), get_current()
        await anext(loop)
        await loop.aclose()
        return get_current() is before

    class Endless:
        """One that cannot be closed is left alone."""

        def __aiter__(self) -> Endless:
            return self

        async def __anext__(self) -> Letter:
            return Letter("0")

    source = Source()
    assert asyncio.run(consume(source))
    assert asyncio.run(consume(Endless()))
    assert (True, ["0", "0"]) == (source.closed, ended(telemetry))


# -- what can be iterated over ---------------------------------------------------------------------


def test_a_policy_that_settles_is_refused() -> None:
    with pytest.raises(PolicyError) as raised:
        hopspan.each([], policy=hopspan.requeue_once)
    assert (
        "each(policy=<policy requeue_once>): a loop cannot see whether its body failed, so it "
        "never settles. Put `with hopspan.process(message, via=..., policy=...)` into its body"
    ) == str(raised.value)


def test_a_policy_that_settles_nothing_is_fine(telemetry: Telemetry) -> None:
    assert 3 == len(list(each(telemetry, policy=hopspan.manual)))


def test_what_is_no_message_is_refused_while_iterating() -> None:
    with pytest.raises(UnknownMessageError) as raised:
        next(hopspan.each([3]))
    assert (
        "each: no message of a client that hopspan knows in what it was given (int); "
        "give it what the client handed out, and the channel as via="
    ) == str(raised.value)


def test_a_turn_may_have_several_messages_or_none(telemetry: Telemetry) -> None:
    """A poll that brought nothing is in nobody's trace, and ends the turn before it."""
    source: list[Any] = [Letter("0"), [], [Letter("1"), Letter("2")]]
    seen = [(current(), len(telemetry.spans)) for _ in each(telemetry, source, via=Channel())]
    assert [("0", 0), (None, 1), ("1", 1)] == seen


def test_a_policy_of_the_process_has_no_effect_in_a_loop_which_is_said_once(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOPSPAN_POLICY", "ack_always")
    given = letters()
    for _ in each(telemetry, given):
        pass
    assert [None] * 3 == [letter.verb for letter in given]
    assert [
        "a loop never settles: <policy ack_always> on orders did nothing. Put the loop's body into "
        "`with hopspan.process(message, via=..., policy=...)`"
    ] == [record.message for record in logged.records]
    logged.clear()
