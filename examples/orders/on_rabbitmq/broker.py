"""Where the services meet: an exchange, the queue of the fulfilment, and one for what it rejects.

Every service declares all of it before it starts, because none of them knows who comes first.
Declaring what is there already changes nothing.
"""

from __future__ import annotations

import os

import pika
from pika.adapters.blocking_connection import BlockingChannel

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2F")
PREFIX = os.environ.get(
    "ORDERS_PREFIX", "demo."
)  # not to be mistaken for the queues of a real shop

ORDERS = f"{PREFIX}orders"
FULFILMENT = f"{PREFIX}fulfilment"
DEAD_LETTERS = f"{PREFIX}dead-letters"

# An example leaves nothing behind; a real shop keeps its queues.
UNUSED_FOR_A_MINUTE = {"x-expires": 60_000}


def connect() -> pika.BlockingConnection:
    """Connect to RabbitMQ; as a context manager the connection is closed at the end."""
    return pika.BlockingConnection(pika.URLParameters(URL))


def declare(channel: BlockingChannel) -> None:
    """Declare the exchange, both queues, and who gets what."""
    channel.exchange_declare(ORDERS, "topic", durable=True, auto_delete=True)
    channel.queue_declare(DEAD_LETTERS, durable=True, arguments=UNUSED_FOR_A_MINUTE)
    channel.queue_declare(
        FULFILMENT,
        durable=True,
        arguments={
            # A quorum queue counts how often it has handed a message out, so "once" is exact.
            "x-queue-type": "quorum",
            # RabbitMQ moves what is rejected here. The headers move along, and with them the trace.
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": DEAD_LETTERS,
            **UNUSED_FOR_A_MINUTE,
        },
    )
    channel.queue_bind(FULFILMENT, ORDERS, "order.created")
