"""Policies that cannot work are refused before a handler runs, and told what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hopspan.model import PolicyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hopspan.model import Delivery
    from hopspan.processing.adapting import Adapter
    from hopspan.settlement import Policy


def refuse(policy: Policy, adapter: Adapter, deliveries: Sequence[Delivery] = ()) -> None:
    """Refuse a policy that cannot work, before the handler runs.

    Raises:
        PolicyError: it says what cannot work, why, and what to change.
    """
    if not policy.settles:
        return
    for native in [each.native for each in deliveries] or [None]:
        reason = adapter.refusal(policy, native)
        if reason is not None:
            raise PolicyError(f"policy {policy.name} cannot work with {adapter.NAME}: {reason}")
    for delivery in deliveries:
        if not delivery.settles:
            whom = f"the consumer of {delivery.endpoint.destination or 'this queue'}"
            raise settled_already(policy, adapter, whom)


def refuse_plain(block: str, policy: Policy, adapter: Adapter) -> None:
    """Refuse to settle at the end of a plain `with` block what must be awaited.

    Raises:
        PolicyError: it says what to write.
    """
    if block and policy.settles and adapter.ASYNCHRONOUS:
        raise PolicyError(
            f"`with {block}` cannot settle for {adapter.NAME}, whose settlement is awaited: "
            f"write `async with {block}`"
        )


def settled_already(policy: Policy, adapter: Adapter, whom: str) -> PolicyError:
    """A settling policy where there is nothing left to settle."""
    return PolicyError(
        f"policy {policy.name} cannot settle for {whom}: {adapter.SETTLED_ALREADY}, or use "
        "policy=hopspan.manual"
    )
