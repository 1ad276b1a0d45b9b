"""One face's part in a processing: the first concludes, and each undoes what it made current."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.context import get_current

import hopspan
from hopspan.model import Outcome, Settlement, Verdict
from hopspan.processing.holding import Hold
from hopspan.testing import Message, Queue, memory
from tests.unit.processing.conftest import Open
from tests.unit.support import Adapting, Telemetry

BAD = ValueError("bad")


async def settle_later(native: Message, settlement: Settlement) -> None:
    await asyncio.sleep(0)
    memory.settle(native, settlement)


AWAITED = Adapting(ASYNCHRONOUS=True, settle=settle_later)


def conclude(hold: Hold, error: BaseException | None = None) -> None:
    hold.conclude(error)


def conclude_async(hold: Hold, error: BaseException | None = None) -> None:
    asyncio.run(hold.conclude_async(error))


@pytest.fixture(params=[conclude, conclude_async])
def concluding(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_it_makes_the_processing_current_until_it_is_released(opened: Open) -> None:
    before, processing = get_current(), opened()
    hold = Hold(processing)
    assert hopspan.current() is processing
    hold.release()
    assert get_current() is before
    processing.finish()


def test_releasing_does_not_conclude(opened: Open) -> None:
    processing = opened()
    Hold(processing).release()
    assert processing.is_over is False
    processing.finish()


@pytest.mark.parametrize(("error", "verdict"), [(None, Verdict.ACK), (BAD, Verdict.REJECT)])
def test_the_first_face_concludes(
    error: Exception | None, verdict: Verdict, concluding: Any, opened: Open
) -> None:
    message = Message()
    hold = Hold(opened(message, policy=hopspan.reject_on_error))
    concluding(hold, error)
    hold.release()
    assert message.verdict is verdict


def test_an_awaited_client_is_awaited(opened: Open) -> None:
    message = Message()
    hold = Hold(opened(message, adapter=AWAITED, policy=hopspan.ack_always))
    asyncio.run(hold.conclude_async())
    hold.release()
    assert message.verdict is Verdict.ACK


def test_a_face_further_in_leaves_it_to_the_first(concluding: Any, opened: Open) -> None:
    """What comes after it belongs to the handling as well."""
    message = Message()
    processing = opened(message, policy=hopspan.ack_always)
    outer, inner = Hold(processing), Hold(processing)
    concluding(inner)
    inner.release()
    assert (message.verdict, processing.is_over) == (None, False)
    concluding(outer)
    outer.release()
    assert message.verdict is Verdict.ACK


def test_a_failure_further_in_counts_though_it_was_caught(concluding: Any, opened: Open) -> None:
    """The inner face said that this message failed; that the handler went on does not unsay it."""
    message = Message()
    processing = opened(message, policy=hopspan.reject_on_error)
    outer, inner = Hold(processing), Hold(processing)
    concluding(inner, BAD)
    inner.release()
    concluding(outer)
    outer.release()
    assert (message.verdict, processing.outcome) == (
        Verdict.REJECT,
        Outcome(True, BAD, "ValueError", "bad"),
    )


def test_what_is_no_failure_further_in_does_not_count(concluding: Any, opened: Open) -> None:
    message = Message()
    processing = opened(message, policy=hopspan.reject_on_error)
    outer, inner = Hold(processing), Hold(processing)
    concluding(inner, GeneratorExit())
    inner.release()
    concluding(outer)
    outer.release()
    assert message.verdict is Verdict.ACK


def test_the_error_that_leaves_the_first_face_goes_before_one_further_in(
    concluding: Any, opened: Open
) -> None:
    processing = opened()
    outer, inner = Hold(processing), Hold(processing)
    concluding(inner, BAD)
    inner.release()
    error = OSError("gone")
    concluding(outer, error)
    outer.release()
    assert processing.outcome == Outcome(True, error, "OSError", "gone")


def test_what_was_deferred_is_left_to_the_deferred_operation(concluding: Any, opened: Open) -> None:
    message = Message()
    processing = opened(message, policy=hopspan.ack_always)
    hold = Hold(processing)
    operation = processing.defer()
    concluding(hold)
    hold.release()
    assert (message.verdict, processing.is_over) == (None, False)
    with operation:
        pass
    assert message.verdict is Verdict.ACK


# -- what a decorated handler raises ---------------------------------------------------------------


def held(processing: Any, error: BaseException) -> bool:
    hold = Hold(processing)
    hold.conclude(error)
    hold.release()
    return hold.swallows(error)


@pytest.mark.parametrize(
    ("settings", "error", "swallowed"),
    [
        ({"policy": hopspan.reject_on_error}, BAD, True),
        ({"policy": hopspan.reject_on_error, "reraise": True}, BAD, False),
        ({"policy": hopspan.manual}, BAD, False),
        ({"policy": hopspan.reject_on_error}, asyncio.CancelledError(), False),
        ({"policy": hopspan.reject_on_error}, KeyboardInterrupt(), False),
    ],
)
def test_a_failure_that_was_dealt_with_is_swallowed(
    settings: dict[str, Any], error: BaseException, swallowed: bool, opened: Open
) -> None:
    assert held(opened(**settings), error) is swallowed


def test_a_failure_that_only_the_handler_settled_is_raised(opened: Open) -> None:
    """Without a policy nothing is different from a program without hopspan."""
    message = Message()
    processing = opened(message)
    message.reject()
    assert held(processing, BAD) is False


def test_control_flow_is_never_swallowed(opened: Open) -> None:
    adapter = Adapting(CONTROL_FLOW=(ValueError,))
    message = Message()
    processing = opened(message, adapter=adapter, policy=hopspan.ack_always)
    assert (held(processing, BAD), message.verdict) == (False, Verdict.ACK)


def test_only_an_exception_is_swallowed(opened: Open) -> None:
    """A failure that is no `Exception` is the interpreter's, or some framework's, to see."""

    class Abort(BaseException):
        """Neither a cancellation nor an interrupt."""

    message = Message()
    assert held(opened(message, policy=hopspan.reject_on_error), Abort()) is False
    assert message.verdict is Verdict.REJECT


def test_what_is_swallowed_is_logged(opened: Open, logged: pytest.LogCaptureFixture) -> None:
    message = Message(queue=Queue("orders"))
    held(opened(message, policy=hopspan.reject_on_error), BAD)
    (record,) = logged.records
    assert (record.levelname, record.message, record.exc_info and record.exc_info[1]) == (
        "ERROR",
        "handler failed; its message of orders was settled by <policy reject_on_error>: reject",
        BAD,
    )


def test_who_settled_what_is_swallowed_is_logged(
    opened: Open, logged: pytest.LogCaptureFixture
) -> None:
    message = Message(queue=Queue("orders"))
    processing = opened(message, policy=hopspan.reject_on_error)
    message.requeue()
    assert held(processing, BAD) is True
    assert [record.message for record in logged.records] == [
        "handler failed; its message of orders was settled by the handler itself: requeue"
    ]


def test_a_failure_that_could_not_be_settled_is_not_swallowed(opened: Open) -> None:
    def cannot(native: Message, settlement: Settlement) -> None:
        raise ConnectionError("closed")

    processing = opened(adapter=Adapting(settle=cannot), policy=hopspan.reject_on_error)
    assert held(processing, BAD) is False


def test_another_exception_than_the_outcomes_is_not_swallowed(opened: Open) -> None:
    hold = Hold(opened(policy=hopspan.reject_on_error))
    assert hold.swallows(BAD) is False
    hold.conclude(BAD)
    hold.release()
    assert hold.swallows(ValueError("another")) is False


def test_a_face_further_in_swallows_nothing(opened: Open, telemetry: Telemetry) -> None:
    processing = opened(policy=hopspan.reject_on_error)
    outer, inner = Hold(processing), Hold(processing)
    inner.conclude(BAD)
    assert inner.swallows(BAD) is False
    inner.release()
    outer.conclude(BAD)
    outer.release()
    assert inner.swallows(BAD) is False
    assert len(telemetry.spans) == 2


class Raising:
    """A client that settles by what a handler raises."""

    def instead(self, _native: Any, error: BaseException | None) -> BaseException | None:
        return None

    def retries(self, _error: BaseException) -> bool:
        return False


class HiddenError(Exception):
    """One that cannot be looked at."""

    @property
    def exceptions(self) -> Any:
        raise RuntimeError("lazy, and not there")


@pytest.mark.parametrize("policy", [hopspan.manual, hopspan.ack_always])
def test_what_cannot_be_decided_inside_does_not_get_into_a_handlers_way(
    policy: Any, opened: Open
) -> None:
    processing = opened(adapter=Adapting(RAISES=Raising()), policy=policy)
    outer, inner = Hold(processing), Hold(processing)
    inner.conclude(HiddenError())
    inner.release()
    outer.conclude()
    outer.release()
    assert processing.is_over
