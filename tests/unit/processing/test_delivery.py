"""From hand-over to settled: concluded once, and everything follows from the one outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

import hopspan
from hopspan.model import Delivery, Outcome, Settlement, Verdict
from hopspan.settlement import Policy
from hopspan.testing import Message, Queue, memory
from tests.unit.processing.conftest import Open
from tests.unit.support import Adapting, Seen, Telemetry, in_thread

ATTRIBUTES = {
    "messaging.system": "memory",
    "messaging.operation.name": "process",
    "messaging.operation.type": "process",
    "messaging.destination.name": "test",
    "hopspan.attempt": 1,
}
DONE = Seen("process test", attributes=ATTRIBUTES)

BAD = ValueError("bad")
ALL = hopspan.by_exception({OSError: Verdict.REQUEUE}, default=hopspan.reject_on_error)


def process_span(telemetry: Telemetry) -> Seen:
    return next(span for span in telemetry.seen if span.name.startswith("process"))


@pytest.mark.parametrize(
    ("error", "verdict", "attributes", "status"),
    [
        (None, Verdict.ACK, {"hopspan.settlement": "ack"}, ("UNSET", None)),
        (
            BAD,
            Verdict.REJECT,
            {
                "hopspan.settlement": "reject",
                "hopspan.settlement.reason": "failed: ValueError",
                "error.type": "ValueError",
            },
            ("ERROR", "bad"),
        ),
        (
            OSError("gone"),
            Verdict.REQUEUE,
            {
                "hopspan.settlement": "requeue",
                "hopspan.settlement.reason": "failed: OSError",
                "error.type": "OSError",
            },
            ("ERROR", "gone"),
        ),
        (
            asyncio.CancelledError(),
            Verdict.REQUEUE,
            {
                "hopspan.settlement": "requeue",
                "hopspan.settlement.reason": "cancelled",
                "hopspan.cancelled": True,
            },
            ("UNSET", None),
        ),
        (KeyboardInterrupt(), None, {"hopspan.cancelled": True}, ("UNSET", None)),
        (SystemExit(0), None, {"hopspan.cancelled": True}, ("UNSET", None)),
    ],
)
def test_span_and_settlement_derive_from_one_outcome(
    error: BaseException | None,
    verdict: Verdict | None,
    attributes: dict[str, Any],
    status: tuple[str, str | None],
    opened: Open,
    telemetry: Telemetry,
) -> None:
    message = Message()
    opened(message, policy=ALL).finish(error)
    assert message.verdict is verdict
    events = ("exception",) if status[0] == "ERROR" else ()
    assert process_span(telemetry) == DONE._replace(
        attributes={**ATTRIBUTES, **attributes}, status=status, events=events
    )


def test_manual_settles_nothing(opened: Open, telemetry: Telemetry) -> None:
    message = Message()
    processing = opened(message)
    processing.finish(BAD)
    assert (message.verdict, processing.settled) == (None, False)
    assert "hopspan.settlement" not in telemetry.only.attributes


@pytest.mark.parametrize("first", [None, BAD])
def test_it_is_finished_once(first: Exception | None, opened: Open, telemetry: Telemetry) -> None:
    """Whoever is first decides."""
    message = Message()
    processing = opened(message, policy=hopspan.reject_on_error)
    processing.finish(first)
    processing.finish(OSError())
    processing.finish_loop()
    assert message.verdict is (Verdict.ACK if first is None else Verdict.REJECT)
    assert len([span for span in telemetry.spans if span.name == "process test"]) == 1


def test_nothing_is_settled_at_first(opened: Open) -> None:
    processing = opened(policy=hopspan.ack_always)
    assert (processing.settled, processing.settled_by_policy) == (False, False)
    processing.finish()
    assert (processing.settled, processing.settled_by_policy) == (True, True)


def test_it_is_over_when_it_was_finished(opened: Open) -> None:
    processing = opened()
    assert (processing.is_over, processing.outcome) == (False, None)
    processing.finish(BAD)
    assert (processing.is_over, processing.outcome) == (
        True,
        Outcome(True, BAD, "ValueError", "bad"),
    )


def test_many_threads_finish_it_once(opened: Open, telemetry: Telemetry) -> None:
    message = Message()
    processing = opened(message, policy=hopspan.ack_always)
    for _ in range(5):
        in_thread(processing.finish)
    assert (message.verdict, len(telemetry.spans)) == (Verdict.ACK, 1)


# -- failing without raising -----------------------------------------------------------------------


def test_fail_is_treated_like_an_exception(opened: Open, telemetry: Telemetry) -> None:
    message = Message()
    processing = opened(message, policy=hopspan.reject_on_error)
    processing.fail("no customer", type="invalid_order")
    processing.finish()
    assert message.verdict is Verdict.REJECT
    assert process_span(telemetry) == DONE._replace(
        attributes={
            **ATTRIBUTES,
            "error.type": "invalid_order",
            "hopspan.settlement": "reject",
            "hopspan.settlement.reason": "failed: invalid_order",
        },
        status=("ERROR", "no customer"),
    )


def test_fail_without_a_type_is_other(opened: Open) -> None:
    processing = opened()
    processing.fail("no customer")
    processing.finish()
    assert processing.outcome == Outcome(
        failed=True, error_type="_OTHER", description="no customer"
    )


def test_an_exception_after_fail_takes_precedence(opened: Open) -> None:
    processing = opened()
    processing.fail("no customer")
    processing.finish(BAD)
    assert processing.outcome == Outcome(True, BAD, "ValueError", "bad")


def test_fail_takes_precedence_over_the_status(opened: Open) -> None:
    processing = opened()
    processing.span.set_status(StatusCode.ERROR, "by status")
    processing.fail("by hand")
    processing.finish()
    assert processing.outcome == Outcome(failed=True, error_type="_OTHER", description="by hand")


def test_fail_after_the_end_changes_nothing(opened: Open) -> None:
    processing = opened()
    processing.finish()
    processing.fail("too late")
    assert processing.outcome == Outcome()


@pytest.mark.parametrize("which", ["telemetry", "unsampled"])
def test_the_spans_status_decides_whether_it_is_sampled_or_not(
    which: str, opened: Open, request: pytest.FixtureRequest
) -> None:
    provider = request.getfixturevalue(which).tracer_provider
    message = Message()
    processing = opened(message, policy=hopspan.reject_on_error, tracer_provider=provider)
    processing.span.set_status(StatusCode.ERROR, "bad")
    processing.finish()
    assert message.verdict is Verdict.REJECT


def test_a_control_flow_exception_is_no_failure(opened: Open, telemetry: Telemetry) -> None:
    message = Message()
    processing = opened(
        message, adapter=Adapting(CONTROL_FLOW=(StopIteration,)), policy=hopspan.reject_on_error
    )
    processing.finish(StopIteration())
    assert (message.verdict, telemetry.only.status) == (Verdict.ACK, ("UNSET", None))


# -- what the user settled -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settle", "verdict"),
    [
        (Message.ack, Verdict.ACK),
        (Message.requeue, Verdict.REQUEUE),
        (Message.reject, Verdict.REJECT),
    ],
)
@pytest.mark.parametrize("error", [None, BAD])
def test_what_the_user_settled_is_not_settled_again(
    settle: Callable[[Message], None],
    verdict: Verdict,
    error: Exception | None,
    opened: Open,
    telemetry: Telemetry,
) -> None:
    message = Message()
    processing = opened(message, policy=hopspan.reject_on_error)
    settle(message)
    processing.finish(error)
    assert (message.verdict, processing.settled) == (verdict, True)
    assert telemetry.only.attributes["hopspan.settlement"] == verdict.value


@pytest.mark.parametrize("finish", ["finish", "finish_loop"])
def test_a_message_that_the_broker_forgot_is_not_settled(
    finish: str, opened: Open, logged: pytest.LogCaptureFixture
) -> None:
    """Nor is it tried, nor is its policy's lack of effect remarked."""
    message = Message(auto_ack=True)
    processing = opened(message)
    processing.policy = hopspan.ack_always
    getattr(processing, finish)()
    assert (message.verdict, processing.settled, logged.records) == (None, False, [])


