"""Takes orders: validates, prices and charges each one, then publishes `order.created`."""

from __future__ import annotations

import json
import time
from typing import TypedDict

import broker
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from pika.adapters.blocking_connection import BlockingChannel

import hopspan

tracer = trace.get_tracer("orders.order_service")


class Order(TypedDict):
    """What a customer asks for."""

    id: int
    item: str
    address: str


PRICES = {"kettle": 39, "teapot": 24, "tea": 6}

# The fulfilment ships 1 and 2 at once, 3 at the second attempt, and 4 never.
INCOMING: list[tuple[str, Order]] = [
    ("acme", {"id": 1, "item": "kettle", "address": "1 Harbour Road"}),
    ("globex", {"id": 2, "item": "tea", "address": "22 Mill Lane"}),
    ("acme", {"id": 3, "item": "teapot", "address": "1 Harbour Road"}),
    ("initech", {"id": 4, "item": "tea", "address": ""}),
]


def place(channel: BlockingChannel, tenant: str, order: Order) -> None:
    """Place one order: everything that happens to it, here and in other processes, is one trace."""
    # Baggage travels with the trace: whoever handles the message knows the tenant, after any
    # number of hops.
    token = attach(baggage.set_baggage("tenant.id", tenant))
    try:
        with tracer.start_as_current_span("place order") as span:
            span.set_attributes({"order.id": order["id"], "tenant.id": tenant})
            validate(order)
            charge(order, price(order))
            # Nothing to add here: the wrapped channel puts trace and baggage into the headers.
            body = json.dumps(order).encode()
            channel.basic_publish(broker.ORDERS, "order.created", body, mandatory=True)
        print(f"order {order['id']} placed: {order['item']} for {tenant}", flush=True)
    finally:
        detach(token)


@tracer.start_as_current_span("validate")
def validate(order: Order) -> None:
    """Refuse what the shop does not sell. The address it does not look at: a bug."""
    if order["item"] not in PRICES:
        raise ValueError(f"no such item: {order['item']}")


@tracer.start_as_current_span("price")
def price(order: Order) -> int:
    """Look up what the item costs."""
    return PRICES[order["item"]]


@tracer.start_as_current_span("charge")
def charge(order: Order, amount: int) -> None:
    """Ask the payment provider for the money."""
    attributes = {"order.id": order["id"], "payment.amount": amount}
    trace.get_current_span().set_attributes(attributes)
    time.sleep(0.01)  # stands for the provider's answer


def main() -> None:
    """Place the orders that came in, and end."""
    with broker.connect() as connection:
        channel = hopspan.wrap(connection.channel())
        channel.confirm_delivery()  # each publish waits until RabbitMQ has the message
        broker.declare(channel)
        for tenant, order in INCOMING:
            place(channel, tenant, order)


if __name__ == "__main__":
    main()
