"""Takes orders: validates, prices and charges each one, then sends it on."""

from __future__ import annotations

import json
from contextlib import closing

from kafka import KafkaProducer
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach

import hopspan
from orders import shop
from orders.on_kafka import broker

tracer = trace.get_tracer("orders.order_service")


def place(producer: KafkaProducer, tenant: str, order: shop.Order) -> None:
    """Place one order: everything that happens to it, here and in other processes, is one trace."""
    # Baggage travels with the trace: whoever handles the record knows the tenant, after any
    # number of hops.
    token = attach(baggage.set_baggage("tenant.id", tenant))
    try:
        with tracer.start_as_current_span("place order") as span:
            span.set_attributes({"order.id": order["id"], "tenant.id": tenant})
            shop.validate(order)
            shop.charge(order, shop.price(order))
            # Nothing to add here: the wrapped producer puts trace and baggage into the headers.
            sent = producer.send(broker.ORDERS, json.dumps(order).encode(), key=tenant.encode())
            sent.get(timeout=10)  # placed when Kafka has it
        print(f"order {order['id']} placed: {order['item']} for {tenant}", flush=True)
    finally:
        detach(token)


def main() -> None:
    """Place the orders that came in, and end."""
    broker.declare()
    with closing(hopspan.wrap(broker.producer())) as producer:
        for tenant, order in shop.INCOMING:
            place(producer, tenant, order)


if __name__ == "__main__":
    main()
