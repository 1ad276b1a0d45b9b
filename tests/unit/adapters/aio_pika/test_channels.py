"""What is kept of aio-pika's connections and channels: little, and never longer than it holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from yarl import URL

from hopspan.adapters import _amqp, _amqp_ledger
from hopspan.adapters.aio_pika.channels import Fetched, received, server, state_of


class Channel:
    """As much of aiormq's as is looked at."""

    def __init__(self) -> None:
        self.connection = SimpleNamespace(url=URL("amqp://guest:secret@broker/"))


class Queue:
    name = "orders"


def message(channel: Channel | None, tag: int) -> Any:
    return SimpleNamespace(delivery_tag=tag, _IncomingMessage__channel=channel)


def test_an_address_is_read_again_when_it_is_another() -> None:
    connection = SimpleNamespace(url=URL("amqp://guest:secret@one/"))
    first = server(connection)
    assert first is server(connection)
    connection.url = URL("amqps://two:5673/")
    assert [("one", 5672), ("two", 5673)] == [first, server(connection)]


@pytest.mark.parametrize("connection", [None, object(), SimpleNamespace(url=None)])
def test_without_an_address_there_is_none(connection: Any) -> None:
    assert _amqp.Server() == server(connection)


def test_a_channel_has_one_state() -> None:
    channel = Channel()
    states = [received(message(channel, tag), "orders", None).state for tag in (1, 2)]
    assert [state_of(channel)] * 2 == states


def test_of_fetched_messages_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_amqp_ledger.Ledger, "MOST", 2)
    channel, queue = Channel(), Queue()
    state = state_of(channel)
    for tag in (1, 2, 3):
        fetched = message(channel, tag)
        state.remember(received(fetched, "orders", queue, settles=True))
    assert [2, 3] == list(state.fetched)
    newest: Fetched = state.fetched[3]
    assert (id(fetched), "orders", True, queue) == (*newest[:3], newest.via())


def test_a_message_that_came_by_no_channel_is_read_like_any_other() -> None:
    """As one that is made in a test."""
    native = received(message(None, 1), "orders", None)
    assert native.state.server == _amqp.Server()
    assert not native.state.ledger.is_known(1)
