"""Takes orders: validates, prices and charges each one, then publishes `order.created`."""

from __future__ import annotations

import json

from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from pika.adapters.blocking_connection import BlockingChannel

import hopspan
from orders import shop
from orders.on_rabbitmq import broker

tracer = trace.get_tracer("orders.order_service")


def place(channel: BlockingChannel, tenant: str, order: shop.Order) -> None:
    """Place one order: everything that happens to it, here and in other processes, is one trace."""
    # Baggage travels with the trace: whoever handles the message knows the tenant, after any
    # number of hops.
    token = attach(baggage.set_baggage("tenant.id", tenant))
    try:
        with tracer.start_as_current_span("place order") as span:
            span.set_attributes({"order.id": order["id"], "tenant.id": tenant})
            shop.validate(order)
            shop.charge(order, shop.price(order))
            # Nothing to add here: the wrapped channel puts trace and baggage into the headers.
            body = json.dumps(order).encode()
            channel.basic_publish(broker.ORDERS, "order.created", body, mandatory=True)
        print(f"order {order['id']} placed: {order['item']} for {tenant}", flush=True)
    finally:
        detach(token)


def main() -> None:
    """Place the orders that came in, and end."""
    with broker.connect() as connection:
        channel = hopspan.wrap(connection.channel())
        channel.confirm_delivery()  # each publish waits until RabbitMQ has the message
        broker.declare(channel)
        for tenant, order in shop.INCOMING:
            place(channel, tenant, order)


if __name__ == "__main__":
    main()
