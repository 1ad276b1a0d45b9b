"""aio-pika 9.4 and newer: `Exchange.publish`, and the ways in which a `Queue` hands messages over.

Robust objects inherit from the plain ones, and restore themselves with what they were given; so the
plain classes are intercepted, once. Settlements are seen on the channel of aiormq beneath, where
all of them arrive: those of the application, of `message.process()`, and hopspan's own.
"""

from aio_pika.exceptions import QueueEmpty

from hopspan.adapters import _amqp
from hopspan.adapters.aio_pika.calls import (
    consume,
    get,
    iterate,
    iterate_queue,
    make,
    outcome_of,
    publish,
)
from hopspan.adapters.aio_pika.channels import error_type, hop, prepare
from hopspan.adapters.aio_pika.deliveries import (
    closed,
    delivery,
    given,
    handed,
    is_open,
    opened,
    owner,
    refusal,
    same,
    settle,
    settles_by_itself,
)
from hopspan.interception import (
    Point,
    consumes,
    iterates_async,
    receives_async,
    returns_wrapped,
    returns_wrapped_async,
    sends_async,
)
from hopspan.propagation import MAPPING

NAME = "aio-pika"
SYSTEM = _amqp.SYSTEM
CODEC = MAPPING
ASYNCHRONOUS = True
SETTLE_NAMES = _amqp.SETTLE_NAMES
SETTLED_ALREADY = _amqp.NO_ACK
CONTROL_FLOW: tuple[type[BaseException], ...] = ()
RAISES = None
SIGNALS = None
RIVALS = ("aio_pika.exchange:Exchange.publish", "aio_pika.queue:Queue.consume")

_CHANNEL = "aio_pika.channel:Channel"
_QUEUE = "aio_pika.queue:Queue"

POINTS = (
    Point(
        "aio_pika.exchange:Exchange",
        "publish",
        sends_async(_amqp.PUBLISH, publish, outcome_of),
        publish,
    ),
    Point(_QUEUE, "consume", consumes(consume), consume, carries_policy=True),
    Point(_QUEUE, "get", receives_async(get, (QueueEmpty,)), get),
    Point(_QUEUE, "__aiter__", iterates_async(iterate_queue), iterate_queue),
    Point("aio_pika.queue:QueueIterator", "__aiter__", iterates_async(iterate), iterate),
)

INSTANCE_POINTS = (
    Point("aio_pika.connection:Connection", "channel", returns_wrapped, make),
    Point(_CHANNEL, "declare_exchange", returns_wrapped_async, make),
    Point(_CHANNEL, "get_exchange", returns_wrapped_async, make),
    Point(_CHANNEL, "declare_queue", returns_wrapped_async, make),
    Point(_CHANNEL, "get_queue", returns_wrapped_async, make),
    Point(_QUEUE, "iterator", returns_wrapped, make),
)

__all__ = [
    "ASYNCHRONOUS", "CODEC", "CONTROL_FLOW", "INSTANCE_POINTS", "NAME", "POINTS", "RAISES",
    "RIVALS", "SETTLED_ALREADY", "SETTLE_NAMES", "SIGNALS", "SYSTEM", "closed", "delivery",
    "error_type", "given", "handed", "hop", "is_open", "opened", "owner", "prepare", "refusal",
    "same", "settle", "settles_by_itself",
]  # fmt: skip
