"""Work that goes on after the handler has returned: whoever holds the operation finishes it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import get_current

import hopspan
from hopspan.model import Outcome, PolicyError, Settlement, Verdict
from hopspan.processing.deferral import Errand
from hopspan.testing import Message, memory
from tests.unit.processing.conftest import Open
from tests.unit.support import Adapting, Telemetry, in_thread


def test_deferring_twice_is_deferring_once(opened: Open) -> None:
    processing = opened()
    operation = processing.defer()
    assert processing.defer() is operation
    with operation:
        pass


@pytest.mark.parametrize(
    ("error", "verdict"), [(None, Verdict.ACK), (ValueError("bad"), Verdict.REJECT)]
)
def test_the_block_settles_at_its_end(
    error: Exception | None, verdict: Verdict, opened: Open, telemetry: Telemetry
) -> None:
    message = Message()
    operation = opened(message, policy=hopspan.reject_on_error).defer()

    def work() -> None:
        with operation:
            assert message.verdict is None
            if error is not None:
                raise error

    with suppress(ValueError):
        in_thread(work)
    assert message.verdict is verdict
    assert [span.name for span in telemetry.spans][-1] == "process test"


def test_the_block_is_inside_the_process_span(opened: Open, telemetry: Telemetry) -> None:
    processing = opened()
    operation = processing.defer()

    def work() -> tuple[bool, Any]:
        before = get_current()
        with operation as entered:
            found = hopspan.current() is processing is entered
            with telemetry.tracer.start_as_current_span("work"):
                pass
        return found, get_current() == before

    assert in_thread(work) == (True, True)
    child, parent = telemetry.spans
    assert child.parent is not None
    assert parent.context is not None
    assert child.parent.span_id == parent.context.span_id


def test_the_block_gives_the_processing_to_fail(opened: Open) -> None:
    message = Message()
    with opened(message, policy=hopspan.reject_on_error).defer() as operation:
        operation.fail("no customer")
    assert message.verdict is Verdict.REJECT


def test_an_operation_that_is_dropped_is_logged_and_its_message_left(
    opened: Open, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    message = Message()
    processing = opened(message, policy=hopspan.ack_always)
    processing.defer()
    gc.collect()
    assert (message.verdict, processing.outcome) == (None, Outcome(cancelled=True))
    assert telemetry.only.attributes["hopspan.cancelled"] is True
    assert [record.message for record in logged.records] == [
        "a deferred operation of test was dropped; its message is left unsettled. Keep what "
        "defer() returns, and use it in a `with` block"
    ]


def test_an_operation_that_was_used_is_dropped_in_silence(
    opened: Open, logged: pytest.LogCaptureFixture
) -> None:
    operation = opened().defer()
    with operation:
        pass
    del operation
    gc.collect()
    assert logged.records == []


def test_an_operation_whose_handler_failed_is_dropped_in_silence(
    opened: Open, logged: pytest.LogCaptureFixture
) -> None:
    processing = opened()
    operation = processing.defer()
    processing.finish(ValueError())
    del operation
    gc.collect()
    assert logged.records == []


# -- tasks -----------------------------------------------------------------------------------------


async def settle_later(native: Message, settlement: Settlement) -> None:
    await asyncio.sleep(0)
    memory.settle(native, settlement)


AWAITED = Adapting(ASYNCHRONOUS=True, settle=settle_later, NAME="test")


def test_an_awaited_client_is_settled_by_async_with(opened: Open, telemetry: Telemetry) -> None:
    async def work() -> bool:
        async with operation as entered:
            return trace.get_current_span() is entered.span

    message = Message()
    operation = opened(message, adapter=AWAITED, policy=hopspan.ack_always).defer()
    assert asyncio.run(work()) is True
    assert (message.verdict, len(telemetry.spans)) == (Verdict.ACK, 1)


def test_async_with_undoes_what_it_made_current(opened: Open) -> None:
    async def work() -> bool:
        before = get_current()
        with pytest.raises(ValueError, match="bad"):
            async with operation:
                raise ValueError("bad")
        return get_current() == before

    message = Message()
    operation = opened(message, adapter=AWAITED, policy=hopspan.reject_on_error).defer()
    assert asyncio.run(work()) is True
    assert message.verdict is Verdict.REJECT


def test_an_awaited_client_cannot_be_settled_by_a_plain_with(opened: Open) -> None:
    """Nothing would be sent: it is said, and the operation can still be used as it should be."""
    message = Message()
    operation = opened(message, adapter=AWAITED, policy=hopspan.ack_always).defer()
    with pytest.raises(PolicyError) as raised, operation:
        raise AssertionError("unreachable")
    assert str(raised.value) == (
        "`with operation` cannot settle for test, whose settlement is awaited: "
        "write `async with operation`"
    )

    async def work() -> None:
        async with operation:
            pass

    asyncio.run(work())
    assert message.verdict is Verdict.ACK


def test_an_awaited_client_that_is_not_settled_takes_a_plain_with(
    opened: Open, telemetry: Telemetry
) -> None:
    with opened(adapter=AWAITED).defer():
        pass
    assert len(telemetry.spans) == 1


def test_awaited_work_can_be_handed_on(opened: Open) -> None:
    message = Message()
    processing = opened(message, adapter=AWAITED, policy=hopspan.ack_always)

    async def scenario() -> None:
        async with processing.defer() as entered:
            further = entered.defer()
        assert message.verdict is None
        async with further:
            pass

    asyncio.run(scenario())
    assert message.verdict is Verdict.ACK


def test_an_operation_may_be_concluded_without_having_been_entered(opened: Open) -> None:
    """`ExitStack.push` only leaves."""
    message = Message()
    operation = opened(message, policy=hopspan.ack_always).defer()
    with ExitStack() as stack:
        stack.push(operation)
    assert message.verdict is Verdict.ACK


def test_work_that_begins_too_late_is_remarked(
    opened: Open, logged: pytest.LogCaptureFixture
) -> None:
    message = Message()
    processing = opened(message, policy=hopspan.reject_on_error)
    operation = processing.defer()
    processing.finish(ValueError("bad"))
    with operation:
        pass
    assert message.verdict is Verdict.REJECT
    assert [record.message for record in logged.records] == [
        "deferred work on a message of test begins after its handling was concluded, because the "
        "handler raised, the operation was used before, or the partition was lost; nothing more is "
        "settled"
    ]


# -- errands ---------------------------------------------------------------------------------------

PLAN = [(0, Settlement(Verdict.ACK))]


def test_an_errand_settles_and_ends_once(opened: Open, telemetry: Telemetry) -> None:
    message = Message()
    errand = Errand(opened(message, policy=hopspan.ack_always), 0.5, PLAN)
    errand()
    errand()
    errand.give_up(ConnectionError())
    del errand
    assert (message.verdict, len(telemetry.spans)) == (Verdict.ACK, 1)


def test_an_errand_that_is_never_run_ends_the_span_unsettled(
    opened: Open, telemetry: Telemetry
) -> None:
    """The client dropped its queue of callbacks with its connection."""
    message = Message()
    Errand(opened(message, policy=hopspan.ack_always), 0.5, PLAN)
    assert (message.verdict, len(telemetry.spans)) == (None, 1)


def test_an_errand_keeps_the_duration_of_the_handler(opened: Open, telemetry: Telemetry) -> None:
    Errand(opened(), 0.5, [])()
    (point,) = telemetry.metric("messaging.process.duration").data.data_points
    assert point.sum == 0.5


def test_the_wait_for_the_clients_thread_is_not_the_handlers(
    opened: Open, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    errands: list[Callable[[], None]] = []
    clock = iter([100.0, 101.0, 150.0, 150.0, 150.0, 150.0])
    monkeypatch.setattr("hopspan.telemetry.spans.perf_counter", lambda: next(clock))
    processing = opened(
        adapter=Adapting(hop=lambda native: errands.append), policy=hopspan.ack_always
    )
    processing.finish()
    errands.pop()()
    (point,) = telemetry.metric("messaging.process.duration").data.data_points
    assert point.sum == 1.0
