"""Beginning to handle a delivery, joining a handling that goes on, and finding the current one."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import attach, detach, set_value

import hopspan
from hopspan.model import SUCCESS, Delivery, Endpoint, MessageInfo, PolicyError, Verdict
from hopspan.processing.delivery import Processing
from hopspan.processing.handled import CURRENT
from hopspan.processing.opening import NOTHING, begin, current, started
from hopspan.processing.scope import Attachment
from hopspan.telemetry import Binding, Face, keep_binding
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


# -- outside a delivery ----------------------------------------------------------------------------


def test_outside_a_delivery_current_is_falsy_and_never_none() -> None:
    assert current() is NOTHING
    assert bool(current()) is False


def test_nothing_can_be_asked_everything() -> None:
    """A helper that is called inside and outside of handlers needs no `if`."""
    nothing = current()
    assert (nothing.is_over, nothing.settled, nothing.outcome, list(nothing.deliveries)) == (
        True,
        False,
        SUCCESS,
        [],
    )
    assert nothing.span is trace.INVALID_SPAN
    assert nothing.delivery == Delivery(Endpoint(""), MessageInfo(), None, None)
    assert repr(nothing) == "<hopspan processing of nothing>"


def test_nothing_cannot_fail() -> None:
    current().fail("of no consequence", type="x")
    assert current().outcome == SUCCESS


def test_nothing_can_be_deferred() -> None:
    with current().defer() as operation:
        assert operation is NOTHING


def test_nothing_can_be_deferred_to_a_task() -> None:
    async def work() -> Processing:
        async with current().defer() as operation:
            return operation

    assert asyncio.run(work()) is NOTHING


def test_nothing_swallows_no_exception() -> None:
    with pytest.raises(ValueError, match="mine"), current().defer():
        raise ValueError("mine")


def test_nothing_swallows_no_exception_of_a_task() -> None:
    async def work() -> None:
        async with current().defer():
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(work())


# -- inside ----------------------------------------------------------------------------------------


def test_current_finds_the_handling_through_the_context(opened: Open) -> None:
    processing = opened()
    attached = Attachment(processing.context)
    assert current() is processing
    attached.detach()
    assert current() is NOTHING
    processing.finish()


def test_current_finds_it_through_nested_spans(opened: Open, telemetry: Telemetry) -> None:
    processing = opened()
    attached = Attachment(processing.context)
    with telemetry.tracer.start_as_current_span("nested"):
        assert current() is processing
    attached.detach()
    processing.finish()


def test_current_finds_it_in_another_thread_with_the_context(opened: Open) -> None:
    processing = opened()

    def work() -> bool:
        attached = Attachment(processing.context)
        try:
            return current() is processing
        finally:
            attached.detach()

    assert in_thread(work) is True
    processing.finish()


def test_a_context_that_is_kept_does_not_keep_the_handling(opened: Open) -> None:
    """Else every message would stay in memory until the garbage collector comes by."""
    gc.disable()
    try:
        processing = opened()
        context, gone = processing.context, weakref.ref(processing)
        processing.finish()
        del processing
        assert gone() is None
    finally:
        gc.enable()
    token = attach(context)
    assert current() is NOTHING
    detach(token)


@pytest.mark.parametrize("strange", [None, 3, weakref.ref(Queue)])
def test_what_is_no_handling_is_none(strange: Any) -> None:
    token = attach(set_value(CURRENT, strange))
    assert current() is NOTHING
    detach(token)


# -- beginning -------------------------------------------------------------------------------------


def test_a_handling_begins_with_a_span(opened: Open, telemetry: Telemetry) -> None:
    processing = opened()
    assert (bool(processing), processing.is_over, telemetry.spans) == (True, False, [])
    processing.finish()
    assert telemetry.only == Seen("process test", attributes=ATTRIBUTES)


def test_it_knows_its_deliveries(opened: Open) -> None:
    first, second = Message(id="1"), Message(id="2")
    processing = opened(first, second)
    assert [each.message.id for each in processing.deliveries] == ["1", "2"]
    assert processing.delivery.native is first
    processing.finish()


@pytest.mark.parametrize("count", [1, 2])
def test_the_start_hook_is_told_the_native_or_all_of_them(opened: Open, count: int) -> None:
    told: list[Any] = []
    messages = [Message() for _ in range(count)]
    opened(*messages, on_start=lambda operation, native: told.append(native)).finish()
    assert told == ([messages[0]] if count == 1 else [tuple(messages)])


def test_a_policy_that_cannot_work_is_refused_before_anything_begins(
    opened: Open, telemetry: Telemetry
) -> None:
    with pytest.raises(PolicyError):
        opened(Message(auto_ack=True), policy=hopspan.ack_always)
    assert telemetry.points("messaging.client.consumed.messages") == []


def test_what_was_settled_already_is_not_settled_again(opened: Open, telemetry: Telemetry) -> None:
    message = Message()
    message.ack()
    processing = opened(message, policy=hopspan.reject_on_error)
    processing.finish(ValueError())
    assert (processing.settled, telemetry.only.attributes["hopspan.settlement"]) == (True, "ack")


# -- joining ---------------------------------------------------------------------------------------


def join(processing: Processing, message: Message, **settings: Any) -> Processing:
    attached = Attachment(processing.context)
    try:
        return begin(memory, [message], pushed=False, face=Face(settings))
    finally:
        attached.detach()


def test_the_same_message_is_joined(opened: Open, telemetry: Telemetry) -> None:
    message = Message()
    processing = opened(message)
    assert join(processing, message) is processing
    processing.finish()
    assert len(telemetry.spans) == 1


def test_another_message_is_another_handling(opened: Open) -> None:
    processing = opened()
    other = join(processing, Message())
    assert other is not processing
    other.finish()
    processing.finish()


def test_another_number_of_messages_is_another_handling(opened: Open) -> None:
    message = Message()
    processing = opened(message, Message())
    other = join(processing, message)
    assert other is not processing
    other.finish()
    processing.finish()


def test_a_message_of_another_client_is_another_handling(opened: Open) -> None:
    message = Message()
    processing = opened(message, adapter=Adapting())
    other = join(processing, message)
    assert other is not processing
    other.finish()
    processing.finish()


def test_a_handling_that_is_over_is_not_joined(opened: Open) -> None:
    """A message that is retried by hand, inside its own handler, is handled a second time."""
    message = Message()
    processing = opened(message)
    processing.finish()
    other = join(processing, message)
    assert other is not processing
    other.finish()


def test_who_joins_has_precedence(opened: Open) -> None:
    message = Message()
    processing = opened(message, policy=hopspan.ack_always, reraise=False)
    join(processing, message, policy=hopspan.reject_on_error, reraise=True)
    processing.finish(ValueError())
    assert (message.verdict, processing.reraise) == (Verdict.REJECT, True)


def test_who_joins_without_saying_anything_changes_nothing(opened: Open) -> None:
    message = Message()
    processing = opened(message, policy=hopspan.ack_always, reraise=True)
    join(processing, message, correlation="link")
    assert (processing.policy, processing.reraise) == (hopspan.ack_always, True)
    processing.finish()


def test_who_joins_with_a_policy_that_cannot_work_is_refused(opened: Open) -> None:
    message = Message(auto_ack=True)
    processing = opened(message)
    with pytest.raises(PolicyError):
        join(processing, message, policy=hopspan.ack_always)
    assert processing.policy is hopspan.manual
    processing.finish()


def test_a_handler_that_is_called_in_a_block_does_not_override_the_blocks_policy(
    telemetry: Telemetry,
) -> None:
    """Precedence: `process`, then `consumer`, whichever is further in."""
    message = Message()
    inner = hopspan.consumer(policy=hopspan.reject_on_error)(lambda message: None)
    with hopspan.process(message, policy=hopspan.requeue_once, **telemetry.settings) as op:
        inner(message)
        op.fail("bad")
    assert message.verdict is Verdict.REQUEUE


def test_a_block_in_a_handler_overrides_the_handlers_policy(telemetry: Telemetry) -> None:
    @hopspan.consumer(policy=hopspan.requeue_once, **telemetry.settings)
    def handler(message: Message) -> None:
        with hopspan.process(message, policy=hopspan.reject_on_error) as op:
            op.fail("bad")

    message = Message()
    handler(message)
    assert message.verdict is Verdict.REJECT


def test_settings_that_come_too_late_are_remarked(
    opened: Open, logged: pytest.LogCaptureFixture
) -> None:
    message = Message()
    processing = opened(message)
    join(processing, message, correlation="link")
    processing.finish()
    assert [record.message.partition(" of a face")[0] for record in logged.records] == [
        "correlation"
    ]


@pytest.mark.parametrize(("policy", "remarks"), [(hopspan.manual, 0), (hopspan.ack_always, 1)])
def test_a_policy_for_what_was_settled_already_is_remarked(
    policy: hopspan.Policy, remarks: int, opened: Open, logged: pytest.LogCaptureFixture
) -> None:
    message = Message()
    message.ack()
    opened(message, policy=policy).finish()
    assert len(logged.records) == remarks


# -- what lies beneath -----------------------------------------------------------------------------


class Owner:
    """A client's object that may have been wrapped."""


