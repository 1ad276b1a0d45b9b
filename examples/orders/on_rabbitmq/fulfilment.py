"""Ships orders. An order that cannot be shipped is tried once more, and then left to a person."""

from __future__ import annotations

import json

from opentelemetry import baggage, trace
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic, BasicProperties

import hopspan
from orders import shop
from orders.on_rabbitmq import broker


# No ack, no nack, no try in here: the policy settles the message as the handler's span ends.
# It returns: ack. It raises: requeue, and the second time reject, to the dead-letter queue.
@hopspan.consumer(policy=hopspan.requeue_once)
def on_order(
    channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
) -> None:
    """Ship one order. Runs inside the trace that the order service started."""
    order = json.loads(body)
    tenant = baggage.get_baggage("tenant.id")  # set in another process, and not part of the message
    trace.get_current_span().set_attributes({"order.id": order["id"], "tenant.id": str(tenant)})
    shop.reserve(order)
    shop.ship(order)
    print(f"order {order['id']} shipped for {tenant}", flush=True)


def main() -> None:
    """Ship orders for as long as the queue exists."""
    with broker.connect() as connection:
        channel = hopspan.wrap(connection.channel())
        broker.declare(channel)
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(broker.FULFILMENT, on_order)
        print("waiting for orders", flush=True)
        channel.start_consuming()


if __name__ == "__main__":
    main()
