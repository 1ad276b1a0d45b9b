"""Outcomes: how a handling went, and what is to be sent for it. Pure decisions; nothing is sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.delivery.client import failure
from hopspan.model import Outcome, PolicyError, Settlement, Verdict
from hopspan.settlement import as_policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hopspan.config import Config
    from hopspan.delivery.client import Client
    from hopspan.settlement import Policy

PLAIN = {verdict: Settlement(verdict) for verdict in Verdict}
"""The settlement of each verdict that has no reason."""
REQUEUED_ON_CANCEL = Settlement(Verdict.REQUEUE, "cancelled")

_CANCELLATIONS = (asyncio.CancelledError, GeneratorExit)
_OTHER_CANCELLATIONS = frozenset({"Cancelled", "GreenletExit"})
"""The cancellations of trio and gevent; by name, since neither is imported for it."""


def _is_interrupt(error: BaseException) -> bool:
    """Whether the interpreter is told to leave, also from within a task group."""
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return isinstance(error, SystemExit | KeyboardInterrupt) or (
        not isinstance(error, Exception) and any(map(_is_interrupt, inner))
    )


def outcome_of(error: BaseException, client: Client) -> Outcome:
    """The outcome of a handler that was left by an exception."""
    if _is_interrupt(error):
        return Outcome(error=error, interrupted=True)
    if isinstance(error, _CANCELLATIONS) or type(error).__name__ in _OTHER_CANCELLATIONS:
        return Outcome(error=error, cancelled=True)
    if isinstance(error, client.control_flow):
        return Outcome(error=error)
    return failure(client, error)


def failing_verdict(verdicts: Iterable[Verdict | None]) -> Verdict | None:
    """A verdict by which the handler itself said that it has failed."""
    for verdict in verdicts:
        if verdict is Verdict.REQUEUE or verdict is Verdict.REJECT:
            return verdict
    return None


def outcome_of_turn(outcome: Outcome, refused: Verdict | None) -> Outcome:
    """The outcome of a loop's turn: a body that gave its message back or refused it has failed."""
    if outcome.failed or refused is None:
        return outcome
    return Outcome(failed=True, error_type=refused.value, description=f"{refused.value} by handler")


# -- refusals --------------------------------------------------------------------------------------


def refuse(policy: Policy, client: Client, reason: str | None) -> None:
    """Refuse a policy for a reason, if there is one.

    Raises:
        PolicyError: it says what cannot work, why, and what to change.
    """
    if reason is not None:
        raise PolicyError(f"policy {policy.name} cannot work with {client.name}: {reason}")


def require_async_with(block: str, policy: Policy, client: Client) -> None:
    """Refuse to settle at the end of a plain `with` block what must be awaited.

    Raises:
        PolicyError: it says what to write.
    """
    if policy.settles and client.is_awaited:
        raise PolicyError(
            f"`with {block}` cannot settle for {client.name}, whose settlement is awaited: "
            f"write `async with {block}`"
        )


def not_awaited(client: Client) -> PolicyError:
    """The error of a settlement that must be awaited, at the end of a plain `with` block."""
    return PolicyError(
        f"the outermost scope of the message is a plain `with`, and {client.name} awaits its "
        "settlement: write `async with` there"
    )


def auto_ack_error(policy: Policy, client: Client, whom: str) -> PolicyError:
    """The error of a settling policy where there is nothing left to settle."""
    return PolicyError(
        f"policy {policy.name} cannot settle for {whom}: {client.settled_already}, or use "
        "policy=hopspan.manual"
    )


def refuse_outside_task(handler: Any, settings: Mapping[str, Any], client: Client) -> None:
    """Refuse to settle for a function that is not what the client runs, but called by that.

    Raises:
        PolicyError: it says where the decorator belongs.
    """
    policy = settings.get("policy")
    if policy is not None and as_policy(policy).settles:
        name = getattr(handler, "__qualname__", repr(handler))
        raise PolicyError(
            f"policy {as_policy(policy).name} cannot work on {name}: it is not what "
            f"{client.name} runs, so nothing that it raises settles. Put @hopspan.consumer "
            "directly below the task's decorator, or functools.wraps into what is between"
        )


# -- warnings --------------------------------------------------------------------------------------

_NOT_TOO_LATE = frozenset({"commits", "policy", "reraise"})


def warn_of_late_settings(settings: Mapping[str, Any], config: Config) -> None:
    """Say that an inner scope came too late for some of its settings: the span has started."""
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
            "%s of an inner handler or block had no effect: the handling had begun with the "
            "settings of the outer one. Set them there",
            ", ".join(late),
        )


def warn_of_settled_already(policy: Policy, destination: str) -> None:
    """Say that a policy comes too late for a message, and what to do."""
    faults.once(
        "%s came too late for a message of %s: it was settled before this handler began. A handler "
        "that hands its message to a thread or task should take hopspan.current().defer() along",
        policy,
        destination,
    )


def warn_of_unsettled_turn(policy: Policy, destination: str) -> None:
    """Say that a policy had no effect in a loop, which is no error: a block inside may use it."""
    faults.once(
        "a loop never settles: %s on %s did nothing. Put the loop's body into "
        "`with hopspan.process(message, via=..., policy=...)`",
        policy,
        destination,
    )


def warn_of_turn_left(destination: str) -> None:
    """Say that a block handles the message of a loop's turn elsewhere, or after it."""
    faults.once(
        "a message of %s is handled in another thread or task than the loop that it came from, or "
        "after its turn: the block continues the turn and is not counted again. Call "
        "hopspan.current().defer() in the loop, and hand on what it returns",
        destination,
    )


def warn_of_dropped(destination: str) -> None:
    """Say that nobody can conclude any more."""
    faults.logger.warning(
        "a deferred operation of %s was dropped; its message is left unsettled. Keep what "
        "defer() returns, and use it in a `with` block",
        destination,
    )


def warn_of_late_work(destination: str) -> None:
    """Say that deferred work begins when it does not count any more."""
    faults.logger.warning(
        "deferred work on a message of %s begins after its handling was concluded, because the "
        "handler raised, the operation was used before, or the partition was lost; nothing more is "
        "settled",
        destination,
    )
