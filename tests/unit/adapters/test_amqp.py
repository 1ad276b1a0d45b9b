"""RabbitMQ's names, and what it tells of a message's history: the conventions' page as tables."""

from __future__ import annotations

from typing import Any

import pytest
from pika import spec
from pika.compat import long

from hopspan.adapters import amqp
from hopspan.adapters.amqp import (
    Destinations,
    QueueRoutes,
    Server,
    attempt,
    consumed_from,
    death,
    sent_to,
    server,
    text,
)
from hopspan.model import Endpoint, Verdict

ROUTING_KEY = "messaging.rabbitmq.destination.routing_key"
NOWHERE = Server()
BROKER = Server("broker", 5672)
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def endpoint(name: str, **fields: Any) -> Endpoint:
    return Endpoint("rabbitmq", name, **fields)


@pytest.mark.parametrize(
    ("exchange", "routing_key", "name"),
    [
        ("orders", "created", "orders:created"),
        ("orders", "", "orders"),
        ("", "orders", "orders"),
        ("", "", "amq.default"),
    ],
)
def test_where_a_publish_goes(exchange: str, routing_key: str, name: str) -> None:
    """`{exchange}:{routing key}`; one empty: the other alone; both: `amq.default`."""
    assert sent_to(exchange, routing_key, NOWHERE) == endpoint(name)


@pytest.mark.parametrize(
    ("exchange", "routing_key", "queue", "name"),
    [
        ("orders", "created", "billing", "orders:created:billing"),
        ("orders", "", "billing", "orders:billing"),
        ("", "created", "billing", "created:billing"),
        ("orders", "billing", "billing", "orders:billing"),
        ("", "billing", "billing", "billing"),
        ("", "", "billing", "billing"),
        ("orders", "created", None, "orders:created"),
        ("", "created", None, "created"),
        ("orders", "created", "", "orders:created"),
        ("", "", None, "amq.default"),
        ("", "", "", "amq.default"),
    ],
)
def test_where_a_delivery_came_from(
    exchange: str, routing_key: str, queue: str | None, name: str
) -> None:
    """`{exchange}:{routing key}:{queue}`, without empty parts, and each name once."""
    assert consumed_from(exchange, routing_key, queue, NOWHERE) == endpoint(name)


@pytest.mark.parametrize(
    ("name", "generated"),
    [
        ("orders", False),
        ("amq.gen-JzTY20BRgKO", True),
        ("AMQ.GEN-x", True),
        ("amq.rabbitmq.reply-to", True),
        ("amq.rabbitmq.reply-to.g1h2", True),
        ("amq.ctag-x", True),
        ("my.amq.gen-x", False),
        ("amq.topic", False),
        (UUID, True),
        (UUID.upper(), True),
        (f"reply.{UUID}", True),
        (f"{UUID.replace('-', '')}", True),
        (f"orders-{UUID[:-1]}", False),
        ("orders-2024-01-01", False),
    ],
)
def test_generated_names_are_anonymous_on_both_sides(name: str, generated: bool) -> None:
    """They must not get into span names or metrics."""
    assert (
        sent_to("", name, NOWHERE).anonymous,
        consumed_from("", name, None, NOWHERE).anonymous,
        consumed_from("orders", "created", name, NOWHERE).anonymous,
    ) == (generated,) * 3


def test_the_server_is_part_of_the_endpoint() -> None:
    assert (sent_to("orders", "", BROKER), consumed_from("", "", "billing", BROKER)) == (
        endpoint("orders", server_address="broker", server_port=5672),
        endpoint("billing", server_address="broker", server_port=5672),
    )


@pytest.mark.parametrize(
    ("host", "port", "known"),
    [
        ("broker", 5673, Server("broker", 5673)),
        ("broker", 5672, Server("broker")),
        ("broker", None, Server("broker")),
        ("broker", "5673", Server("broker")),
        (None, 5673, Server(None, 5673)),
        (object(), object(), Server()),
    ],
)
def test_the_servers_default_port_is_not_told(host: Any, port: Any, known: Server) -> None:
    """Nor what a double has in its place."""
    assert server(host, port) == known


@pytest.mark.parametrize(
    ("value", "shown"), [("a", "a"), (b"a", "a"), (b"\xff", "\\xff"), (None, None), (7, 7)]
)
def test_short_strings_are_text_also_where_they_are_no_utf_8(value: Any, shown: Any) -> None:
    assert text(value) == shown