def test_a_policy_is_not_asked_about_what_the_user_settled(opened: Open) -> None:
    asked: list[Delivery] = []

    def decide(outcome: Outcome, of: Delivery) -> Verdict:
        asked.append(of)
        return Verdict.ACK

    message = Message()
    processing = opened(message, policy=decide)
    message.ack()
    processing.finish()
    assert asked == []


def test_a_closed_channel_is_not_asked_to_requeue(opened: Open) -> None:
    message = Message()
    adapter = Adapting(is_open=lambda native: False)
    opened(message, adapter=adapter, policy=hopspan.ack_always).finish(asyncio.CancelledError())
    assert message.verdict is None


def test_a_policy_may_leave_a_message(opened: Open, telemetry: Telemetry) -> None:
    message = Message()
    policy = Policy("sometimes", lambda outcome, of: Verdict.LEAVE)
    processing = opened(message, policy=policy)
    processing.finish()
    assert (message.verdict, processing.settled) == (None, False)
    assert telemetry.only == DONE


# -- batches ---------------------------------------------------------------------------------------


def by_id(outcome: Outcome, of: Delivery) -> Settlement:
    verdict = Verdict.ACK if of.message.id == "good" else Verdict.REJECT
    return Settlement(verdict, of.message.id)


def test_every_delivery_of_a_batch_has_its_own_verdict(opened: Open, telemetry: Telemetry) -> None:
    good, bad = Message(id="good"), Message(id="bad")
    processing = opened(good, bad, policy=by_id)
    processing.finish()
    assert (good.verdict, bad.verdict, processing.settled) == (Verdict.ACK, Verdict.REJECT, True)
    assert "hopspan.settlement" not in process_span(telemetry).attributes


