"""`process`: handle a message, or a batch as one, in a `with` or `async with` block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.delivery.adapter import adapter_among, resolved, unknown
from hopspan.delivery.batch import given
from hopspan.delivery.entering import NO_DELIVERY, safely
from hopspan.delivery.subscription import Subscriptions
from hopspan.telemetry import cached_overrides

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

    from hopspan.config import Settings
    from hopspan.delivery.adapter import Adapter
    from hopspan.delivery.delivery import Delivery, Scope
    from hopspan.telemetry import Overrides

_MOST_KEPT = 256
_kept: dict[Overrides, Subscriptions] = {}
"""The subscriptions of blocks, by their settings."""


def subscriptions_for(overrides: Overrides) -> Subscriptions:
    """The subscriptions of blocks and loops with these settings."""
    found = _kept.get(overrides)
    if found is None:
        found = Subscriptions(overrides, is_pushed=False)
        if len(_kept) < _MOST_KEPT:
            _kept[overrides] = found
    return found


class Block:
    """A `with` block in which one message is handled. Single use; made by `process`."""

    __slots__ = ("_delivery", "_overrides", "_scope")

    def __init__(self, delivery: Delivery | tuple[()], overrides: Overrides) -> None:
        self._delivery = delivery
        self._overrides = overrides
        self._scope: Scope | None = None

    def __enter__(self) -> Delivery:
        return self._begin("hopspan.process(...)")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        if self._scope is not None:
            self._scope.leave(error, is_block=True)

    async def __aenter__(self) -> Delivery:
        return self._begin("")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        if self._scope is not None:
            await self._scope.leave_async(error, is_block=True)

    def _begin(self, block: str) -> Delivery:
        scope = self._scope = safely(self._enter, block) if self._delivery else None
        return NO_DELIVERY if scope is None else scope.handling

    def _enter(self, block: str) -> Any:
        delivery: Any = self._delivery
        subscription = subscriptions_for(self._overrides).for_delivery(delivery)
        return delivery.enter(subscription, block)


def process(
    message: Any, *, via: Any = None, adapter: Adapter | None = None, **settings: Unpack[Settings]
) -> Block:
    """Handle a message, or a list of messages as one, in a `with` (or `async with`) block.

    The block is inside the process span. Leaving it normally is success, an exception is a failure
    and is always raised again, and the policy decides what becomes of the message::

        method, properties, body = channel.basic_get("orders")
        message = method, properties, body
        with hopspan.process(message, via=channel, policy=hopspan.reject_on_error) as op:
            if not valid(body):
                op.fail("invalid order", type="invalid_order")

    A span that is current here is the parent, and the message is linked; with none current the
    message is the parent (`correlation="auto"`). A list makes one span with a link for each
    message. Nothing happens for an empty list, nor for what an empty `basic_get` returns.

    Args:
        message: What the client handed out: for pika the `(method, properties, body)` tuple.
        via: The channel or consumer that it came from, where the message does not know it.
        adapter: For doubles and mocks; found by type otherwise.
        settings: See `hopspan.Config`.

    Raises:
        ConfigurationError: a setting is unknown or invalid.
        PolicyError: on entering, the policy cannot work here.
        UnknownMessageError: the message is of no client that hopspan knows.
    """
    overrides = cached_overrides(settings)
    via = resolved(via, adapter)
    found = adapter or adapter_among((via, message))
    try:
        delivery = given(found.delivery, message, via) if found is not None else None
    except Exception:  # noqa: BLE001 - the block is run, and the message stays unsettled
        faults.report("reading what process was given")
        return Block((), overrides)
    empty = isinstance(message, list | tuple | dict) and not message
    if delivery is None and not empty:
        raise unknown(
            "process", (message, via), "give it what the client handed out, and the channel as via="
        )
    return Block(() if delivery is None else delivery, overrides)
