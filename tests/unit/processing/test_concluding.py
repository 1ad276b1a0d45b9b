"""How a handling went and what becomes of its message, as tables."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import hopspan
from hopspan.model import SUCCESS, Outcome, Settlement, Verdict
from hopspan.processing.concluding import (
    decide,
    outcome_of,
    outcome_of_turn,
    warn_of_unsettled_turn,
)
from hopspan.settlement import Policy
from tests.unit.support import Adapting, delivery


class StopConsumingError(Exception):
    pass


BAD, STOP = ValueError("bad"), StopConsumingError("stop")
CANCELLED, CLOSED = asyncio.CancelledError(), GeneratorExit()
LEAVING, INTERRUPTED = SystemExit(1), KeyboardInterrupt()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (BAD, Outcome(True, BAD, "ValueError", "bad")),
        (STOP, Outcome(error=STOP)),
        (CANCELLED, Outcome(error=CANCELLED, cancelled=True)),
        (CLOSED, Outcome(error=CLOSED, cancelled=True)),
        (LEAVING, Outcome(error=LEAVING, interrupted=True)),
        (INTERRUPTED, Outcome(error=INTERRUPTED, interrupted=True)),
    ],
)
def test_what_an_exception_makes_of_the_outcome(error: BaseException, outcome: Outcome) -> None:
    """Only an `Exception` that is not the client's control flow is a failure."""
    adapter: Any = Adapting(CONTROL_FLOW=(StopConsumingError,))
    assert outcome_of(error, adapter) == outcome


FAILED = Outcome(True, BAD, "ValueError", "bad")
GIVEN_UP = Outcome(error=CANCELLED, cancelled=True)
GOING = Outcome(error=LEAVING, interrupted=True)
LEFT = Settlement(Verdict.LEAVE)


def nonsense(outcome: Outcome, of: object) -> Any:
    return "ack"


def cannot(outcome: Outcome, of: object) -> Any:
    raise RuntimeError("a policy that cannot")


@pytest.mark.parametrize(
    ("policy", "outcome", "is_open", "decided"),
    [
        (hopspan.manual, SUCCESS, True, LEFT),
        (hopspan.manual, FAILED, True, LEFT),
        (hopspan.manual, GIVEN_UP, True, LEFT),
        (hopspan.ack_always, SUCCESS, True, Settlement(Verdict.ACK)),
        (hopspan.ack_always, GOING, True, LEFT),
        (hopspan.ack_always, GIVEN_UP, True, Settlement(Verdict.REQUEUE, "cancelled")),
        (hopspan.ack_always, GIVEN_UP, False, LEFT),
        (hopspan.ack_always, SUCCESS, False, Settlement(Verdict.ACK)),
        (hopspan.reject_on_error, FAILED, True, Settlement(Verdict.REJECT, "failed: ValueError")),
        (hopspan.reject_on_error, Outcome(error=STOP), True, Settlement(Verdict.ACK)),
    ],
)
def test_what_is_decided(
    policy: Policy, outcome: Outcome, is_open: bool, decided: Settlement
) -> None:
    """A cancelled handler's message is given back if it can be; a leaving process sends nothing."""
    adapter: Any = Adapting(is_open=lambda native: is_open)
    assert decide(policy, outcome, adapter, None, delivery()) == decided


@pytest.mark.parametrize("decision", [nonsense, cannot])
def test_a_policy_that_fails_leaves_the_message_and_says_so(
    decision: Any, logged: pytest.LogCaptureFixture
) -> None:
    policy, adapter = Policy("mine", decision), Adapting()
    given: Any = adapter
    assert decide(policy, FAILED, given, None, delivery()) == LEFT
    assert [record.message for record in logged.records] == [
        "<policy mine> could not decide; the message is left unsettled"
    ]


def test_a_channel_that_cannot_tell_whether_it_is_open_is_left_alone(
    logged: pytest.LogCaptureFixture,
) -> None:
    def cannot_tell(native: object) -> bool:
        raise RuntimeError("gone")

    adapter: Any = Adapting(is_open=cannot_tell)
    assert decide(hopspan.ack_always, GIVEN_UP, adapter, None, delivery()) == LEFT
    assert len(logged.records) == 1


REFUSED = Outcome(failed=True, error_type="reject", description="reject by handler")


@pytest.mark.parametrize(
    ("outcome", "refused", "result"),
    [
        (SUCCESS, None, SUCCESS),
        (SUCCESS, Verdict.REJECT, REFUSED),
        (
            SUCCESS,
            Verdict.REQUEUE,
            Outcome(failed=True, error_type="requeue", description="requeue by handler"),
        ),
        (FAILED, Verdict.REJECT, FAILED),
        (FAILED, None, FAILED),
    ],
)
def test_a_turn_whose_message_was_refused_has_failed(
    outcome: Outcome, refused: Verdict | None, result: Outcome
) -> None:
    assert outcome_of_turn(outcome, refused) == result


def test_a_policy_without_effect_is_remarked_once(logged: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        warn_of_unsettled_turn(hopspan.requeue_once, delivery())
    assert [record.message for record in logged.records] == [
        "a loop never settles: <policy requeue_once> on orders did nothing. Put the loop's body "
        "into `with hopspan.process(message, via=..., policy=...)`"
    ]
