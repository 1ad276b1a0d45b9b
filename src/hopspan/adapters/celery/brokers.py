"""The broker behind an application, and what the conventions call a task's queue there."""

from __future__ import annotations

import re
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan import faults
from hopspan.adapters import amqp
from hopspan.adapters.celery.messages import ACKS
from hopspan.conventions import PROCESS, Route, plan, settlement_attributes
from hopspan.model import Endpoint, Settlement, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

UNKNOWN = "celery"
"""`messaging.system` where nobody can tell which broker it is."""

_SYSTEMS = {
    "amqp": amqp.SYSTEM,
    "azureservicebus": "servicebus",
    "confluentkafka": "kafka",
    "gcpubsub": "gcp_pubsub",
    "sqs": "aws_sqs",
}
"""From kombu's word for a transport to the conventions', where they differ."""

_HOST = re.compile(r"[\w.:\-\[\]]+")
"""A host name or address. Some transports keep a whole URL there, with its password."""

_DELAYED = re.compile(r"(?:[01]\.){28}(?P<key>.*)", re.DOTALL)
_DELAYING = re.compile(r"celery_delayed_(?:\d+|delivery)")
"""Native delayed delivery (Celery's *Using RabbitMQ: native delayed delivery*): the routing key is
behind 28 bits that say how long, on exchanges that are not the application's."""


class Broker(NamedTuple):
    """A broker, as the application was told to reach it. Never with a password."""

    system: str
    server: amqp.Server = amqp.Server()


_NOWHERE = Broker(UNKNOWN)


def broker_of(connection: Any) -> Broker:
    """The broker that a kombu connection is for; it need not be established."""
    try:
        transport = connection.get_transport_cls()
        driver = str(transport.driver_type).lower()
        host = connection.hostname
        port = int(connection.port or 0)
        is_said = port and port != getattr(transport, "default_port", None)
        known = isinstance(host, str) and _HOST.fullmatch(host)
        server = amqp.Server(host, port if is_said else None) if known else amqp.Server()
        return Broker(_SYSTEMS.get(driver, driver), server)
    except Exception:  # noqa: BLE001
        faults.report("looking for an application's broker")
        return _NOWHERE


_read: weakref.WeakKeyDictionary[Any, Broker] = weakref.WeakKeyDictionary()
_written: weakref.WeakKeyDictionary[Any, Broker] = weakref.WeakKeyDictionary()


def read_by(app: Any) -> Broker:
    """The broker that an application's workers consume from."""
    return _found(_read, app, app.connection_for_read)


def written_by(app: Any) -> Broker:
    """The broker that an application publishes to."""
    return _found(_written, app, app.connection_for_write)


def _found(
    known: weakref.WeakKeyDictionary[Any, Broker], app: Any, connection: Callable[[], Any]
) -> Broker:
    broker = known.get(app)
    if broker is None:
        broker = known[app] = broker_of(connection())
    return broker


@lru_cache(maxsize=1024)
def plain(exchange: str, routing_key: str) -> tuple[str, str]:
    """Exchange and routing key as the application knows them."""
    delayed = _DELAYED.fullmatch(routing_key)
    if delayed is None:
        return exchange, routing_key
    return ("" if _DELAYING.fullmatch(exchange) else exchange), delayed["key"]


@lru_cache(maxsize=1024)
def sent_to(broker: Broker, exchange: str, routing_key: str, task: str) -> Endpoint:
    """Where a task is published to. The task's name is the low-cardinality template."""
    if not exchange and not routing_key:  # it never came so far
        return Endpoint(
            broker.system,
            "",
            task or None,
            server_address=broker.server.address,
            server_port=broker.server.port,
        )
    return _named(amqp.sent_to(exchange, routing_key, broker.server), broker, task)


def consumed_from(
    broker: Broker, exchange: str, routing_key: str, queue: str | None, task: str
) -> Endpoint:
    """Where a task came from."""
    found = amqp.consumed_from(exchange, routing_key, queue, broker.server)
    return _named(found, broker, task)


class Origin(NamedTuple):
    """Where messages of a task come from."""

    endpoint: Endpoint
    routing_key: str | None
    """As the application knows it; None where the conventions have no word for it."""


