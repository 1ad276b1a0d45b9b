"""Work that goes on after the handler has returned: whoever has the deferred operation concludes."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from opentelemetry.context import get_current

import hopspan
from hopspan import PolicyError
from tests.unit.delivery.client import AsyncLetter, Channel, Letter
from tests.unit.delivery.ways import WAYS, Way, handle, run
from tests.unit.support import DEADLINE, Seen, Telemetry, in_thread

BAD = ValueError("bad")
POLICY = hopspan.reject_on_error
DROPPED = (
    "a deferred operation of orders was dropped; its message is left unsettled. Keep what defer() "
    "returns, and use it in a `with` block"
)
TOO_LATE = (
    "deferred work on a message of orders begins after its handling was concluded, because the "
    "handler raised, the operation was used before, or the partition was lost; nothing more is "
    "settled"
)


def process_span(telemetry: Telemetry) -> Seen:
    (span,) = (span for span in telemetry.seen if span.name.startswith("process"))
    return span


def deferred(way: Way, letter: Letter, telemetry: Telemetry, **settings: Any) -> Any:
    """What a body that defers, and returns, leaves behind."""
    given = {"policy": POLICY, **settings}
    operations: list[Any] = []
    way.run(
        letter,
        lambda _: operations.append(hopspan.current().defer()),
        **given,
        **telemetry.settings,
    )
    return operations.pop()


def work_in(operation: Any, way: Way, work: Any = lambda operation: None) -> None:
    """Do deferred work, awaited where the way to handle is."""

    async def awaited() -> None:
        async with operation as entered:
            await asyncio.sleep(0)
            work(entered)

    if way.name.startswith("awaited"):
        run(awaited())
    else:
        with operation as entered:
            work(entered)


def _raises(_operation: Any) -> None:
    raise BAD


def _fails(operation: Any) -> None:
    operation.fail("no customer")


@pytest.mark.parametrize(
    ("work", "sent"), [(lambda operation: None, "ack"), (_raises, "reject"), (_fails, "reject")]
)
def test_the_work_concludes_at_its_end(
    work: Any, sent: str, way: Way, telemetry: Telemetry
) -> None:
    letter = way.letter()
    operation = deferred(way, letter, telemetry)
    assert ([], []) == (letter.channel.sent, telemetry.spans)
    with suppress(ValueError):
        in_thread(lambda: work_in(operation, way, work))
    assert [(sent, "1")] == letter.channel.sent
    assert sent == process_span(telemetry).attributes["hopspan.settlement"]
    for metric in ("messaging.client.consumed.messages", "messaging.process.duration"):
        assert [1] == [value for _, value in telemetry.points(metric)]


def test_the_work_is_inside_of_the_process_span_and_leaves_nothing(
    way: Way, telemetry: Telemetry
) -> None:
    def work(entered: Any) -> None:
        assert entered is hopspan.current()
        with telemetry.tracer.start_as_current_span("work"):
            pass

    def elsewhere() -> bool:
        before = get_current()
        work_in(operation, way, work)
        return get_current() == before

    operation = deferred(way, way.letter(), telemetry)
    assert in_thread(elsewhere)
    child, parent = telemetry.spans
    assert (child.parent and child.parent.span_id) == (parent.context and parent.context.span_id)


def test_deferring_again_before_the_work_began_is_the_same_operation(
    way: Way, telemetry: Telemetry
) -> None:
    def body(_letter: Letter) -> None:
        operations.extend(hopspan.current().defer() for _ in range(2))

    operations: list[Any] = []
    letter = way.letter()
    way.run(letter, body, policy=POLICY, **telemetry.settings)
    assert operations[0] is operations[1]
    work_in(operations[0], way)
    assert [("ack", "1")] == letter.channel.sent


# -- handed on -------------------------------------------------------------------------------------


def test_work_can_be_handed_on(way: Way, telemetry: Telemetry) -> None:
    letter, further = way.letter(), list[Any]()
    operation = deferred(way, letter, telemetry)
    work_in(operation, way, lambda entered: further.append(entered.defer()))
    del operation
    gc.collect()
    assert ([], []) == (letter.channel.sent, telemetry.spans)
    work_in(further.pop(), way)
    assert ([("ack", "1")], 1) == (letter.channel.sent, len(telemetry.spans))


def test_work_that_fails_before_what_it_handed_on_began_concludes(
    way: Way, telemetry: Telemetry
) -> None:
    def work(entered: Any) -> None:
        kept.append(entered.defer())
        raise BAD

    letter, kept = way.letter(), list[Any]()
    with suppress(ValueError):
        work_in(deferred(way, letter, telemetry), way, work)
    assert [("reject", "1")] == letter.channel.sent


def test_work_that_fails_after_what_it_handed_on_began_leaves_it(
    plain_way: Way, telemetry: Telemetry
) -> None:
    letter = plain_way.letter()
    with suppress(ValueError), deferred(plain_way, letter, telemetry) as entered:
        with entered.defer():
            pass
        raise BAD
    assert [("ack", "1")] == letter.channel.sent


# -- the handler fails -----------------------------------------------------------------------------


def test_a_handler_that_raises_before_the_work_began_has_failed(
    way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    """Nobody will do the work then: the handler did not get as far as to hand it over."""

    def body(_letter: Letter) -> None:
        kept.append(hopspan.current().defer())
        raise BAD

    letter, kept = way.letter(), list[Any]()
    escaped = handle(way, letter, body, policy=POLICY, **telemetry.settings)
    assert (None if way.swallows else BAD, [("reject", "1")]) == (escaped, letter.channel.sent)
    work_in(kept.pop(), way)
    assert [("reject", "1")] == letter.channel.sent
    assert [TOO_LATE] == [
        record.message for record in logged.records if record.levelname == "WARNING"
    ]


def test_a_handler_that_raises_while_the_work_goes_on_leaves_it_to_the_work(
    plain_way: Way, telemetry: Telemetry
) -> None:
    """What the handler itself raised is not hidden meanwhile."""

    def body(_letter: Letter) -> None:
        operation = hopspan.current().defer()
        kept.append(operation)
        in_thread(operation.__enter__)
        raise BAD

    letter, kept = plain_way.letter(), list[Any]()
    assert BAD is handle(plain_way, letter, body, policy=POLICY, **telemetry.settings)
    assert [] == letter.channel.sent
    kept.pop().__exit__(None, None, None)
    assert [("ack", "1")] == letter.channel.sent
    assert ("UNSET", None) == telemetry.only.status


# -- operations that nobody uses -------------------------------------------------------------------


def test_an_operation_that_is_dropped_is_said_and_its_message_left(
    way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    letter = way.letter()
    deferred(way, letter, telemetry)
    gc.collect()
    assert ([], [DROPPED]) == (letter.channel.sent, [each.message for each in logged.records])
    assert telemetry.only.attributes["hopspan.cancelled"] is True


def test_an_operation_that_was_used_is_dropped_in_silence(
    way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    work_in(deferred(way, way.letter(), telemetry), way)
    gc.collect()
    assert [] == logged.records


def test_an_operation_whose_handler_failed_is_dropped_in_silence(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    def body(_letter: Letter) -> None:
        kept.append(hopspan.current().defer())
        raise BAD

    kept: list[Any] = []
    assert BAD is handle(WAYS[1], Letter(), body, policy=POLICY, **telemetry.settings)
    kept.clear()
    gc.collect()
    assert [] == logged.records


def test_an_operation_may_be_left_without_having_been_entered(telemetry: Telemetry) -> None:
    """`ExitStack.push` only leaves."""
    letter = Letter()
    with ExitStack() as stack:
        stack.push(deferred(WAYS[0], letter, telemetry))
    assert [("ack", "1")] == letter.channel.sent


def test_deferred_work_on_a_message_that_was_taken_back_settles_nothing(
    way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    letter = way.letter()
    operation = deferred(way, letter, telemetry)
    letter.channel.take_back("1")
    work_in(operation, way)
    assert ([], [TOO_LATE]) == (letter.channel.sent, [each.message for each in logged.records])
    assert "revoked" == telemetry.only.attributes["hopspan.settlement.reason"]


# -- awaited, or on the client's own thread --------------------------------------------------------


def test_deferred_work_is_settled_on_the_clients_own_thread(
    plain_way: Way, telemetry: Telemetry
) -> None:
    letter = Letter(channel=Channel(own_thread=True))
    operation = deferred(plain_way, letter, telemetry)
    in_thread(lambda: work_in(operation, plain_way))
    assert [] == letter.channel.sent
    letter.channel.run()
    assert ([("ack", "1")], 1) == (letter.channel.sent, len(telemetry.spans))


def test_a_plain_with_is_refused_where_settling_is_awaited(telemetry: Telemetry) -> None:
    """Nothing would be sent: it is said, and the operation can still be used as it should be."""
    letter, way = AsyncLetter(), WAYS[2]
    operation = deferred(way, letter, telemetry)
    with pytest.raises(PolicyError) as raised, operation:
        raise AssertionError("unreachable")
    assert (
        "`with operation` cannot settle for letters, whose settlement is awaited: "
        "write `async with operation`"
    ) == str(raised.value)
    work_in(operation, way)
    assert [("ack", "1")] == letter.channel.sent


def test_a_plain_with_will_do_where_nothing_is_settled(telemetry: Telemetry) -> None:
    with deferred(WAYS[2], AsyncLetter(), telemetry, policy=hopspan.manual):
        pass
    assert 1 == len(telemetry.spans)


@pytest.mark.parametrize("error", [None, BAD])
def test_a_policy_of_a_block_in_a_thread_is_not_followed_before_the_block_is_left(
    error: Exception | None, telemetry: Telemetry
) -> None:
    """Else the message would be acked, when its handler returns, before its work is done."""
    letter, entered, go = Letter(), threading.Event(), threading.Event()

    def work() -> None:
        with (
            suppress(ValueError),
            hopspan.process(letter, policy=hopspan.reject_on_error),
        ):
            entered.set()
            go.wait(DEADLINE)
            if error is not None:
                raise error

    thread = threading.Thread(target=work)

    @hopspan.consumer(**telemetry.settings)
    def handle(_letter: Letter) -> None:
        thread.start()
        entered.wait(DEADLINE)

    handle(letter)
    assert [] == letter.channel.sent
    go.set()
    thread.join(DEADLINE)
    assert [("ack" if error is None else "reject", "1")] == letter.channel.sent
    assert [span.name for span in telemetry.spans if span.name.startswith("process")] == [
        "process orders"
    ]