@pytest.mark.parametrize("exchange", ["orders", b"orders"])
@pytest.mark.parametrize(("key", "particular"), [("created", {ROUTING_KEY: "created"}), ("", {})])
def test_a_route_is_made_once_with_what_all_its_messages_say(
    exchange: Any, key: str, particular: dict[str, Any]
) -> None:
    routes, destinations = QueueRoutes(BROKER)["billing"], Destinations(BROKER)
    there, here = destinations[exchange, key], routes[exchange, key]
    assert (there.endpoint, here.endpoint) == (
        sent_to("orders", key, BROKER),
        consumed_from("orders", key, "billing", BROKER),
    )
    assert (there.particular, here.particular) == (particular, particular)
    assert (destinations[exchange, key], routes[exchange, key]) == (there, here)


@pytest.mark.parametrize("cached", [sent_to, consumed_from])
def test_endpoints_are_cached_within_bounds(cached: Any) -> None:
    assert cached.cache_info().maxsize == 1024


@pytest.mark.parametrize(
    ("headers", "redelivered", "number"),
    [
        (None, False, 1),
        (None, True, None),
        ({}, False, 1),
        ({}, True, None),
        ({"x-delivery-count": 0}, False, 1),
        ({"x-delivery-count": 7}, False, 1),
        ({"x-delivery-count": 0}, True, None),
        ({"x-delivery-count": 1}, True, 2),
        ({"x-delivery-count": long(2)}, True, 3),
        ({"x-acquired-count": 2}, True, 3),
        ({"x-acquired-count": 4, "x-delivery-count": 1}, True, 5),
        ({"x-acquired-count": 0, "x-delivery-count": 1}, True, 2),
        ({"x-acquired-count": "x", "x-delivery-count": 1}, True, 2),
        ({"x-delivery-count": -1}, True, None),
        ({"x-delivery-count": True}, True, None),
        ({"x-delivery-count": "2"}, True, None),
        ({"x-delivery-count": 2.0}, True, None),
        ({"x-delivery-count": None}, True, None),
        ({"x-delivery-count": 2**31 - 1}, True, 2**31),
        ({"x-delivery-count": 2**31}, True, None),
        ({"x-delivery-count": 2**63}, True, None),
    ],
)
def test_which_attempt_it_is(headers: Any, redelivered: bool, number: int | None) -> None:
    """Quorum queues count; classic ones only know the first, and hand on what producers wrote."""
    assert attempt(headers, redelivered) == number


def test_an_attempt_is_a_plain_number() -> None:
    """Large ones are decoded as a class of pika's own, which prints as `3L`."""
    assert type(attempt({"x-delivery-count": long(2)}, True)) is int


DIED = {"reason": "rejected", "queue": "orders", "count": 2, "exchange": "", "time": 0}


@pytest.mark.parametrize(
    ("headers", "attributes"),
    [
        (None, {}),
        ({}, {}),
        ({"x-death": []}, {}),
        ({"x-death": None}, {}),
        ({"x-death": "rejected"}, {}),
        ({"x-death": [None]}, {}),
        ({"x-death": ["rejected"]}, {}),
        ({"x-death": (DIED,)}, {}),
        ({"x-death": [{}]}, {}),
        ({"x-death": [{"reason": 3, "queue": None, "count": "2"}]}, {}),
        (
            {"x-death": [DIED, {"reason": "expired", "queue": "older", "count": 9}]},
            {
                "hopspan.death.reason": "rejected",
                "hopspan.death.queue": "orders",
                "hopspan.death.count": 2,
            },
        ),
        ({"x-death": [{"reason": "expired"}]}, {"hopspan.death.reason": "expired"}),
        ({"x-death": [{"count": long(3)}]}, {"hopspan.death.count": 3}),
    ],
)
def test_why_a_message_died_last(headers: Any, attributes: dict[str, Any]) -> None:
    """From the newest entry; whatever a producer wrote there instead is nothing."""
    assert death(headers) == attributes


def test_a_count_of_deaths_is_a_plain_number() -> None:
    found = death({"x-death": [{"count": long(3)}]})
    assert type(found["hopspan.death.count"]) is int


def test_the_reply_codes_are_the_protocols() -> None:
    """Compared with what pika generated from the specification."""
    named = {
        value: name.lower().replace("_", "-")
        for name, value in vars(spec).items()
        if name.isupper() and isinstance(value, int) and 300 < value < 600
    }
    assert {code: amqp.REPLY_CODES.get(code) for code in named} == named


def test_every_verdict_has_the_protocols_name() -> None:
    assert amqp.SETTLE_NAMES == {
        Verdict.ACK: "ack",
        Verdict.REQUEUE: "nack",
        Verdict.REJECT: "nack",
        Verdict.LEAVE: "leave",
    }