def origin(app: Any, exchange: str, routing_key: str, task: str) -> Origin:
    """Where a message that an application's worker was given came from."""
    exchange, key = application_names(app, exchange, routing_key)
    endpoint = consumed_from(read_by(app), exchange, key, queue_of(app, exchange, key), task)
    return Origin(endpoint, key if endpoint.system == amqp.SYSTEM else None)


def _named(endpoint: Endpoint, broker: Broker, task: str) -> Endpoint:
    name = endpoint.destination
    if broker.system != amqp.SYSTEM:  # there are only queues
        name = name.rpartition(":")[2]
    return endpoint._replace(system=broker.system, destination=name, template=task or None)


_MOST_ROUTES = 1024
"""Bounds what is remembered: reply queues and per-user keys are endless."""


ACKED_EARLY = settlement_attributes(Settlement(Verdict.ACK))
"""The attributes of a run whose message is acked before it begins."""


class ProcessRoutes(dict[tuple[str, str, bool, Any], Route]):
    """The routes of one task's messages.

    By exchange, routing key, whether they are acked late, and how many queues the application
    knows: any exchange but the default one may lead to a queue that is declared only later.
    """

    __slots__ = ("_app", "_task")

    def __init__(self, app: Any, task: str) -> None:
        super().__init__()
        self._app = app
        self._task = task

    def __missing__(self, key: tuple[str, str, bool, Any]) -> Route:
        exchange, routing_key, is_late, _ = key
        endpoint, named = origin(self._app, exchange, routing_key, self._task)
        particular: dict[str, Any] = {ACKS: "late"} if is_late else {**ACKED_EARLY}
        if named is not None:
            particular[amqp.ROUTING_KEY] = named
        return _kept(self, key, Route(plan(PROCESS, endpoint), particular))


class PublishRoutes(dict[tuple[str, str, str], Route]):
    """The routes of what an application publishes to one broker; by exchange, routing key, task."""

    __slots__ = ("_app", "_broker")

    def __init__(self, app: Any, broker: Broker) -> None:
        super().__init__()
        self._app = weakref.ref(app)
        self._broker = broker

    def __missing__(self, key: tuple[str, str, str]) -> Route:
        exchange, routing_key, task = key
        exchange, named = application_names(self._app(), exchange, routing_key)
        endpoint = sent_to(self._broker, exchange, named, task)
        has_word = endpoint.system == amqp.SYSTEM and named
        route = Route(plan(amqp.PUBLISH, endpoint), {amqp.ROUTING_KEY: named} if has_word else {})
        # Of a delayed delivery, the application's queues tell: there may be more of them later.
        return _kept(self, key, route) if named == routing_key else route


def _kept(routes: dict[Any, Route], key: Any, route: Route) -> Route:
    if len(routes) >= _MOST_ROUTES:
        routes.clear()
    routes[key] = route
    return route


_published: weakref.WeakKeyDictionary[Any, PublishRoutes] = weakref.WeakKeyDictionary()


def publish_routes(app: Any, connection: Any) -> PublishRoutes:
    """The routes of an application; of a connection of its own where a publish has one."""
    if connection is not None:
        return PublishRoutes(app, broker_of(connection))
    routes = _published.get(app)
    if routes is None:
        routes = _published[app] = PublishRoutes(app, written_by(app))
    return routes


@lru_cache(maxsize=1024)
def in_process(task: str) -> Endpoint:
    """Of an eager call, which no broker sees."""
    return Endpoint("", template=task or None)


def queue_of(app: Any, exchange: str, routing_key: str) -> str | None:
    """The queue of a delivery, where the application's routing tells: the only one bound so."""
    if not exchange:
        return routing_key  # the default exchange routes by the queue's name
    bound = [each.name for each in _bound(app, exchange, routing_key)]
    return bound[0] if len(bound) == 1 else None


def application_names(app: Any, exchange: str, routing_key: str) -> tuple[str, str]:
    """Exchange and routing key as the application knows them, also where delivery is delayed."""
    exchange, key = plain(exchange, routing_key)
    if key != routing_key and not exchange:
        named = {each.exchange.name for each in _bound(app, "", key)}
        exchange = named.pop() if len(named) == 1 else ""
    return exchange, key


def _bound(app: Any, exchange: str, routing_key: str) -> list[Any]:
    queues = app.amqp.queues.values()
    return [
        each
        for each in queues
        if each.routing_key == routing_key
        and (not exchange or getattr(each.exchange, "name", None) == exchange)
    ]
