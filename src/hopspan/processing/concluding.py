"""How a handling went, and what becomes of its message: pure decisions, nothing is sent here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.model import Outcome, Settlement, Verdict
from hopspan.processing.adapting import failure

if TYPE_CHECKING:
    from hopspan.model import Delivery
    from hopspan.processing.adapting import Adapter
    from hopspan.settlement import Policy

_LEFT = Settlement(Verdict.LEAVE)
_REQUEUED_ON_CANCEL = Settlement(Verdict.REQUEUE, "cancelled")


def outcome_of(error: BaseException, adapter: Adapter) -> Outcome:
    """The outcome of a handler that was left by an exception."""
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return Outcome(error=error, interrupted=True)
    if not isinstance(error, Exception):  # CancelledError, GeneratorExit, GreenletExit
        return Outcome(error=error, cancelled=True)
    if isinstance(error, adapter.CONTROL_FLOW):
        return Outcome(error=error)
    return failure(adapter, error)


def decide(
    policy: Policy, outcome: Outcome, adapter: Adapter, native: Any, delivery: Delivery
) -> Settlement:
    """What is to be sent for one delivery that is not settled yet.

    A cancelled handler's message is given back at once, or it would block the prefetch window; an
    interpreter that is leaving sends nothing, and neither does a policy that fails.
    """
    if not policy.settles or outcome.interrupted:
        return _LEFT
    try:
        if outcome.cancelled:
            return _REQUEUED_ON_CANCEL if adapter.is_open(native) else _LEFT
        return policy.decide(outcome, delivery)
    except Exception:  # noqa: BLE001 - the user's own policy, or an adapter
        faults.logger.exception("%r could not decide; the message is left unsettled", policy)
        return _LEFT


def outcome_of_turn(outcome: Outcome, refused: Verdict | None) -> Outcome:
    """The outcome of a loop's turn: a body that gave its message back or refused it has failed."""
    if outcome.failed or refused is None:
        return outcome
    return Outcome(failed=True, error_type=refused.value, description=f"{refused.value} by handler")


def warn_of_unsettled_turn(policy: Policy, delivery: Delivery) -> None:
    """Say that a policy had no effect in a loop, which cannot refuse it: a block may use it."""
    faults.once(
        "a loop never settles: %s on %s did nothing. Put the loop's body into "
        "`with hopspan.process(message, via=..., policy=...)`",
        policy,
        delivery.endpoint.destination,
    )
