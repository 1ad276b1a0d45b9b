"""Watches the dead-letter queue: tells a person about every order that the fulfilment gave up."""

from __future__ import annotations

import json

from opentelemetry import baggage, trace
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic, BasicProperties

import hopspan
from orders.on_rabbitmq import broker


# Whatever happens in here, the message is done: there is no dead-letter queue for dead letters.
@hopspan.consumer(policy=hopspan.ack_always)
def on_dead_letter(
    channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
) -> None:
    """Report one order, which is still in its trace, and whose tenant is still known."""
    order, tenant = json.loads(body), baggage.get_baggage("tenant.id")
    trace.get_current_span().set_attributes({"order.id": order["id"], "tenant.id": str(tenant)})
    print(f"order {order['id']} of {tenant} needs a person", flush=True)


def main() -> None:
    """Watch for as long as the queue exists."""
    with broker.connect() as connection:
        channel = hopspan.wrap(connection.channel())
        broker.declare(channel)
        channel.basic_consume(broker.DEAD_LETTERS, on_dead_letter)
        print("waiting for dead letters", flush=True)
        channel.start_consuming()


if __name__ == "__main__":
    main()