def test_a_message_of_a_wrapped_object_has_its_settings(telemetry: Telemetry) -> None:
    owner, adapter = Owner(), Adapting(owner=lambda native: owner)
    given: Any = adapter
    keep_binding(owner, Binding(given, telemetry.instrumenter(policy=hopspan.ack_always)))
    message = Message()
    begin(given, [message], pushed=True).finish()
    assert (message.verdict, len(telemetry.spans)) == (Verdict.ACK, 1)


def test_what_is_given_as_the_base_wins_over_the_owner(telemetry: Telemetry) -> None:
    owner = Owner()
    adapter: Any = Adapting(owner=lambda native: owner)
    keep_binding(owner, Binding(adapter, telemetry.instrumenter(policy=hopspan.ack_always)))
    message = Message()
    begin(adapter, [message], pushed=True, base=telemetry.instrumenter()).finish()
    assert message.verdict is None


def cannot(*args: Any) -> Any:
    raise RuntimeError("an adapter that cannot")


def test_an_owner_that_cannot_be_found_is_none(
    opened: Open, logged: pytest.LogCaptureFixture
) -> None:
    processing = opened(adapter=Adapting(owner=cannot))
    processing.finish()
    assert (bool(processing), len(logged.records)) == (True, 1)


# -- hostile ---------------------------------------------------------------------------------------


