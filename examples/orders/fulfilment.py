"""Ships orders. An order that cannot be shipped is tried once more, and then left to a person."""

from __future__ import annotations

import json
import time
from typing import Any

import broker
from opentelemetry import baggage, trace
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic, BasicProperties

import hopspan

tracer = trace.get_tracer("orders.fulfilment")


class WarehouseTimeout(Exception):
    """The warehouse did not answer; it may the next time."""


class UnknownAddress(Exception):
    """Nobody can ship to there, however often it is tried."""


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
    reserve(order, first=not method.redelivered)
    ship(order)
    print(f"order {order['id']} shipped for {tenant}", flush=True)


@tracer.start_as_current_span("reserve")
def reserve(order: dict[str, Any], *, first: bool) -> None:
    """Set the item aside in the warehouse, where teapots are always hard to find at first."""
    time.sleep(0.005)
    if order["item"] == "teapot" and first:
        raise WarehouseTimeout("no answer from the warehouse")


@tracer.start_as_current_span("ship")
def ship(order: dict[str, Any]) -> None:
    """Hand the parcel over."""
    time.sleep(0.005)
    if not order["address"]:
        raise UnknownAddress("the order has no address")


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
