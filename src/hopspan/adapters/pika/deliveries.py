"""Reading what pika hands out, and settling it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pika.spec import Basic

from hopspan.adapters import _amqp
from hopspan.adapters.pika.channels import Received, inner, notice_thread, state_of
from hopspan.model import Delivery, Settlement, Verdict

if TYPE_CHECKING:
    from hopspan.processing import Processing
    from hopspan.settlement import Policy


def handed(args: tuple[Any, ...], via: Any = None) -> list[Received] | None:  # noqa: ARG001
    """`(channel, method, properties, body)` among a handler's arguments."""
    for index, argument in enumerate(args):
        if isinstance(argument, Basic.Deliver | Basic.GetOk) and 0 < index < len(args) - 2:
            received = Received(args[index - 1], argument, args[index + 1], args[index + 2])
            notice_thread(state_of(received.channel))
            return [received]
    return None


def given(message: Any, via: Any) -> list[Received] | None:
    """`(method, properties, body)` with the channel as `via`, or a list; empty for an empty get."""
    if isinstance(message, list):
        several = [given(each, via) for each in message]
        if any(each is None for each in several):
            return None
        return [native for each in several for native in each or ()]
    match message:
        case (None, _, _):
            return []
        case (Basic.Deliver() | Basic.GetOk() as method, properties, body) if via is not None:
            return [_received(via, method, properties, body)]
        case (channel, Basic.Deliver() | Basic.GetOk() as method, properties, body):
            return [_received(channel, method, properties, body)]
    return None


def _received(channel: Any, method: Any, properties: Any, body: Any) -> Received:
    known = state_of(channel).fetched.get(method.delivery_tag)
    if known is not None and known.method is method:
        return Received(channel, method, properties, body, known.queue, known.auto_ack)
    return Received(channel, method, properties, body)


def delivery(native: Received) -> Delivery:
    """A delivery as a value."""
    channel, method, properties, _, queue, auto_ack, known = native
    state = known or state_of(channel)
    tag = method.delivery_tag
    return _amqp.delivery(
        native,
        (method.exchange, method.routing_key, queue, tag, bool(method.redelivered)),
        state.server,
        properties.headers,
        (properties.message_id, properties.correlation_id),
        not (_is_auto_acked(native) if auto_ack is None else auto_ack),
        tag in state.fetched or state.ledger.is_known(tag),
    )


def _is_auto_acked(native: Received) -> bool:
    unacked = getattr(inner(native.channel), "_consumers_with_noack", None)
    # Private to pika: anything else there, in a later version or a test double, tells nothing.
    return isinstance(unacked, set) and getattr(native.method, "consumer_tag", None) in unacked


def owner(native: Received) -> Any:
    """The channel that the message came by."""
    return native.channel


def same(native: Received, other: Received) -> bool:
    """Whether both are one delivery: pika makes one method object for each."""
    return native.method is other.method


def opened(native: Received, processing: Processing) -> Verdict | None:
    """Enter a delivery in its channel's ledger."""
    state = native.state or state_of(native.channel)
    return state.ledger.open(native.method.delivery_tag, native, processing)


def closed(native: Received, processing: Processing) -> None:
    """The handling is over."""
    state, tag = native.state or state_of(native.channel), native.method.delivery_tag
    state.fetched.pop(tag, None)
    if state.ledger.has_open(tag):
        described = next(each for each in processing.deliveries if each.native is native)
        state.ledger.close(tag, processing, described)


def is_open(native: Received) -> bool:
    """Whether the channel can still settle."""
    return bool(native.channel.is_open)


def settle(native: Received, settlement: Settlement) -> None:
    """Perform a verdict. On the connection's own thread only (pika FAQ: *Is Pika thread safe?*)."""
    channel, tag = native.channel, native.method.delivery_tag
    if settlement.verdict is Verdict.ACK:
        channel.basic_ack(tag)
    elif settlement.verdict is not Verdict.LEAVE:
        channel.basic_nack(tag, requeue=settlement.verdict is Verdict.REQUEUE)


def refusal(policy: Policy, native: Received | None = None) -> str | None:  # noqa: ARG001
    """Why a policy can never work here."""
    return _amqp.refusal(policy)


def prepare(instance: Any) -> None:
    """A channel is as it has to be."""


def settles_by_itself(instance: Any) -> bool:  # noqa: ARG001
    """That is each consumer's matter, not the channel's."""
    return False
