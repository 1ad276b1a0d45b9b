"""RabbitMQ with aio-pika: each message confirmed by the broker, and each acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import aio_pika
from aio_pika import Exchange, Message, Queue

import hopspan
from benchmarks.brokers.turns import BODY, TURN, Turn, fresh_name, timed
from benchmarks.clients.aio_pika import run, wrapped_by_contrib
from benchmarks.modes import Telemetry


def turns(url: str, telemetry: Telemetry) -> Iterator[tuple[str, Turn]]:
    """The rows."""

    def ours(native: Any, **settings: Any) -> Any:
        return hopspan.wrap(native, **telemetry.providers, **settings)

    for name, instrument, publishing, consuming in (
        ("bare", _as_it_is, Exchange, Queue),
        (
            "contrib",
            _as_it_is,
            wrapped_by_contrib(telemetry, Exchange, "publish"),
            wrapped_by_contrib(telemetry, Queue, "consume"),
        ),
        ("hopspan", lambda native: ours(native, metrics=False), Exchange, Queue),
        ("hopspan + metrics", ours, Exchange, Queue),
    ):
        turn = run(_turn(url, publishing, consuming, instrument))
        yield name, timed(name, telemetry, lambda turn=turn: run(turn()))  # type: ignore[misc]


def _as_it_is(native: Any) -> Any:
    return native


async def _turn(
    url: str, publishing: Any, consuming: Any, instrument: Callable[[Any], Any]
) -> Callable[[], Coroutine[Any, Any, None]]:
    connection = await aio_pika.connect(url)
    sender, receiver = await connection.channel(), await connection.channel()
    name = fresh_name()
    await receiver.set_qos(prefetch_count=100)
    await receiver.declare_queue(name, exclusive=True)
    exchange = instrument(publishing(sender, ""))
    queue = instrument(consuming(receiver, name, False, True, False, None))
    left, done = 0, asyncio.Event()

    async def handle(message: Any) -> None:
        nonlocal left
        await message.ack()
        left -= 1
        if not left:
            done.set()

    async def turn() -> None:
        nonlocal left
        left = TURN
        done.clear()
        for _ in range(TURN):
            await exchange.publish(Message(BODY, headers={}), name)
        tag = await queue.consume(handle)
        await done.wait()
        await queue.cancel(tag)

    return turn
