"""Reading the messages that aio-pika hands out, and settling them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aio_pika import IncomingMessage

from hopspan.adapters import _amqp
from hopspan.adapters.aio_pika.channels import Received, received, underlay
from hopspan.model import Delivery, Settlement, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from hopspan.processing import Processing
    from hopspan.settlement import Policy


def handed(args: tuple[Any, ...], via: Any = None) -> list[Received] | None:
    """The message, or the list of them, among a handler's arguments."""
    return next((found for found in (given(each, via) for each in args) if found), None)


def given(message: Any, via: Any) -> list[Received] | None:
    """A message, a list of messages, or None for what `get(fail=False)` may return."""
    if isinstance(message, IncomingMessage):
        return [_received(message, via)]
    if message is None and via is not None:
        return []
    if isinstance(message, list | tuple) and all(isinstance(m, IncomingMessage) for m in message):
        return [_received(each, via) for each in message]
    return None


def _received(message: Any, via: Any) -> Received:
    native = received(message, getattr(via, "name", None), via)
    known = native.state.fetched.get(message.delivery_tag)
    if known is None or known.identity != id(message):
        return native
    return native._replace(queue=known.queue, settles=known.settles, via=known.via())


def delivery(native: Received) -> Delivery:
    """A message as a value."""
    message, state, queue, settles, _ = native
    tag, redelivered = message.delivery_tag, bool(message.redelivered)
    return _amqp.delivery(
        native,
        (message.exchange or "", message.routing_key or "", queue, tag or 0, redelivered),
        state.server,
        message.headers,
        (message.message_id, message.correlation_id),
        settles,
        tag in state.fetched or state.ledger.is_known(tag),
    )


def owner(native: Received) -> Any:
    """The queue that the message came by, where that is known."""
    return native.via


def same(native: Received, other: Received) -> bool:
    """Whether both are one delivery: aio-pika makes one object for each."""
    return native.message is other.message


def opened(native: Received, processing: Processing) -> Verdict | None:
    """Enter a delivery in its channel's ledger."""
    message = native.message
    settled = native.state.ledger.open(message.delivery_tag, native, processing)
    if settled is None and message.processed and native.settles:
        return Verdict.ACK  # or another, before its channel was seen: done in any case
    return settled


def closed(native: Received, processing: Processing) -> None:
    """The handling is over."""
    state, tag = native.state, native.message.delivery_tag
    state.fetched.pop(tag, None)
    if state.ledger.has_open(tag):
        described = next(each for each in processing.deliveries if each.native is native)
        state.ledger.close(tag, processing, described)


def is_open(native: Received) -> bool:
    """Whether the channel can still settle."""
    channel = underlay(native.message)
    return channel is not None and not channel.is_closed


def settle(native: Received, settlement: Settlement) -> Awaitable[None] | None:
    """Perform a verdict."""
    message = native.message
    if settlement.verdict is Verdict.ACK:
        return message.ack()  # type: ignore[no-any-return]
    if settlement.verdict is Verdict.LEAVE:
        return None
    return message.nack(requeue=settlement.verdict is Verdict.REQUEUE)  # type: ignore[no-any-return]


def refusal(policy: Policy, native: Received | None = None) -> str | None:  # noqa: ARG001
    """Why a policy can never work here."""
    return _amqp.refusal(policy)


def settles_by_itself(instance: Any) -> bool:  # noqa: ARG001
    """That is each consumer's matter."""
    return False
