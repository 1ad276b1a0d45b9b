"""How a handling went and what becomes of its message, as tables."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import hopspan
from hopspan.config import Config
from hopspan.conventions import METRICS
from hopspan.model import SUCCESS, Outcome, Settlement, Verdict
from hopspan.processing.concluding import (
    decide,
    outcome_of,
    outcome_of_turn,
    warn_of_late_settings,
    warn_of_settled_already,
    warn_of_unsettled_turn,
)
from hopspan.settlement import Policy
from tests.unit.support import Adapting, delivery


class StopConsumingError(Exception):
    pass


BAD, STOP = ValueError("bad"), StopConsumingError("stop")


class Cancelled(BaseException):
    pass


class GreenletExit(BaseException):
    pass


class Abort(BaseException):
    pass


class Group(BaseException):
    def __init__(self, *exceptions: BaseException) -> None:
        super().__init__("group")
        self.exceptions = exceptions


TRIO, GEVENT, ABORT = Cancelled(), GreenletExit(), Abort("stop")
LEAVING_GROUP = Group(ValueError(), Group(KeyboardInterrupt()))
FAILED_GROUP = Group(ValueError(), Group(OSError()))
CANCELLED, CLOSED = asyncio.CancelledError(), GeneratorExit()
LEAVING, INTERRUPTED = SystemExit(1), KeyboardInterrupt()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (BAD, Outcome(True, BAD, "ValueError", "bad")),
        (STOP, Outcome(error=STOP)),
        (CANCELLED, Outcome(error=CANCELLED, cancelled=True)),
        (CLOSED, Outcome(error=CLOSED, cancelled=True)),
        (TRIO, Outcome(error=TRIO, cancelled=True)),
        (GEVENT, Outcome(error=GEVENT, cancelled=True)),
        (ABORT, Outcome(True, ABORT, f"{__name__}.Abort", "stop")),
        (LEAVING_GROUP, Outcome(error=LEAVING_GROUP, interrupted=True)),
        (FAILED_GROUP, Outcome(True, FAILED_GROUP, f"{__name__}.Group", "group")),
        (LEAVING, Outcome(error=LEAVING, interrupted=True)),
        (INTERRUPTED, Outcome(error=INTERRUPTED, interrupted=True)),
    ],
)
def test_what_an_exception_makes_of_the_outcome(error: BaseException, outcome: Outcome) -> None:
    """What is neither a cancellation, nor an interrupt, nor the client's control flow is a failure."""
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


# -- remarks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "remarked"),
    [
        ({}, None),
        ({"policy": hopspan.ack_always, "reraise": True}, None),
        ({"correlation": "auto", "metrics": True}, None),
        ({"metrics": sorted(METRICS)}, None),
        ({"correlation": "link"}, "correlation"),
        (
            {"metrics": False, "correlation": "link", "policy": hopspan.manual},
            "correlation, metrics",
        ),
    ],
)
def test_settings_that_come_too_late_are_remarked_once(
    settings: dict[str, Any], remarked: str | None, logged: pytest.LogCaptureFixture
) -> None:
    """Those that are as they were, in whatever spelling, and those that hold all the same are not."""
    for _ in range(2):
        warn_of_late_settings(settings, Config())
    assert [record.message for record in logged.records] == (
        []
        if remarked is None
        else [
            f"{remarked} of a face further in had no effect: the handling had begun with the "
            "settings of the face further out. Set them there"
        ]
    )


def test_a_policy_that_comes_too_late_is_remarked_once(logged: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        warn_of_settled_already(hopspan.requeue_once, delivery())
    assert [record.message for record in logged.records] == [
        "<policy requeue_once> came too late for a message of orders: it was settled before this "
        "handler began. A handler that hands its message to a thread or task should take "
        "hopspan.current().defer() along"
    ]