def test_a_verdict_that_all_have_in_common_is_on_the_span(
    opened: Open, telemetry: Telemetry
) -> None:
    opened(Message(id="good"), Message(id="good"), policy=by_id).finish()
    attributes = process_span(telemetry).attributes
    assert (attributes["hopspan.settlement"], attributes["hopspan.settlement.reason"]) == (
        "ack",
        "good",
    )


def test_what_the_user_settled_of_a_batch_is_left_out(opened: Open) -> None:
    first, second = Message(), Message()
    processing = opened(first, second, policy=hopspan.ack_always)
    first.reject()
    processing.finish()
    assert (first.verdict, second.verdict) == (Verdict.REJECT, Verdict.ACK)


def test_a_batch_that_is_settled_in_part_is_not_settled(opened: Open) -> None:
    first, second = Message(), Message()
    processing = opened(first, second)
    first.ack()
    processing.finish()
    assert processing.settled is False


# -- counting --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counted", "points"), [([False], [1]), ([True], []), ([False, True, False], [2])]
)
def test_a_message_is_counted_where_no_receive_has_counted_it(
    counted: list[bool], points: list[int], opened: Open, telemetry: Telemetry
) -> None:
    remaining = iter(counted)

    def delivery(native: Message) -> Delivery:
        return memory.delivery(native)._replace(counted=next(remaining))

    opened(*[Message() for _ in counted], adapter=Adapting(delivery=delivery)).finish()
    found = telemetry.points("messaging.client.consumed.messages")
    assert [value for _, value in found] == points


def test_one_duration_is_recorded_for_one_handling(opened: Open, telemetry: Telemetry) -> None:
    opened(Message(), Message(), policy=hopspan.ack_always).finish()
    assert [value for _, value in telemetry.points("messaging.process.duration")] == [1]


# -- on another thread than the client's -----------------------------------------------------------


def test_the_client_settles_on_its_own_thread(opened: Open, telemetry: Telemetry) -> None:
    """The span ends when the verdict has been sent; until then nothing is known."""
    errands: list[Callable[[], None]] = []
    message = Message()
    processing = opened(
        message, adapter=Adapting(hop=lambda native: errands.append), policy=hopspan.ack_always
    )
    processing.finish()
    assert (message.verdict, telemetry.spans, processing.is_over) == (None, [], True)
    errands.pop()()
    assert (message.verdict, processing.settled, len(telemetry.spans)) == (Verdict.ACK, True, 1)


