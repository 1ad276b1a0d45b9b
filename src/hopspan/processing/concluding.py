"""How a handling went, and what becomes of its message: pure decisions, nothing is sent here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.model import Outcome, Settlement, Verdict
from hopspan.processing.adapting import failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hopspan.config import Config
    from hopspan.model import Delivery
    from hopspan.processing.adapting import Adapter
    from hopspan.settlement import Policy

_LEFT = Settlement(Verdict.LEAVE)
_REQUEUED_ON_CANCEL = Settlement(Verdict.REQUEUE, "cancelled")


_CANCELLATIONS = (asyncio.CancelledError, GeneratorExit)
_OTHER_CANCELLATIONS = frozenset({"Cancelled", "GreenletExit"})
"""What trio and gevent cancel with; by name, since neither is imported for it."""


def _is_interrupt(error: BaseException) -> bool:
    """The interpreter is told to leave, also from within a task group."""
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return isinstance(error, SystemExit | KeyboardInterrupt) or (
        not isinstance(error, Exception) and any(map(_is_interrupt, inner))
    )


def outcome_of(error: BaseException, adapter: Adapter) -> Outcome:
    """The outcome of a handler that was left by an exception."""
    if _is_interrupt(error):
        return Outcome(error=error, interrupted=True)
    if isinstance(error, _CANCELLATIONS) or type(error).__name__ in _OTHER_CANCELLATIONS:
        return Outcome(error=error, cancelled=True)
    if isinstance(error, adapter.CONTROL_FLOW) or _is_retried(error, adapter):
        return Outcome(error=error)
    return failure(adapter, error)


def _is_retried(error: BaseException, adapter: Adapter) -> bool:
    return adapter.RAISES is not None and adapter.RAISES.retries(error)


def decide(
    policy: Policy, outcome: Outcome, adapter: Adapter, native: Any, delivery: Delivery
) -> Settlement:
    """What is to be sent for one delivery that is not settled yet.

    A cancelled handler's message is given back at once, or it would block the prefetch window; an
    interpreter that is leaving sends nothing, and neither does a policy that fails.
    """
    if not policy.settles or outcome.interrupted:
        return _LEFT
    if adapter.RAISES is not None and outcome.error is not None and not outcome.failed:
        return _LEFT  # the client knows by itself what is to become of the message
    try:
        if outcome.cancelled:
            return _REQUEUED_ON_CANCEL if adapter.is_open(native) else _LEFT
        settlement = policy.decide(outcome, delivery)
    except Exception:  # noqa: BLE001 - the user's own policy, or an adapter
        faults.logger.exception("%r could not decide; the message is left unsettled", policy)
        return _LEFT
    if settlement.verdict is Verdict.REJECT and settlement.target is None:
        return settlement._replace(target=policy.target)
    return settlement


def decide_all(
    policy: Policy,
    outcome: Outcome,
    adapter: Adapter,
    deliveries: Sequence[Delivery],
    verdicts: Sequence[Verdict | None],
) -> list[tuple[int, Settlement]]:
    """What is to be sent for which of some deliveries: for those that nobody has settled yet."""
    plan = []
    for index, delivery in enumerate(deliveries):
        if delivery.settles and verdicts[index] is None:
            settlement = decide(policy, outcome, adapter, delivery.native, delivery)
            if settlement.verdict is not Verdict.LEAVE:
                plan.append((index, settlement))
    return plan


def outcome_of_turn(outcome: Outcome, refused: Verdict | None) -> Outcome:
    """The outcome of a loop's turn: a body that gave its message back or refused it has failed."""
    if outcome.failed or refused is None:
        return outcome
    return Outcome(failed=True, error_type=refused.value, description=f"{refused.value} by handler")


_NOT_TOO_LATE = frozenset({"commits", "policy", "reraise"})


def warn_of_late_settings(settings: Mapping[str, Any], config: Config) -> None:
    """Say that a face came too late for some of its settings: the span has started already."""
    late = sorted(
        name
        for name, value in settings.items()
        if name not in _NOT_TOO_LATE and getattr(config, name) != value
    )
    if late:  # `metrics=True` is another spelling of what the configuration holds
        wanted = config.override(settings)
        late = [name for name in late if getattr(config, name) != getattr(wanted, name)]
    if late:
        faults.once(
            "%s of a face further in had no effect: the handling had begun with the settings of "
            "the face further out. Set them there",
            ", ".join(late),
        )


def warn_of_settled_already(policy: Policy, delivery: Delivery) -> None:
    """Say that a policy comes too late for a message, and what to do."""
    faults.once(
        "%s came too late for a message of %s: it was settled before this handler began. A handler "
        "that hands its message to a thread or task should take hopspan.current().defer() along",
        policy,
        delivery.endpoint.destination,
    )


def warn_of_unsettled_turn(policy: Policy, delivery: Delivery) -> None:
    """Say that a policy had no effect in a loop, which cannot refuse it: a block may use it."""
    if policy.settles and delivery.settles:
        faults.once(
            "a loop never settles: %s on %s did nothing. Put the loop's body into "
            "`with hopspan.process(message, via=..., policy=...)`",
            policy,
            delivery.endpoint.destination,
        )


def warn_of_dropped(delivery: Delivery) -> None:
    """Say that nobody can conclude any more."""
    faults.logger.warning(
        "a deferred operation of %s was dropped; its message is left unsettled. Keep what "
        "defer() returns, and use it in a `with` block",
        delivery.endpoint.destination,
    )


def warn_of_late_work(delivery: Delivery) -> None:
    """Say that deferred work begins when it does not count any more."""
    faults.logger.warning(
        "deferred work on a message of %s begins after its handling was concluded, because the "
        "handler raised, the operation was used before, or the partition was lost; nothing more is "
        "settled",
        delivery.endpoint.destination,
    )
