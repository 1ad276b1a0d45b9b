"""Messages that came by no channel of a broker's, and what is kept of channels: little."""

from __future__ import annotations

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from aio_pika import IncomingMessage
from pamqp.commands import Basic
from yarl import URL

import hopspan
from hopspan.adapters.aio_pika.channel import state_of
from hopspan.adapters.amqp_ledger import Ledger
from hopspan.delivery import adapter_of
from tests.unit.support import Telemetry


class Channel:
    """As much of aiormq's as is looked at."""

    is_closed = False

    def __init__(self) -> None:
        self.connection = SimpleNamespace(url=URL("amqp://guest:secret@broker/"), basic_nack=True)
        self.sent: list[Any] = []

    async def basic_ack(self, delivery_tag: int, multiple: bool = False, wait: bool = True) -> None:
        self.sent.append(("ack", delivery_tag))

    async def basic_nack(
        self, delivery_tag: int, multiple: bool = False, requeue: bool = True, wait: bool = True
    ) -> None:
        self.sent.append(("nack", delivery_tag, requeue))


class Queue:
    name = "orders"


_ADAPTER: Any = adapter_of(IncomingMessage)
DELIVERY: Any = _ADAPTER.delivery


def incoming(channel: Any, tag: int | None = 1, *, no_ack: bool = False) -> IncomingMessage:
    """A message as aio-pika makes it of a delivery."""
    properties = Basic.Properties(headers={}, message_id="m-1")
    delivered: Any = SimpleNamespace(
        channel=channel,
        body=b"order",
        header=SimpleNamespace(properties=properties),
        consumer_tag="ctag",
        delivery_tag=tag,
        exchange="shop",
        message_count=None,
        redelivered=False,
        routing_key="created",
    )
    return IncomingMessage(delivered, no_ack=no_ack)


@pytest.mark.parametrize("channel", [None, mock.Mock(), Channel()], ids=["none", "mock", "channel"])
@pytest.mark.parametrize("tag", [None, 1])
def test_a_message_that_a_test_has_made_is_processed_like_any_other(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture, channel: Any, tag: int | None
) -> None:
    with hopspan.process(incoming(channel, tag), **telemetry.settings) as operation:
        assert (1, "m-1") == (operation.attempt, operation.message_id)
    (span,) = telemetry.spans
    assert ("process shop:created", []) == (span.name, logged.messages)


def test_hooks_and_policies_get_the_message_and_its_queue(telemetry: Telemetry) -> None:
    seen: list[Any] = []
    message: Any = incoming(Channel())
    with hopspan.process(
        message, via=Queue(), on_start=lambda _, native: seen.append(native), **telemetry.settings
    ) as operation:
        native: Any = operation.delivery.native
    assert [(message, "orders")] * 2 == [(each.message, each.queue) for each in (*seen, native)]


def test_a_message_that_was_settled_before_its_channel_was_seen_is_not_settled_again(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    channel = Channel()
    message = incoming(channel)

    async def handle() -> None:
        await message.ack()
        async with hopspan.process(message, policy=hopspan.ack_always, **telemetry.settings):
            pass

    asyncio.run(handle())
    assert [("ack", 1)] == channel.sent
    assert [True] == [
        "it was settled before this handler began" in each for each in logged.messages
    ]


def test_a_channels_settlements_are_recorded_once() -> None:
    channel = Channel()
    state = state_of(channel)
    recorded = channel.basic_ack
    assert (state, recorded) == (state_of(channel), channel.basic_ack)


def test_what_is_kept_of_a_channel_goes_with_it() -> None:
    channel = Channel()
    gone = weakref.ref(state_of(channel))
    del channel
    gc.collect()
    assert gone() is None


def fetch(queue: Queue, message: Any) -> None:
    """`Queue.get` has returned a message."""
    DELIVERY.fetched(queue, message)


def test_of_fetched_messages_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "MOST", 2)
    channel, queue = Channel(), Queue()
    messages = [incoming(channel, tag) for tag in (1, 2, 3)]
    for message in messages:
        fetch(queue, message)
    found = [DELIVERY.of(message, None) for message in messages]
    assert [(None, None), ("orders", queue), ("orders", queue)] == [
        (each.queue, each.source) for each in found
    ]


def test_a_fetched_message_of_a_queue_that_nobody_holds_still_tells_its_name() -> None:
    message = incoming(Channel())
    fetch(Queue(), message)
    assert "orders" == DELIVERY.of(message, None).queue


def test_another_message_with_the_tag_of_a_fetched_one_is_another() -> None:
    channel = Channel()
    fetched, other = incoming(channel), incoming(channel)
    fetch(Queue(), fetched)
    assert None is DELIVERY.of(other, None).queue