def test_with_nothing_to_send_there_is_no_need_for_the_clients_thread(
    opened: Open, telemetry: Telemetry
) -> None:
    errands: list[Callable[[], None]] = []
    opened(adapter=Adapting(hop=lambda native: errands.append)).finish()
    assert (errands, len(telemetry.spans)) == ([], 1)


def test_a_thread_that_cannot_be_reached_leaves_the_message_and_says_so(
    opened: Open, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    def unreachable(errand: Callable[[], None]) -> None:
        raise ConnectionError("closed")

    message = Message()
    adapter = Adapting(hop=lambda native: unreachable)
    processing = opened(message, adapter=adapter, policy=hopspan.ack_always)
    processing.finish()
    assert (message.verdict, processing.settled) == (None, False)
    assert [span.name for span in telemetry.spans] == ["ack test", "process test"]
    assert [record.message for record in logged.records] == [
        "could not ack a message of test; the broker will hand it out again"
    ]


def test_a_client_whose_thread_cannot_be_found_settles_here(
    opened: Open, logged: pytest.LogCaptureFixture
) -> None:
    def cannot(native: Message) -> Any:
        raise RuntimeError("which thread?")

    message = Message()
    opened(message, adapter=Adapting(hop=cannot), policy=hopspan.ack_always).finish()
    assert (message.verdict, len(logged.records)) == (Verdict.ACK, 1)


# -- interrupted while settling --------------------------------------------------------------------


def test_an_interrupt_while_settling_still_ends_the_span(
    opened: Open, telemetry: Telemetry
) -> None:
    def interrupted(native: Message, settlement: Settlement) -> None:
        if native.id == "2":
            raise KeyboardInterrupt
        memory.settle(native, settlement)

    first, second = Message(id="1"), Message(id="2")
    processing = opened(
        first, second, adapter=Adapting(settle=interrupted), policy=hopspan.ack_always
    )
    with pytest.raises(KeyboardInterrupt):
        processing.finish()
    assert (first.verdict, second.verdict, processing.settled) == (Verdict.ACK, None, False)
    assert len(telemetry.spans) == 1


def test_an_interrupt_in_a_policy_still_ends_the_span(opened: Open, telemetry: Telemetry) -> None:
    def interrupted(outcome: Outcome, of: Delivery) -> Verdict:
        raise KeyboardInterrupt

    message = Message()
    processing = opened(message, policy=interrupted)
    with pytest.raises(KeyboardInterrupt):
        processing.finish()
    assert (message.verdict, len(telemetry.spans)) == (None, 1)


# -- clients whose settlement is awaited -----------------------------------------------------------


async def settle_later(native: Message, settlement: Settlement) -> None:
    await asyncio.sleep(0)
    memory.settle(native, settlement)


AWAITED = Adapting(ASYNCHRONOUS=True, settle=settle_later)


def test_an_awaited_settlement_is_awaited(opened: Open, telemetry: Telemetry) -> None:
    message = Message()
    processing = opened(message, adapter=AWAITED, policy=hopspan.ack_always)
    asyncio.run(processing.finish_async())
    assert (message.verdict, processing.settled, len(telemetry.spans)) == (Verdict.ACK, True, 1)


def test_an_awaited_settlement_tells_its_reason(opened: Open, telemetry: Telemetry) -> None:
    processing = opened(adapter=AWAITED, policy=hopspan.reject_on_error)
    asyncio.run(processing.finish_async(BAD))
    attributes = process_span(telemetry).attributes
    assert attributes["hopspan.settlement.reason"] == "failed: ValueError"


def test_an_awaited_handling_is_finished_once(opened: Open, telemetry: Telemetry) -> None:
    async def twice() -> None:
        await processing.finish_async(BAD)
        await processing.finish_async()

    message = Message()
    processing = opened(message, adapter=AWAITED, policy=hopspan.reject_on_error)
    asyncio.run(twice())
    assert (message.verdict, process_span(telemetry).status) == (
        Verdict.REJECT,
        ("ERROR", "bad"),
    )


def test_an_awaited_settlement_that_fails_settles_the_others(opened: Open) -> None:
    async def fails_once(native: Message, settlement: Settlement) -> None:
        if native.id == "1":
            raise ConnectionError("closed")
        memory.settle(native, settlement)

    first, second = Message(id="1"), Message(id="2")
    adapter = Adapting(ASYNCHRONOUS=True, settle=fails_once)
    processing = opened(first, second, adapter=adapter, policy=hopspan.ack_always)
    asyncio.run(processing.finish_async())
    assert (first.verdict, second.verdict, processing.settled) == (None, Verdict.ACK, False)


def test_a_client_that_needs_no_waiting_is_finished_without(opened: Open) -> None:
    message = Message()
    processing = opened(message, policy=hopspan.ack_always)
    asyncio.run(processing.finish_async())
    assert message.verdict is Verdict.ACK


def test_a_cancellation_while_settling_still_ends_the_span(
    opened: Open, telemetry: Telemetry
) -> None:
    async def cancelled(native: Message, settlement: Settlement) -> None:
        if native.id == "2":
            raise asyncio.CancelledError
        memory.settle(native, settlement)

    first, second = Message(id="1"), Message(id="2")
    processing = opened(
        first,
        second,
        adapter=Adapting(ASYNCHRONOUS=True, settle=cancelled),
        policy=hopspan.ack_always,
    )

    async def finish() -> None:
        with pytest.raises(asyncio.CancelledError):
            await processing.finish_async()

    asyncio.run(finish())
    assert (first.verdict, second.verdict, len(telemetry.spans)) == (Verdict.ACK, None, 1)


# -- loops -----------------------------------------------------------------------------------------


def test_a_turn_of_a_loop_settles_nothing_and_says_so(
    opened: Open, logged: pytest.LogCaptureFixture
) -> None:
    message = Message()
    processing = opened(message, policy=hopspan.ack_always)
    processing.finish_loop()
    assert (message.verdict, processing.settled) == (None, False)
    assert [record.message.partition(":")[0] for record in logged.records] == [
        "a loop never settles"
    ]


@pytest.mark.parametrize(
    ("settle", "outcome"),
    [
        (lambda message: None, Outcome()),
        (Message.ack, Outcome()),
        (
            Message.requeue,
            Outcome(failed=True, error_type="requeue", description="requeue by handler"),
        ),
        (
            Message.reject,
            Outcome(failed=True, error_type="reject", description="reject by handler"),
        ),
    ],
)
def test_a_turn_of_a_loop_has_failed_where_its_message_was_refused(
    settle: Callable[[Message], None], outcome: Outcome, opened: Open
) -> None:
    message = Message()
    processing = opened(message)
    settle(message)
    processing.finish_loop()
    assert processing.outcome == outcome


@pytest.mark.parametrize(
    ("policy", "auto_ack", "acked"),
    [
        (hopspan.manual, False, False),
        (hopspan.ack_always, False, True),
        (hopspan.manual, True, False),
    ],
)
def test_a_turn_of_a_loop_says_nothing_where_nothing_is_lost(
    policy: Policy, auto_ack: bool, acked: bool, opened: Open, logged: pytest.LogCaptureFixture
) -> None:
    message = Message(auto_ack=auto_ack)
    processing = opened(message, policy=policy)
    if acked:
        message.ack()
    processing.finish_loop()
    assert logged.records == []


# -- hostile ---------------------------------------------------------------------------------------


def test_a_fault_while_concluding_leaves_the_message_and_ends_the_span(
    opened: Open, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    class Unreadable(Adapting):
        @property
        def CONTROL_FLOW(self) -> Any:  # noqa: N802 - a name of the protocol
            raise RuntimeError("an adapter that cannot")

    message = Message()
    processing = opened(message, adapter=Unreadable(), policy=hopspan.ack_always)
    processing.finish(BAD)
    assert (message.verdict, len(telemetry.spans), len(logged.records)) == (None, 1, 1)


def test_a_fault_while_ending_is_logged_and_every_delivery_closed(
    opened: Open, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    def cannot(*args: Any) -> Any:
        raise RuntimeError("ours")

    closed: list[Message] = []
    message = Message()
    adapter = Adapting(closed=lambda native, processing: closed.append(native))
    processing = opened(message, adapter=adapter, policy=hopspan.ack_always)
    monkeypatch.setattr("hopspan.processing.delivery.summary", cannot)
    processing.finish()
    assert (message.verdict, closed, len(logged.records)) == (Verdict.ACK, [message], 1)


def test_a_fault_while_closing_is_logged(opened: Open, logged: pytest.LogCaptureFixture) -> None:
    def cannot(native: Message, processing: object) -> None:
        raise RuntimeError("an adapter that cannot")

    opened(adapter=Adapting(closed=cannot)).finish()
    assert len(logged.records) == 1


def test_every_delivery_is_closed_once(opened: Open) -> None:
    closed: list[Message] = []
    first, second = Message(), Message()
    adapter = Adapting(closed=lambda native, processing: closed.append(native))
    opened(first, second, adapter=adapter).finish()
    assert closed == [first, second]


def test_it_prints_what_it_is_about(opened: Open) -> None:
    processing = opened(Message(queue=Queue("orders")))
    before = repr(processing)
    processing.finish()
    assert (before, repr(processing)) == (
        "<hopspan processing of orders: open>",
        "<hopspan processing of orders: over>",
    )


def test_it_prints_without_deliveries(opened: Open) -> None:
    processing = opened()
    processing.finish()
    processing.deliveries = ()
    assert repr(processing) == "<hopspan processing of : over>"


# -- deliveries that are somebody else's by now ----------------------------------------------------


def test_what_is_lost_ends_and_says_why(opened: Open, telemetry: Telemetry) -> None:
    processing = opened(Message(), policy=hopspan.ack_always)
    processing.lose("revoked")
    assert telemetry.only == DONE._replace(
        attributes={
            **ATTRIBUTES,
            "hopspan.settlement": "leave",
            "hopspan.settlement.reason": "revoked",
            "hopspan.cancelled": True,
        }
    )
    assert (processing.is_over, processing.settled, processing.outcome) == (
        True,
        False,
        Outcome(cancelled=True),
    )


@pytest.mark.parametrize("error", [None, BAD])
def test_what_is_lost_is_never_settled(
    error: Exception | None, opened: Open, telemetry: Telemetry
) -> None:
    """The handler goes on, and does not know."""
    message = Message()
    processing = opened(message, policy=hopspan.reject_on_error)
    processing.lose("revoked")
    processing.fail("too late", type="late")
    processing.finish(error)
    processing.lose("lost")
    assert (message.verdict, processing.settled) == (None, False)
    assert [span.attributes["hopspan.settlement.reason"] for span in telemetry.seen] == ["revoked"]


def test_what_is_over_cannot_be_lost(opened: Open, telemetry: Telemetry) -> None:
    message = Message()
    processing = opened(message, policy=hopspan.ack_always)
    processing.finish()
    processing.lose("revoked")
    assert (message.verdict, processing.settled) == (Verdict.ACK, True)
    assert process_span(telemetry).attributes["hopspan.settlement"] == "ack"


def test_it_can_be_lost_on_any_thread(opened: Open, telemetry: Telemetry) -> None:
    processing = opened(Message(), policy=hopspan.ack_always)
    in_thread(lambda: processing.lose("revoked"))
    assert (processing.is_over, len(telemetry.spans)) == (True, 1)


def test_what_is_lost_is_closed(opened: Open) -> None:
    closed: list[Any] = []
    message = Message()
    adapter = Adapting(closed=lambda native, processing: closed.append(native))
    processing = opened(message, adapter=adapter)
    processing.lose("revoked")
    processing.finish()
    assert closed == [message]


def test_deferred_work_on_what_is_lost_settles_nothing(
    opened: Open, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    message = Message()
    processing = opened(message, policy=hopspan.ack_always)
    deferred = processing.defer()
    processing.lose("revoked")
    with deferred:
        pass
    assert (message.verdict, len(telemetry.spans)) == (None, 1)
    assert [record.levelname for record in logged.records] == ["WARNING"]
