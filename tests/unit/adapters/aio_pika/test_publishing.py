"""Publishing by an exchange that keeps what it is given: the copies of messages, and where they go."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import aio_pika
import pytest
from aio_pika import Message
from yarl import URL

import hopspan
from tests.unit.support import Telemetry


class Exchange(aio_pika.Exchange):
    """An exchange that sends nothing."""

    def __init__(self, connection: Any = None, name: str = "shop") -> None:
        self.channel: Any = SimpleNamespace(_connection=connection)
        self.name = name
        self.sent: list[Any] = []

    async def publish(self, message: Any, routing_key: str, **_more: Any) -> Any:
        self.sent.append(message)


def publish(exchange: Exchange, message: Any, key: str = "created") -> Any:
    """Publish a message; returns what the client was given in its place."""
    asyncio.run(exchange.publish(message, key))
    return exchange.sent[-1]


@pytest.fixture
def exchange(telemetry: Telemetry) -> Exchange:
    return hopspan.wrap(Exchange(), **telemetry.settings)


# -- copies ----------------------------------------------------------------------------------------


class Shouted(Message):
    """A message with a property over a slot, a slot that is never set, and a dictionary."""

    __slots__ = ("__dict__", "never")

    @property
    def correlation_id(self) -> Any:
        return f"{_correlation_id.__get__(self)}!"

    @correlation_id.setter
    def correlation_id(self, value: Any) -> None:
        _correlation_id.__set__(self, value)


_correlation_id: Any = Message.__dict__["correlation_id"]

EVERYTHING: dict[str, Any] = {
    "content_type": "text/plain",
    "content_encoding": "utf-8",
    "delivery_mode": 2,
    "priority": 3,
    "correlation_id": "c-1",
    "reply_to": "answers",
    "expiration": 60,
    "message_id": "m-1",
    "timestamp": 17,
    "type": "order",
    "user_id": "guest",
    "app_id": "shop",
}


@pytest.mark.parametrize("kind", [Message, Shouted])
@pytest.mark.parametrize("locked", [False, True])
def test_a_copy_is_its_message_with_other_headers(
    exchange: Exchange, kind: type[Message], locked: bool
) -> None:
    message = kind(b"order", headers={"color": "red"}, **EVERYTHING)
    if locked:
        message.lock()
    copied = publish(exchange, message)
    assert {"color", "traceparent"} == set(copied.headers)
    assert (kind, locked) == (type(copied), copied.locked)
    assert {**message.info(), "headers": copied.headers} == copied.info()
    assert (b"order", {"color": "red"}) == (copied.body, message.headers)


def test_a_copy_can_be_locked_like_any_message(exchange: Exchange) -> None:
    copied = publish(exchange, Message(b"order"))
    copied.app_id = "another"
    copied.lock()
    with pytest.raises(ValueError, match="locked"):
        copied.app_id = "a third"


def test_a_copy_has_what_its_message_was_given_and_no_more(exchange: Exchange) -> None:
    message: Any = Shouted(b"order")
    message.note = "kept"
    copied = publish(exchange, message)
    copied.other = "its own"
    assert {"note": "kept"} == vars(message)
    assert ("kept", False) == (copied.note, hasattr(copied, "never"))


def test_a_message_that_is_none_of_the_client_is_copied_as_python_does(exchange: Exchange) -> None:
    class Double:
        def __init__(self) -> None:
            self.body, self.headers = b"order", {"color": "red"}
            self.message_id = self.correlation_id = None

    message: Any = Double()
    copied = publish(exchange, message)
    assert (Double, b"order") == (type(copied), copied.body)
    assert ({"color", "traceparent"}, {"color": "red"}) == (set(copied.headers), message.headers)


# -- where they go ---------------------------------------------------------------------------------


def _addresses(telemetry: Telemetry) -> list[tuple[Any, Any]]:
    found = [span.attributes or {} for span in telemetry.spans]
    return [(each.get("server.address"), each.get("server.port")) for each in found]


def test_an_address_is_read_again_when_it_is_another(telemetry: Telemetry) -> None:
    connection = SimpleNamespace(url=URL("amqp://guest:secret@one/"))
    exchange = hopspan.wrap(Exchange(connection), **telemetry.settings)
    for url in (
        "amqp://guest:secret@one/",
        "amqps://two/",
        "amqp://three:5673/",
        "amqp://four:5672/",
    ):
        connection.url = URL(url)
        publish(exchange, Message(b"order"))
        publish(exchange, Message(b"order"))
    expected = [("one", None), ("two", 5671), ("three", 5673), ("four", None)]
    assert [each for each in expected for _ in range(2)] == _addresses(telemetry)


@pytest.mark.parametrize("connection", [None, object(), SimpleNamespace(url=None)])
def test_without_an_address_there_is_none(telemetry: Telemetry, connection: Any) -> None:
    publish(hopspan.wrap(Exchange(connection), **telemetry.settings), Message(b"order"))
    assert [(None, None)] == _addresses(telemetry)


def test_keys_without_end_are_told_apart(telemetry: Telemetry) -> None:
    connection = SimpleNamespace(url=URL("amqp://one/"))
    exchange = hopspan.wrap(Exchange(connection), **telemetry.settings)
    for number in (*range(1100), 0):
        publish(exchange, Message(b"order"), f"key-{number}")
    spans = telemetry.spans
    assert [f"publish shop:key-{number}" for number in (0, 1, 1099, 0)] == [
        spans[index].name for index in (0, 1, 1099, 1100)
    ]
    (kept,) = (each for each in vars(connection).values() if isinstance(each, dict))
    assert len(kept) <= 1024
