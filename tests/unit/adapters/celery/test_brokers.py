"""The broker of an application, and what the conventions call a task's queue there."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

pytest.importorskip("redis")  # kombu needs it to say what its transport is

from celery import Celery
from kombu import Connection, Exchange, Queue

from hopspan.adapters.amqp import Server
from hopspan.adapters.celery import brokers
from hopspan.adapters.celery.brokers import (
    Broker,
    ProcessRoutes,
    PublishRoutes,
    broker_of,
    consumed_from,
    publish_routes,
    queue_of,
    sent_to,
)
from hopspan.model import Endpoint

RABBIT = Broker("rabbitmq", Server("rabbit"))
REDIS = Broker("redis", Server("redis"))
BITS = ".".join("0" * 26) + ".1.0."


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("amqp://user:secret@rabbit//", RABBIT),
        ("pyamqp://rabbit:5673//", Broker("rabbitmq", Server("rabbit", 5673))),
        ("amqp://rabbit:5672//", RABBIT),
        ("amqp://one//;amqp://two//", Broker("rabbitmq", Server("one"))),
        ("redis://:secret@redis/0", REDIS),
        ("redis://redis:6380/1", Broker("redis", Server("redis", 6380))),
        ("memory://", Broker("memory")),
        ("filesystem://", Broker("filesystem")),
    ],
)
def test_a_broker_is_told_by_its_url(url: str, broker: Broker) -> None:
    assert broker == broker_of(Connection(url))


class Odd:
    """A connection whose host name is a whole URL, as some transports keep it."""

    hostname = "https://key:secret@sqs.example"
    port = None

    def get_transport_cls(self) -> Any:
        class Transport:
            driver_type = "sqs"

        return Transport


def test_a_password_is_never_told() -> None:
    assert broker_of(Odd()) == Broker("aws_sqs", Server(None, None))


def test_what_is_no_connection_is_no_broker() -> None:
    assert broker_of(object()) == Broker("celery", Server(None, None))


@pytest.mark.parametrize(
    ("broker", "exchange", "key", "name"),
    [
        (RABBIT, "", "orders", "orders"),
        (RABBIT, "shop", "orders.new", "shop:orders.new"),
        (RABBIT, "", "", ""),
        (REDIS, "shop", "orders", "orders"),
    ],
)
def test_where_a_task_goes_to(broker: Broker, exchange: str, key: str, name: str) -> None:
    system, server = broker
    expected = Endpoint(
        system, name, "place", server_address=server.address, server_port=server.port
    )
    assert expected == sent_to(broker, exchange, key, "place")


@pytest.mark.parametrize(
    ("exchange", "key", "queue", "name"),
    [
        ("", "orders", "orders", "orders"),
        ("shop", "orders.new", "orders", "shop:orders.new:orders"),
        ("shop", "orders.new", None, "shop:orders.new"),
    ],
)
def test_where_a_task_came_from(exchange: str, key: str, queue: str | None, name: str) -> None:
    found = consumed_from(RABBIT, exchange, key, queue, "place")
    assert (name, "place") == (found.destination, found.template)


def routed() -> Celery:
    app = Celery("routed", broker="memory://", set_as_current=False)
    shop = Exchange("shop", type="topic")
    app.conf.task_queues = [
        Queue("orders", shop, routing_key="orders.new"),
        Queue("one", shop, routing_key="twice"),
        Queue("other", shop, routing_key="twice"),
    ]
    return app


@pytest.mark.parametrize(
    ("exchange", "key", "queue"),
    [
        ("", "letters", "letters"),
        ("shop", "orders.new", "orders"),
        ("shop", "twice", None),
        ("elsewhere", "orders.new", None),
    ],
)
def test_a_queue_is_told_where_the_routing_tells(
    exchange: str, key: str, queue: str | None
) -> None:
    assert queue == queue_of(routed(), exchange, key)


@pytest.mark.parametrize(
    ("exchange", "key", "known"),
    [
        ("", "letters", ("", "letters")),
        ("shop", "orders.new", ("shop", "orders.new")),
        ("celery_delayed_27", BITS + "orders.new", ("shop", "orders.new")),
        ("celery_delayed_delivery", BITS + "twice", ("shop", "twice")),
        ("celery_delayed_delivery", BITS + "nowhere", ("", "nowhere")),
        ("shop", BITS + "orders.new", ("shop", "orders.new")),
    ],
)
def test_a_delayed_delivery_is_named_like_any_other(
    exchange: str, key: str, known: tuple[str, str]
) -> None:
    assert known == brokers.application_names(routed(), exchange, key)


def test_an_applications_broker_is_looked_for_once() -> None:
    app = Celery("shop", broker="redis://redis/0", set_as_current=False)
    assert brokers.read_by(app) is brokers.read_by(app)
    assert (REDIS, REDIS) == (brokers.read_by(app), brokers.written_by(app))


def test_a_queue_that_is_declared_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    app = routed()
    monkeypatch.setattr(brokers, "read_by", lambda _: RABBIT)
    routes = ProcessRoutes(app, "place")
    before = routes["shop", "late", False, len(app.amqp.queues)]
    assert before is routes["shop", "late", False, len(app.amqp.queues)]
    app.amqp.queues.add(Queue("evening", Exchange("shop", type="topic"), routing_key="late"))
    after = routes["shop", "late", False, len(app.amqp.queues)]
    assert ("shop:late", "shop:late:evening") == (
        before.endpoint.destination,
        after.endpoint.destination,
    )
    said = {"messaging.rabbitmq.destination.routing_key": "late", "hopspan.settlement": "ack"}
    assert [said, said] == [before.particular, after.particular]


def test_a_route_says_how_its_task_is_acked() -> None:
    routes = ProcessRoutes(routed(), "place")
    assert [{"hopspan.settlement": "ack"}, {"hopspan.celery.acks": "late"}] == [
        routes["", "orders", is_late, ""].particular for is_late in (False, True)
    ]


def test_what_is_known_of_routes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "_MOST_ROUTES", 3)
    app = routed()
    process, publish = ProcessRoutes(app, "place"), PublishRoutes(app, RABBIT)
    for number in range(10):
        key = f"reply-{number}"
        assert key == process["", key, False, ""].endpoint.destination
        assert key == publish["", key, "place"].endpoint.destination
    assert len(process) <= 3
    assert len(publish) <= 3


def test_an_applications_routes_are_made_once_and_those_of_a_connection_are_its_own() -> None:
    app = routed()
    assert publish_routes(app, None) is publish_routes(app, None)
    endpoint = publish_routes(app, Connection("redis://elsewhere/0"))["", "orders", "p"].endpoint
    assert ("redis", "elsewhere") == (endpoint.system, endpoint.server_address)


def test_an_application_is_not_kept_for_its_routes() -> None:
    app = routed()
    publish_routes(app, None)["", "orders", "place"]
    gone = weakref.ref(app)
    app.close()
    del app
    gc.collect()
    assert gone() is None
