"""A subscription: everything that can be decided before a message comes, decided once.

Made for a handler when it is registered, and for `process`, `each` and plain decorated handlers
when their settings first meet those beneath; made again when settings have changed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.delivery.incoming import Incoming
from hopspan.delivery.outcomes import auto_ack_error, refuse
from hopspan.telemetry import binding_of, instrumenter_for, is_suppressed

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from hopspan.model import Settlement
    from hopspan.settlement import Commits, Policy
    from hopspan.telemetry import Instrumenter, Overrides


class Subscription:
    """The settings that hold for the deliveries of one handler or block. Immutable."""

    __slots__ = (
        "checks", "commits", "instrumenter", "is_pushed", "overrides", "policy", "policy_rank",
        "reraise", "settles", "success",
    )  # fmt: skip

    def __init__(
        self,
        kind: type[Incoming],
        instrumenter: Instrumenter,
        overrides: Overrides,
        *,
        is_pushed: bool,
        settles: bool | None = None,
        whom: str = "",
    ) -> None:
        """Decide what can be decided.

        Args:
            kind: The client's deliveries.
            instrumenter: The settings that hold, with the overrides applied.
            overrides: The settings given here, which go before those of an outer scope.
            is_pushed: Whether the client calls the handler.
            settles: Whether messages are left to be settled; None where only a message tells.
            whom: The consumer, for error messages.

        Raises:
            PolicyError: the policy can never work here.
        """
        config = instrumenter.config
        policy = config.policy
        self.instrumenter: Instrumenter = instrumenter
        self.overrides: Overrides = overrides
        self.is_pushed: bool = is_pushed
        self.policy: Policy = policy
        self.policy_rank: int = overrides.rank if "policy" in overrides.settings else 0
        self.commits: Commits = config.commits
        self.reraise: bool = config.reraise
        self.settles: bool = policy.settles
        """Whether the policy settles."""
        success = policy.success
        is_plain = success is not None and success.reason is None
        self.success: Settlement | None = (
            success if is_plain and success.verdict not in instrumenter.recorded else None
        )
        """The settlement of a success, where it is known beforehand and gets no span."""
        self.checks: bool = policy.settles and (
            settles is None or kind.unfit is not Incoming.unfit or not is_pushed
        )
        """Whether each delivery has to be asked whether the policy can work for it."""
        if policy.settles:
            refuse(policy, kind.client, kind.refusal(policy))
            if settles is False:
                raise auto_ack_error(policy, kind.client, whom)

    def is_silenced(self, ambient: Context) -> bool:
        """Whether the user asked for silence in the current context.

        In an event loop, a pushed delivery comes in the context in which its channel was opened,
        which is an accident: silence that was on then is not asked for now.
        """
        if not is_suppressed(ambient):
            return False
        return not (self.is_pushed and asyncio._get_running_loop() is not None)  # noqa: SLF001


def base_of(delivery: Incoming) -> Instrumenter:
    """The settings beneath a scope that no interceptor calls: the wrapped object, or the client."""
    try:
        bound = binding_of(delivery.source)
    except Exception:  # noqa: BLE001
        faults.report("looking for the settings of a wrapped object")
        bound = None
    return instrumenter_for(delivery.client.name) if bound is None else bound.instrumenter


class Subscriptions:
    """The subscriptions of one handler or block: one for the settings that lie beneath, the latest.

    Thread-safe: a race at worst makes the same subscription twice.
    """

    __slots__ = ("_is_pushed", "_made", "overrides")

    def __init__(self, overrides: Overrides, *, is_pushed: bool) -> None:
        self.overrides: Overrides = overrides
        self._is_pushed = is_pushed
        # As one value: a handler may be called on several wrapped channels at the same time.
        self._made: tuple[Any, Any, Subscription] | None = None

    def for_delivery(self, delivery: Any, base: Instrumenter | None = None) -> Subscription:
        """The subscription of a delivery.

        Raises:
            PolicyError: the policy can never work with this client.
        """
        kind = delivery.kind
        if base is None:
            base = base_of(delivery)
        made = self._made
        if made is None or made[0] is not base or made[1] is not kind:
            subscription = Subscription(
                kind, self.overrides.applied_to(base), self.overrides, is_pushed=self._is_pushed
            )
            made = self._made = (base, kind, subscription)
        return made[2]
