"""What the AMQP 0-9-1 clients share: RabbitMQ's names, delivery history, and settlement ledger.

Imports no client. Naming follows the conventions' RabbitMQ page; history is what RabbitMQ puts into
headers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan import conventions as names
from hopspan.model import Delivery, Endpoint, MessageInfo, OperationType, Verdict, make

if TYPE_CHECKING:
    from hopspan.settlement import Policy

SYSTEM = "rabbitmq"
PUBLISH = names.Action("publish", OperationType.SEND)
ROUTING_KEY = "messaging.rabbitmq.destination.routing_key"
DELIVERY_TAG = "messaging.rabbitmq.message.delivery_tag"
NO_ACK = (
    "it was given no_ack=True, so the broker forgets a message when it hands it out. "
    "Consume with no_ack=False"
)
SETTLED_ALREADY = (
    "it was given auto_ack=True, so the broker forgets a message when it hands it out. "
    "Consume with auto_ack=False"
)
"""What to change where a policy would settle and the broker has."""
SETTLE_NAMES = {
    Verdict.ACK: "ack",
    Verdict.REQUEUE: "nack",
    Verdict.REJECT: "nack",
    Verdict.LEAVE: "leave",
}

# Constants of the protocol (AMQP 0-9-1, section 1.2): a broker's code is the best error.type.
REPLY_CODES = {
    311: "content-too-large", 312: "no-route", 313: "no-consumers", 320: "connection-forced",
    402: "invalid-path", 403: "access-refused", 404: "not-found", 405: "resource-locked",
    406: "precondition-failed", 501: "frame-error", 502: "syntax-error", 503: "command-invalid",
    504: "channel-error", 505: "unexpected-frame", 506: "resource-error", 530: "not-allowed",
    540: "not-implemented", 541: "internal-error",
}  # fmt: skip
NACKED = "nack"
"""`error.type` of a publish that the broker did not confirm."""

_GENERATED = re.compile(
    r"^(amq\.gen-|amq\.rabbitmq\.reply-to|amq\.ctag)"  # by RabbitMQ
    r"|[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}",  # a UUID, by clients
    re.IGNORECASE,
)


class Server(NamedTuple):
    """The broker, as the client was told to reach it. Never with a password."""

    address: str | None = None
    port: int | None = None


def text(value: Any) -> Any:
    """A short string of the protocol as text; clients give those that are no UTF-8 as bytes."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


@lru_cache(maxsize=1024)
def sent_to(exchange: str, routing_key: str, server: Server) -> Endpoint:
    """Where a publish goes: `{exchange}:{routing key}`, without the empty part."""
    name = ":".join(part for part in (exchange, routing_key) if part) or "amq.default"
    return Endpoint(
        SYSTEM,
        name,
        anonymous=bool(_GENERATED.search(routing_key)),
        server_address=server.address,
        server_port=server.port,
    )


@lru_cache(maxsize=1024)
def consumed_from(exchange: str, routing_key: str, queue: str | None, server: Server) -> Endpoint:
    """Where a delivery came from: `{exchange}:{routing key}:{queue}`, each name once."""
    parts = [exchange, routing_key, queue if queue != routing_key else None]
    name = ":".join(part for part in parts if part) or "amq.default"
    return Endpoint(
        SYSTEM,
        name,
        anonymous=bool(_GENERATED.search(queue or "") or _GENERATED.search(routing_key)),
        server_address=server.address,
        server_port=server.port,
    )


def attempt(headers: Mapping[str, Any] | None, redelivered: bool) -> int | None:
    """Which attempt this is: quorum queues count returns, classic ones only know the first.

    RabbitMQ 4.3 counts every return in `x-acquired-count`, and in `x-delivery-count`, which counted
    them before, no `basic.nack` any more. A classic queue hands on what a producer has written
    there, often by republishing a message with all its headers. So a count is believed only where
    it fits: a message that is not redelivered is the first, one that is has been counted once.
    """
    if not redelivered:
        return 1
    found = [headers.get(name) for name in _COUNTS] if headers else []
    counts = [int(each) for each in found if isinstance(each, int) and each is not True]
    return max((count + 1 for count in counts if 0 < count < _MOST), default=None)


_COUNTS = ("x-acquired-count", "x-delivery-count")
_MOST = 2**31
"""No broker counts as far, and no exporter takes an integer of more than 64 bits."""


def death(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Why a dead-lettered message died last: attributes from the newest entry of `x-death`."""
    deaths = headers.get("x-death") if headers else None
    if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], Mapping):
        return {}
    last = deaths[0]
    found: dict[str, Any] = {}
    for name, key, kind in (
        (names.DEATH_REASON, "reason", str),
        (names.DEATH_QUEUE, "queue", str),
        (names.DEATH_COUNT, "count", int),
    ):
        value = last.get(key)
        if isinstance(value, kind):
            found[name] = int(value) if kind is int else value
    return found


def delivery(  # noqa: PLR0917 - keywords cost, once a message
    native: Any,
    envelope: tuple[Any, Any, str | None, int, bool],
    server: Server,
    headers: Any,
    ids: tuple[Any, Any],
    settles: bool,
    counted: bool,
) -> Delivery:
    """A delivery as a value.

    Args:
        native: The client's.
        envelope: Exchange, routing key, queue, delivery tag, and whether it was redelivered.
        server: The broker.
        headers: The message's.
        ids: The message's and the conversation's.
        settles: Whether anybody is to settle it.
        counted: Whether a receive operation has counted it.
    """
    known = headers if isinstance(headers, dict) else None
    exchange, key, queue, tag, redelivered = envelope
    message_id, conversation_id = ids
    if type(exchange) is not str or type(key) is not str:
        exchange, key = text(exchange), text(key)
    if type(message_id) is bytes or type(conversation_id) is bytes:
        message_id, conversation_id = text(message_id), text(conversation_id)
    attributes: dict[str, Any] = {DELIVERY_TAG: int(tag)}
    if key:
        attributes[ROUTING_KEY] = key
    if known and "x-death" in known:
        attributes.update(death(known))
    fields = (
        consumed_from(exchange, key, queue, server),
        make(MessageInfo, (message_id, conversation_id, attributes, None)),
        known,
        native,
        redelivered,
        attempt(known, redelivered) if redelivered else 1,
        settles,
        counted,
    )
    return make(Delivery, fields)


def refusal(policy: Policy) -> str | None:
    """Why a policy can never work with RabbitMQ."""
    if policy.target is not None:
        return (
            "RabbitMQ dead-letters by itself. Declare the queue with the argument "
            "x-dead-letter-exchange and use policy=hopspan.reject_on_error"
        )
    if policy.pauses:
        return (
            "RabbitMQ hands a requeued message out again at once. Leave out pause=, or dead-letter "
            "to a queue whose messages expire back (x-message-ttl, x-dead-letter-exchange)"
        )
    return None
