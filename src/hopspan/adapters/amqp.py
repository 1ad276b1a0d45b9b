"""The shared parts of AMQP 0-9-1 clients: names, delivery history, and the settlement ledger.

Imports no client. Naming follows the conventions' RabbitMQ page; history is what RabbitMQ puts into
headers.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan import conventions as names
from hopspan.conventions import Route
from hopspan.delivery import Delivery
from hopspan.model import Endpoint, OperationType, Verdict

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from hopspan.adapters.amqp_ledger import Ledger
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
"""The remedy where a policy would settle and the broker has."""
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


_DEFAULT_PORT = 5672


def server(host: Any, port: Any) -> Server:
    """The broker's address; the default port says nothing, and is left out."""
    known = isinstance(port, int) and port != _DEFAULT_PORT
    return Server(host if isinstance(host, str) else None, port if known else None)


def text(value: Any) -> Any:
    """A short string of the protocol as text; clients give one that is not valid UTF-8 as bytes."""
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

    Since RabbitMQ 4.3 `x-acquired-count` counts every return, and `x-delivery-count` no longer
    counts those by `basic.nack`. A classic queue passes both headers on as a producer wrote them,
    often by republishing a message with all its headers. So a count is believed only where it
    fits: 1 where the message is not redelivered, and at least one return where it is.
    """
    if not redelivered:
        return 1
    found = [headers.get(name) for name in _COUNTS] if headers else []
    counts = [int(each) for each in found if isinstance(each, int) and each is not True]
    return max((count + 1 for count in counts if 0 < count < _MOST), default=None)


_COUNTS = ("x-acquired-count", "x-delivery-count")
_MOST = 2**31
"""No broker counts that far, and no exporter takes an integer of more than 64 bits."""


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


class AmqpDelivery(Delivery):
    """A delivery of an AMQP client. Its subclass says where the fields are.

    A subclass has the attributes below and `settle`; `routes` is `routes_of` its queue and server.
    """

    __slots__ = ("auto_ack", "kept", "ledger", "queue", "routes", "seen_before")

    kept: Any
    """The `ChannelState`, or one of the client's."""
    routes: Routes
    ledger: Ledger
    queue: str | None
    auto_ack: bool
    seen_before: bool
    """Whether it was handled or settled before its handling began."""
    tag: int
    """The delivery tag."""
    properties: Any
    """An object with `headers`, `message_id` and `correlation_id`."""
    method: Any
    """An object with `exchange`, `routing_key` and `redelivered`; one for each delivery."""

    def read(self) -> tuple[Route, Any]:
        method = self.method
        headers = self.properties.headers
        route = self.routes[method.exchange, method.routing_key]
        return route, headers if type(headers) is dict else None

    def describe(self, attributes: dict[str, Any]) -> None:
        properties = self.properties
        attributes[DELIVERY_TAG] = self.tag
        if properties.message_id is not None:
            attributes[names.MESSAGE_ID] = text(properties.message_id)
        if properties.correlation_id is not None:
            attributes[names.CONVERSATION_ID] = text(properties.correlation_id)
        headers = properties.headers
        if self.method.redelivered:
            attributes[names.REDELIVERED] = True
            again = self.attempt
            if again is not None and again != 1:
                attributes[names.ATTEMPT] = again
        if headers and type(headers) is dict and "x-death" in headers:
            attributes.update(death(headers))

    def describe_message(self, attributes: dict[str, Any]) -> None:
        attributes.update(self.read()[0].particular)
        super().describe_message(attributes)

    @property
    def redelivered(self) -> bool:
        return bool(self.method.redelivered)

    @property
    def attempt(self) -> int | None:
        headers = self.properties.headers
        known = headers if isinstance(headers, dict) else None
        return attempt(known, bool(self.method.redelivered))

    @property
    def settles(self) -> bool:
        return not self.auto_ack

    @property
    def counted(self) -> bool:
        """Whether a call has fetched it, and was counted, or it was handled before."""
        return self.seen_before or self.tag in self.kept.fetched

    def ongoing(self) -> Delivery | None:
        found = self.ledger.open.get(self.tag)
        if found is None:
            return None
        mine = [
            each
            for each in (found if type(found) is list else (found,))
            if each.method is self.method
        ]
        # Of a message that is handled alone and in a batch, the handling that can be joined.
        return next((each for each in mine if not each.is_over), mine[0] if mine else None)

    def opened(self) -> Verdict | None:
        ledger, tag = self.ledger, self.tag
        if tag > ledger.highest:  # nobody has seen it before
            ledger.highest = tag
            ledger.open[tag] = self
            if tag > ledger.highest_settled:  # looked at after it is entered
                return None
        return ledger.enter(tag, self)

    def closed(self) -> None:
        fetched = self.kept.fetched
        if fetched and not (self.is_turn and self.verdict is None):  # a block may continue it
            fetched.pop(self.tag, None)
        handled, tag = self.ledger.open, self.tag
        if self.verdict is not None and handled.get(tag) is self:
            handled.pop(tag, None)
        else:
            self.ledger.leave(tag, self)

    def finished_turn(self) -> SpanContext | None:
        left = self.ledger.left
        return self.ledger.finished_turn(self.tag) if left else None

    @classmethod
    def refusal(cls, policy: Policy) -> str | None:
        return refusal(policy)


