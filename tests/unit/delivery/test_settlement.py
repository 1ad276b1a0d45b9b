"""What becomes of a message: one outcome, from which span, status, metrics and verdict follow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

import hopspan
from hopspan import Outcome, Policy, Settlement, Verdict
from tests.unit.delivery.client import (
    AsyncLetter,
    Channel,
    ClosedError,
    Letter,
    SlipError,
    Stop,
)
from tests.unit.delivery.ways import Way, handle, quietly, raises, succeeds
from tests.unit.support import Seen, Telemetry, in_thread

ATTRIBUTES = {
    "messaging.system": "letters",
    "messaging.operation.name": "process",
    "messaging.operation.type": "process",
    "messaging.destination.name": "orders",
    "messaging.message.id": "1",
}
DONE = Seen("process orders", attributes=ATTRIBUTES)
BAD = ValueError("bad")
POLICY = hopspan.by_exception({OSError: Verdict.REQUEUE}, default=hopspan.reject_on_error)
FAILED: dict[str, Any] = {
    "hopspan.settlement": "reject",
    "hopspan.settlement.reason": "failed: ValueError",
}


class Cancelled(BaseException):
    """As trio cancels."""


class GreenletExit(BaseException):
    """As gevent cancels."""


class Abort(BaseException):
    """Neither a cancellation nor an interrupt."""


class Group(BaseException):
    def __init__(self, *exceptions: BaseException) -> None:
        super().__init__("group")
        self.exceptions = exceptions


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def process_span(telemetry: Telemetry) -> Seen:
    (span,) = (span for span in telemetry.seen if span.name.startswith("process"))
    return span


def a_process(**more: Any) -> Seen:
    """The process span of a handling that did not fail."""
    return DONE._replace(attributes={**ATTRIBUTES, **more})


def a_failure(kind: str, description: str | None, *, events: int = 1, **more: Any) -> Seen:
    """The process span of one that did."""
    return a_process(**{"error.type": kind, **more})._replace(
        status=("ERROR", description), events=("exception",) * events
    )


def settled_as(verdict: str, reason: str | None = None) -> dict[str, Any]:
    told = {"hopspan.settlement": verdict}
    return told if reason is None else {**told, "hopspan.settlement.reason": reason}


CANCELLED = a_process(**settled_as("requeue", "cancelled"), **{"hopspan.cancelled": True})
INTERRUPTED = a_process(**{"hopspan.cancelled": True})
HERE = __name__


@pytest.mark.parametrize(
    ("error", "sent", "span"),
    [
        (None, "ack", a_process(**settled_as("ack"))),
        (BAD, "reject", a_failure("ValueError", "bad", **FAILED)),
        (
            OSError("gone"),
            "requeue",
            a_failure("OSError", "gone", **settled_as("requeue", "failed: OSError")),
        ),
        (
            SlipError("oops"),
            "reject",
            a_failure("misdelivered", "oops", **settled_as("reject", "failed: misdelivered")),
        ),
        (
            Abort("stop"),
            "reject",
            a_failure(f"{HERE}.Abort", "stop", **settled_as("reject", f"failed: {HERE}.Abort")),
        ),
        (
            Group(ValueError(), Group(OSError())),
            "reject",
            a_failure(f"{HERE}.Group", "group", **settled_as("reject", f"failed: {HERE}.Group")),
        ),
        (Stop(), None, DONE),  # the client knows what is to become of the message
        (asyncio.CancelledError(), "requeue", CANCELLED),
        (GeneratorExit(), "requeue", CANCELLED),
        (Cancelled(), "requeue", CANCELLED),
        (GreenletExit(), "requeue", CANCELLED),
        (KeyboardInterrupt(), None, INTERRUPTED),
        (SystemExit(1), None, INTERRUPTED),
        (Group(ValueError(), Group(KeyboardInterrupt())), None, INTERRUPTED),
    ],
)
def test_span_and_settlement_follow_from_one_outcome(
    error: BaseException | None, sent: str | None, span: Seen, way: Way, telemetry: Telemetry
) -> None:
    letter = way.letter()
    body = succeeds if error is None else raises(error)
    escaped = handle(way, letter, body, policy=POLICY, **telemetry.settings)
    assert ([(sent, "1")] if sent else []) == letter.channel.sent
    assert span == process_span(telemetry)
    is_settled_failure = isinstance(error, Exception) and not isinstance(error, Stop)
    assert escaped is (None if way.swallows and is_settled_failure else error)


def test_an_error_that_cannot_be_told_is_a_failure_all_the_same(
    plain_way: Way, telemetry: Telemetry
) -> None:
    letter = plain_way.letter()
    quietly(plain_way, letter, raises(UnprintableError()), policy=POLICY, **telemetry.settings)
    assert [("reject", "1")] == letter.channel.sent
    assert f"{HERE}.UnprintableError" == process_span(telemetry).attributes["error.type"]


def test_without_a_policy_nothing_is_settled_and_everything_escapes(
    way: Way, telemetry: Telemetry
) -> None:
    letter = way.letter()
    assert BAD is handle(way, letter, raises(BAD), **telemetry.settings)
    assert [] == letter.channel.sent
    assert a_failure("ValueError", "bad") == telemetry.only


def test_a_message_is_counted_and_its_handling_measured_once(
    way: Way, telemetry: Telemetry
) -> None:
    way.run(way.letter(), succeeds, policy=hopspan.ack_always, **telemetry.settings)
    for metric in ("messaging.client.consumed.messages", "messaging.process.duration"):
        assert [1] == [value for _, value in telemetry.points(metric)]


# -- failing without raising -----------------------------------------------------------------------


def _fails(_letter: Any) -> None:
    hopspan.current().fail("no customer", type="invalid_order")


def _fails_without_a_type(_letter: Any) -> None:
    hopspan.current().fail("no customer")


def _fails_and_raises(_letter: Any) -> None:
    hopspan.current().fail("no customer")
    raise BAD


def _fails_after_its_status(_letter: Any) -> None:
    trace.get_current_span().set_status(StatusCode.ERROR, "by status")
    hopspan.current().fail("by hand")


def _sets_its_status(_letter: Any) -> None:
    trace.get_current_span().set_status(StatusCode.ERROR, "by status")


def _sets_a_good_status(_letter: Any) -> None:
    trace.get_current_span().set_status(StatusCode.OK)


@pytest.mark.parametrize(
    ("body", "sent", "span"),
    [
        (_fails, "reject", a_failure("invalid_order", "no customer", events=0)),
        (_fails_without_a_type, "reject", a_failure("_OTHER", "no customer", events=0)),
        (_fails_and_raises, "reject", a_failure("ValueError", "bad")),
        (_fails_after_its_status, "reject", a_failure("_OTHER", "by hand", events=0)),
        (_sets_its_status, "reject", a_failure("_OTHER", "by status", events=0)),
        (_sets_a_good_status, "ack", a_process()._replace(status=("OK", None))),
    ],
)
@pytest.mark.parametrize("which", ["telemetry", "unsampled"])
def test_a_body_may_fail_without_raising(
    which: str,
    body: Callable[[Any], None],
    sent: str,
    span: Seen,
    way: Way,
    request: pytest.FixtureRequest,
) -> None:
    """The policy treats it like an exception, whether the span is sampled or not."""
    telemetry: Telemetry = request.getfixturevalue(which)
    letter = way.letter()
    quietly(way, letter, body, policy=hopspan.reject_on_error, **telemetry.settings)
    assert [(sent, "1")] == letter.channel.sent
    if which == "telemetry":
        kind = span.attributes.get("error.type")
        more = settled_as(sent, f"failed: {kind}" if kind else None)
        assert span._replace(attributes={**span.attributes, **more}) == process_span(telemetry)


def test_failing_after_the_end_changes_nothing(way: Way, telemetry: Telemetry) -> None:
    kept: list[Any] = []
    letter = way.letter()
    way.run(letter, lambda _: kept.append(hopspan.current()), policy=POLICY, **telemetry.settings)
    kept[0].fail("too late")
    assert [("ack", "1")] == letter.channel.sent
    assert a_process(**settled_as("ack")) == telemetry.only


# -- settled by the user ---------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["ack", "requeue", "reject"])
@pytest.mark.parametrize("error", [None, BAD])
def test_what_the_user_settled_is_not_settled_again(
    verb: str, error: Exception | None, plain_way: Way, telemetry: Telemetry
) -> None:
    def body(letter: Any) -> None:
        getattr(letter, verb)()
        if error is not None:
            raise error

    letter = plain_way.letter()
    quietly(plain_way, letter, body, policy=hopspan.reject_on_error, **telemetry.settings)
    assert [(verb, "1")] == letter.channel.sent
    failed = {"error.type": "ValueError"} if error is not None else {}
    assert {**ATTRIBUTES, **settled_as(verb), **failed} == telemetry.only.attributes


def test_what_was_settled_before_is_not_settled_again_and_said(
    plain_way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        letter = plain_way.letter()
        letter.ack()
        plain_way.run(letter, succeeds, policy=hopspan.reject_on_error, **telemetry.settings)
        assert [("ack", "1")] == letter.channel.sent
    assert ["ack"] * 2 == [span.attributes["hopspan.settlement"] for span in telemetry.seen]
    assert [
        "<policy reject_on_error> came too late for a message of orders: it was settled before "
        "this handler began. A handler that hands its message to a thread or task should take "
        "hopspan.current().defer() along"
    ] == [record.message for record in logged.records]


def test_a_policy_is_not_asked_about_what_the_user_settled(
    plain_way: Way, telemetry: Telemetry
) -> None:
    asked: list[Any] = []

    def decide(outcome: Any, delivery: Any) -> Verdict:
        asked.append(delivery)
        return Verdict.ACK

    plain_way.run(plain_way.letter(), Letter.reject, policy=decide, **telemetry.settings)
    assert [] == asked


# -- policies --------------------------------------------------------------------------------------


def _nonsense(outcome: Any, delivery: Any) -> Any:
    return "ack"


def _cannot(outcome: Any, delivery: Any) -> Any:
    raise RuntimeError("a policy that cannot")


@pytest.mark.parametrize("decide", [_nonsense, _cannot])
def test_a_policy_that_cannot_decide_leaves_the_message_and_says_so(
    decide: Any, way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    letter = way.letter()
    policy = Policy("mine", decide)
    assert BAD is handle(way, letter, raises(BAD), policy=policy, **telemetry.settings)
    assert [] == letter.channel.sent
    assert a_failure("ValueError", "bad") == telemetry.only
    assert ["<policy mine> could not decide; the message is left unsettled"] == [
        record.message for record in logged.records
    ]


def test_a_policy_may_leave_a_message(way: Way, telemetry: Telemetry) -> None:
    letter = way.letter()
    policy = Policy("sometimes", lambda outcome, delivery: Verdict.LEAVE)
    way.run(letter, succeeds, policy=policy, **telemetry.settings)
    assert [] == letter.channel.sent
    assert DONE == telemetry.only


def test_a_policy_sees_how_it_went_and_gives_a_reason(way: Way, telemetry: Telemetry) -> None:
    asked: list[Any] = []

    def decide(outcome: Outcome, delivery: Any) -> Settlement:
        asked.append((outcome, delivery.headers, delivery.attempt, delivery.redelivered))
        return Settlement(Verdict.REJECT, "out of stock")

    letter = way.letter(headers={"color": "red"}, attempt=2)
    quietly(way, letter, raises(BAD), policy=decide, **telemetry.settings)
    assert [(Outcome(True, BAD, "ValueError", "bad"), {"color": "red"}, 2, True)] == asked
    told = {"hopspan.attempt": 2, "hopspan.redelivered": True}
    expected = a_failure("ValueError", "bad", **told, **settled_as("reject", "out of stock"))
    assert expected == process_span(telemetry)


def test_an_interrupt_in_a_policy_still_ends_the_span(plain_way: Way, telemetry: Telemetry) -> None:
    interrupt = KeyboardInterrupt()

    def decide(outcome: Any, delivery: Any) -> Verdict:
        raise interrupt

    letter = plain_way.letter()
    escaped = handle(plain_way, letter, succeeds, policy=decide, **telemetry.settings)
    assert (interrupt, [], 1) == (escaped, letter.channel.sent, len(telemetry.spans))


# -- what a settlement looks like ------------------------------------------------------------------

SETTLED = {
    "messaging.system": "letters",
    "messaging.operation.name": "reject",
    "messaging.operation.type": "settle",
    "messaging.destination.name": "orders",
    "messaging.message.id": "1",
    "hopspan.settlement": "reject",
    "hopspan.settlement.reason": "failed: ValueError",
}


def test_a_notable_settlement_is_a_span_inside_of_the_process_span(
    way: Way, telemetry: Telemetry
) -> None:
    quietly(way, way.letter(), raises(BAD), policy=POLICY, **telemetry.settings)
    settle, process = telemetry.spans
    assert process.context is not None
    inside = process.context.span_id
    assert Seen("reject orders", SpanKind.CLIENT, SETTLED, parent=inside) == telemetry.seen[0]
    assert [1] == [value for _, value in telemetry.points("messaging.client.operation.duration")]
    assert (process.start_time or 0) <= (settle.start_time or 0) <= (process.end_time or 0)


# -- settlements that fail -------------------------------------------------------------------------

CLOSED = ClosedError("closed")
GONE = f"{ClosedError.__module__}.{ClosedError.__qualname__}"
NOT_SENT = "could not reject a message of orders; the broker will hand it out again"


@pytest.mark.parametrize("half_way", [False, True])
def test_a_settlement_that_fails_is_recorded_and_said_and_never_hides_the_failure(
    half_way: bool, way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    """Also one that was written down before the connection broke: nobody knows, so nobody claims it."""
    letter = way.letter(channel=Channel(fails={"": CLOSED}, half_way=half_way))
    policy = hopspan.reject_on_error
    assert BAD is handle(way, letter, raises(BAD), policy=policy, **telemetry.settings)
    assert [] == letter.channel.sent
    settle, process = telemetry.seen
    assert a_failure("ValueError", "bad") == process
    assert (
        Seen(
            "reject orders",
            SpanKind.CLIENT,
            {**SETTLED, "error.type": GONE},
            settle.parent,
            status=("ERROR", "closed"),
            events=("exception",),
        )
        == settle
    )
    assert [("WARNING", NOT_SENT)] == [
        (record.levelname, record.message) for record in logged.records
    ]


@pytest.mark.parametrize(
    ("is_open", "closes", "escapes"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_a_handler_raises_a_settlements_failure_that_cost_the_channel(
    is_open: bool, closes: bool, escapes: bool, telemetry: Telemetry
) -> None:
    """As if it had acked itself: the client must not go on to hand out what cannot be settled."""
    channel = Channel(fails={"": CLOSED}, closes=closes)
    channel.is_open = is_open
    decorate = hopspan.consumer(policy=hopspan.ack_always, **telemetry.settings)
    try:
        assert "result" == decorate(succeeds)(Letter(channel=channel))
    except ClosedError as error:
        assert (escapes, CLOSED) == (True, error)
    else:
        assert not escapes


def test_a_cancelled_handlers_message_is_left_where_the_channel_is_closed(
    way: Way, telemetry: Telemetry
) -> None:
    letter = way.letter()
    letter.channel.is_open = False
    error = asyncio.CancelledError()
    escaped = handle(way, letter, raises(error), policy=POLICY, **telemetry.settings)
    assert (error, []) == (escaped, letter.channel.sent)
    assert INTERRUPTED == telemetry.only


def test_a_cancelled_handlers_message_is_left_where_nobody_knows_whether_it_is_closed(
    way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    letter = way.letter()
    letter.channel.is_open = None
    quietly(way, letter, raises(asyncio.CancelledError()), policy=POLICY, **telemetry.settings)
    assert ([], 1) == (letter.channel.sent, len(logged.records))


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_is_interrupted_while_it_settles_still_ends_its_span(
    stop: BaseException, way: Way, telemetry: Telemetry
) -> None:
    letter = way.letter(channel=Channel(fails={"": stop}))
    escaped = handle(way, letter, succeeds, policy=POLICY, **telemetry.settings)
    assert (stop, [], 1) == (escaped, letter.channel.sent, len(telemetry.spans))


# -- the client's own thread -----------------------------------------------------------------------


def elsewhere() -> Letter:
    """A letter whose channel settles on a thread of its own, which is not this one."""
    return Letter(channel=Channel(own_thread=True))


def test_the_client_settles_on_its_own_thread(plain_way: Way, telemetry: Telemetry) -> None:
    """The span ends when the verdict has been sent; until then nothing is known."""
    letter = elsewhere()
    plain_way.run(letter, succeeds, policy=POLICY, **telemetry.settings)
    assert ([], 1, []) == (letter.channel.sent, len(letter.channel.callbacks), telemetry.spans)
    in_thread(letter.channel.run)
    assert [("ack", "1")] == letter.channel.sent
    assert a_process(**settled_as("ack")) == telemetry.only


def test_the_wait_for_the_clients_thread_is_not_the_handlers(
    plain_way: Way, telemetry: Telemetry
) -> None:
    letter = elsewhere()
    plain_way.run(letter, succeeds, policy=POLICY, **telemetry.settings)
    time.sleep(0.2)
    letter.channel.run()
    (point,) = telemetry.metric("messaging.process.duration").data.data_points
    assert point.sum < 0.2


def test_with_nothing_to_send_there_is_no_need_for_the_clients_thread(
    plain_way: Way, telemetry: Telemetry
) -> None:
    letter = elsewhere()
    plain_way.run(letter, succeeds, **telemetry.settings)
    assert ([], [DONE]) == (letter.channel.callbacks, telemetry.seen)


def test_what_the_user_settled_on_the_way_to_the_clients_thread_is_not_settled_again(
    plain_way: Way, telemetry: Telemetry
) -> None:
    letter = elsewhere()
    plain_way.run(letter, succeeds, policy=POLICY, **telemetry.settings)
    letter.channel.callbacks.insert(0, letter.reject)
    letter.channel.run()
    assert [("reject", "1")] == letter.channel.sent
    assert a_process(**settled_as("reject")) == telemetry.only


def test_a_thread_that_cannot_be_reached_leaves_the_message_and_says_so(
    plain_way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    letter = elsewhere()
    letter.channel.is_reachable = False
    policy = hopspan.reject_on_error
    assert BAD is handle(plain_way, letter, raises(BAD), policy=policy, **telemetry.settings)
    assert ["reject orders", "process orders"] == [span.name for span in telemetry.spans]
    assert a_failure("ValueError", "bad") == process_span(telemetry)
    assert [NOT_SENT] == [record.message for record in logged.records]


def test_callbacks_that_the_client_drops_end_their_span_unsettled(
    plain_way: Way, telemetry: Telemetry
) -> None:
    letter = elsewhere()
    plain_way.run(letter, succeeds, policy=POLICY, **telemetry.settings)
    letter.channel.callbacks.clear()
    assert ([], [DONE]) == (letter.channel.sent, telemetry.seen)


def test_a_client_whose_thread_cannot_be_found_settles_here(
    plain_way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    class Unsure(Channel):
        def settle(self, verb: str, letter: Letter) -> None:
            self.is_reachable = True
            super().settle(verb, letter)

    letter = Letter(channel=Unsure())
    letter.channel.is_reachable = None
    plain_way.run(letter, succeeds, policy=POLICY, **telemetry.settings)
    assert ([("ack", "1")], 1) == (letter.channel.sent, len(logged.records))


# -- messages that are somebody else's by now ------------------------------------------------------

REVOKED = a_process(**settled_as("leave", "revoked"), **{"hopspan.cancelled": True})


@pytest.mark.parametrize("error", [None, BAD])
@pytest.mark.parametrize("thread", [True, False])
def test_what_is_taken_back_ends_there_and_is_never_settled(
    error: Exception | None, thread: bool, way: Way, telemetry: Telemetry
) -> None:
    """The handler goes on, and does not know."""

    def body(letter: Letter) -> None:
        if thread:
            in_thread(lambda: letter.channel.take_back("1"))
        else:
            letter.channel.take_back("1")
        assert [REVOKED] == telemetry.seen
        hopspan.current().fail("too late", type="late")
        if error is not None:
            raise error

    letter = way.letter()
    escaped = handle(way, letter, body, policy=POLICY, **telemetry.settings)
    letter.channel.take_back("1", "again")
    assert (error, []) == (escaped, letter.channel.sent)
    assert REVOKED == telemetry.only


def test_what_is_over_cannot_be_taken_back(way: Way, telemetry: Telemetry) -> None:
    letter = way.letter()
    way.run(letter, succeeds, policy=POLICY, **telemetry.settings)
    letter.channel.take_back("1")
    assert a_process(**settled_as("ack")) == telemetry.only


def test_an_awaited_settlement_settles_what_it_can_of_several(telemetry: Telemetry) -> None:
    """One that fails does not keep the others."""

    async def work() -> None:
        letters = [AsyncLetter(name, channel) for name in "123"]
        async with hopspan.process(letters, policy=POLICY, **telemetry.settings):
            pass

    channel = Channel(fails={"2": CLOSED})
    asyncio.run(work())
    assert [("ack", "1"), ("ack", "3")] == channel.sent
