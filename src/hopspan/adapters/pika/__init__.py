"""pika 1.3 and 1.4: `BlockingChannel`, and `Channel` of the asynchronous connections.

A `BlockingChannel` has a `Channel` inside (`_impl`) and calls it for everything that goes on the
wire. So publishes and consumers are intercepted where the user calls them, and settlements on the
inner channel, where all of them arrive, whichever object the user called.
"""

from hopspan.adapters import _amqp
from hopspan.adapters.pika.calls import (
    async_get,
    awaits_confirm,
    basic_consume,
    basic_get,
    basic_publish,
    cancel,
    channel,
    confirm_delivery,
    consume,
    keep_loop,
)
from hopspan.adapters.pika.channels import error_type, hop
from hopspan.adapters.pika.deliveries import (
    closed,
    delivery,
    given,
    handed,
    is_open,
    opened,
    owner,
    prepare,
    refusal,
    same,
    settle,
    settles_by_itself,
)
from hopspan.interception import (
    Point,
    consumes,
    iterates,
    receives,
    returns_wrapped,
    runs_first,
    sends,
)
from hopspan.propagation import MAPPING

NAME = "pika"
SYSTEM = _amqp.SYSTEM
CODEC = MAPPING
ASYNCHRONOUS = False
SETTLE_NAMES = _amqp.SETTLE_NAMES
SETTLED_ALREADY = _amqp.SETTLED_ALREADY
CONTROL_FLOW: tuple[type[BaseException], ...] = ()
RAISES = None
SIGNALS = None
RIVALS = ("pika.adapters.blocking_connection:BlockingConnection.channel",)

_BLOCKING = "pika.adapters.blocking_connection:BlockingChannel"
_CHANNEL = "pika.channel:Channel"

POINTS = (
    Point(_BLOCKING, "basic_publish", sends(_amqp.PUBLISH, basic_publish), basic_publish),
    Point(_BLOCKING, "basic_consume", consumes(basic_consume), basic_consume, carries_policy=True),
    Point(_BLOCKING, "consume", iterates(consume, keep_loop), consume),
    Point(_BLOCKING, "cancel", runs_first(cancel), cancel),
    Point(_BLOCKING, "basic_get", receives(basic_get), basic_get),
    Point(
        _CHANNEL,
        "basic_publish",
        sends(_amqp.PUBLISH, basic_publish, awaits_confirm),
        basic_publish,
    ),
    Point(_CHANNEL, "basic_consume", consumes(basic_consume), basic_consume, carries_policy=True),
    Point(_CHANNEL, "basic_get", consumes(async_get), async_get, carries_policy=True),
    Point(_CHANNEL, "confirm_delivery", runs_first(confirm_delivery), confirm_delivery),
)

INSTANCE_POINTS = (
    Point(
        "pika.adapters.blocking_connection:BlockingConnection", "channel", returns_wrapped, channel
    ),
    Point("pika.connection:Connection", "channel", returns_wrapped, channel),
)

__all__ = [
    "ASYNCHRONOUS", "CODEC", "CONTROL_FLOW", "INSTANCE_POINTS", "NAME", "POINTS", "RAISES",
    "RIVALS", "SETTLED_ALREADY", "SETTLE_NAMES", "SIGNALS", "SYSTEM", "closed", "delivery",
    "error_type", "given", "handed", "hop", "is_open", "opened", "owner", "prepare", "refusal",
    "same", "settle", "settles_by_itself",
]  # fmt: skip
