"""Policies that cannot work are refused before a handler runs, and told what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hopspan.model import PolicyError
from hopspan.settlement import as_policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hopspan.model import Delivery
    from hopspan.processing.adapting import Adapter
    from hopspan.settlement import Policy
    from hopspan.telemetry import Face


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


def refuse_beside(handler: Any, face: Face, adapter: Adapter) -> None:
    """Refuse to settle for a function that is not what the client runs, but called by that.

    Raises:
        PolicyError: it says where the decorator belongs.
    """
    policy = face.settings.get("policy")
    if policy is not None and as_policy(policy).settles:
        name = getattr(handler, "__qualname__", repr(handler))
        raise PolicyError(
            f"policy {as_policy(policy).name} cannot work on {name}: it is not what "
            f"{adapter.NAME} runs, so nothing that it raises settles. Put @hopspan.consumer "
            "directly below the task's decorator, or functools.wraps into what is between"
        )