class Routes(dict[tuple[Any, Any], Route]):
    """The routes of one queue's deliveries, by exchange and routing key, as the client gives them.

    Bounded: keys of one user each are endless.
    """

    MOST = 1024

    def __init__(self, queue: str | None, server: Server) -> None:
        super().__init__()
        self._queue = queue
        self._server = server

    def __missing__(self, key: tuple[Any, Any]) -> Route:
        exchange, routing_key = text(key[0]) or "", text(key[1]) or ""
        endpoint = consumed_from(exchange, routing_key, self._queue, self._server)
        particular = {ROUTING_KEY: routing_key} if routing_key else {}
        route = Route(names.plan(names.PROCESS, endpoint), particular)
        if len(self) >= self.MOST:
            self.clear()
        self[key] = route
        return route


class QueueRoutes(dict["str | None", Routes]):
    """The routes of the deliveries of one channel, by queue. Bounded: reply queues are endless."""

    MOST = 256

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def __missing__(self, queue: str | None) -> Routes:
        if len(self) >= self.MOST:
            self.clear()
        routes = self[queue] = Routes(queue, self._server)
        return routes


class Destinations(dict[tuple[Any, Any], Route]):
    """The routes of publishes to one broker, by exchange and routing key. Bounded, too."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server: Server = server

    def __missing__(self, names_: tuple[Any, Any]) -> Route:
        exchange, key = text(names_[0]) or "", text(names_[1])
        if len(self) >= Routes.MOST:
            self.clear()
        planned = names.plan(PUBLISH, sent_to(exchange, key, self.server))
        route = self[names_] = Route(planned, {ROUTING_KEY: key} if key else {})
        return route


class ChannelState:
    """The state that is kept of one channel, and goes with it. Holds no message."""

    __slots__ = ("__weakref__", "fetched", "ledger", "routes", "server")

    def __init__(self, server: Server, ledger: Ledger) -> None:
        self.server: Server = server
        self.ledger: Ledger = ledger
        self.routes: QueueRoutes = QueueRoutes(server)
        self.fetched: OrderedDict[int, Any] = OrderedDict()
        """By delivery tag, what is known of a message that a call has fetched, and counted."""

    def remember(self, tag: int, known: Any) -> None:
        """Remember a message that was fetched; what becomes of it shows only later."""
        self.fetched[tag] = known
        if len(self.fetched) > self.ledger.MOST:
            self.fetched.popitem(last=False)


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