def test_a_delivery_that_cannot_be_read_is_handled_and_settled(
    opened: Open, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    message = Message()
    opened(message, adapter=Adapting(delivery=cannot), policy=hopspan.ack_always).finish()
    assert message.verdict is Verdict.ACK
    assert telemetry.only == Seen(
        "process",
        attributes={
            "messaging.system": "memory",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "hopspan.settlement": "ack",
        },
    )
    assert len(logged.records) == 1


def test_a_delivery_that_cannot_be_opened_is_handled_and_settled(
    opened: Open, logged: pytest.LogCaptureFixture
) -> None:
    message = Message()
    opened(message, adapter=Adapting(opened=cannot), policy=hopspan.ack_always).finish()
    assert (message.verdict, len(logged.records)) == (Verdict.ACK, 1)


def test_a_fault_of_ours_at_the_beginning_is_logged_and_nothing_begins(
    logged: pytest.LogCaptureFixture,
) -> None:
    assert started(cannot, 1, 2) is NOTHING
    assert len(logged.records) == 1


def test_a_mistake_of_the_users_is_told() -> None:
    def refused() -> Any:
        raise PolicyError("cannot work")

    with pytest.raises(PolicyError, match="cannot work"):
        started(refused)


def test_a_plain_block_of_an_awaited_client_is_refused_before_anything_begins(
    telemetry: Telemetry,
) -> None:
    adapter: Any = Adapting(ASYNCHRONOUS=True)
    face = Face({**telemetry.settings, "policy": hopspan.ack_always})
    with pytest.raises(PolicyError, match="async with block"):
        begin(adapter, [Message()], pushed=False, face=face, plain="block")
    assert telemetry.points("messaging.client.consumed.messages") == []


def test_a_plain_block_may_not_join_what_must_be_awaited(telemetry: Telemetry) -> None:
    adapter: Any = Adapting(ASYNCHRONOUS=True)
    message = Message()
    face = Face({**telemetry.settings, "policy": hopspan.ack_always})
    processing = begin(adapter, [message], pushed=True, face=face)
    attached = Attachment(processing.context)
    with pytest.raises(PolicyError, match="async with block"):
        begin(adapter, [message], pushed=False, plain="block")
    attached.detach()
    assert processing.is_over is False
    asyncio.run(processing.finish_async())
