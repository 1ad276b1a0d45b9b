"""pika 1.3 and 1.4: `BlockingChannel`, and `Channel` of the asynchronous connections.

A `BlockingChannel` has a `Channel` inside (`_impl`) and calls it for everything that goes on the
wire. So publishes and consumers are intercepted where the user calls them, and settlements on the
inner channel, where all of them arrive, whichever object the user called.
"""

from hopspan.adapters.pika.delivery import PikaDelivery
from hopspan.adapters.pika.points import INSTANCE_POINTS, POINTS
from hopspan.delivery import Adapter

ADAPTER = Adapter(
    PikaDelivery,
    points=POINTS,
    instance_points=INSTANCE_POINTS,
    rivals=("pika.adapters.blocking_connection:BlockingConnection.channel",),
)

__all__ = ["ADAPTER", "PikaDelivery"]
