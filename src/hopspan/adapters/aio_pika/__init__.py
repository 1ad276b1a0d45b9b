"""aio-pika 9.4 and newer: `Exchange.publish`, and the ways in which a `Queue` hands messages over.

Robust objects inherit from the plain ones, and restore themselves with what they were given; so the
plain classes are intercepted, once. Settlements are seen on the channel of aiormq beneath, where
all of them arrive: those of the application, of `message.process()`, and hopspan's own.
"""

from hopspan.adapters.aio_pika.channel import prepare
from hopspan.adapters.aio_pika.delivery import AioPikaDelivery
from hopspan.adapters.aio_pika.points import INSTANCE_POINTS, POINTS
from hopspan.delivery import Adapter

ADAPTER = Adapter(
    AioPikaDelivery,
    points=POINTS,
    instance_points=INSTANCE_POINTS,
    rivals=("aio_pika.exchange:Exchange.publish", "aio_pika.queue:Queue.consume"),
    prepare=prepare,
)

__all__ = ["ADAPTER", "AioPikaDelivery"]
