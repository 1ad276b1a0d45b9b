"""Ships orders. An order that cannot be shipped is tried once more, and then left to a person."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import closing

from kafka.consumer.fetcher import ConsumerRecord
from opentelemetry import baggage, trace

import hopspan
from orders import shop
from orders.on_kafka import broker


# No commit, no seek, no try in here: when the handler's span ends, the consumer's policy decides.
@hopspan.consumer
def on_order(record: ConsumerRecord) -> None:
    """Ship one order. Runs inside the trace that the order service started."""
    order = json.loads(record.value)
    tenant = baggage.get_baggage("tenant.id")  # set in another process, and not part of the record
    trace.get_current_span().set_attributes({"order.id": order["id"], "tenant.id": str(tenant)})
    shop.reserve(order)
    shop.ship(order)
    print(f"order {order['id']} shipped for {tenant}", flush=True)


def main() -> None:
    """Ship orders until somebody asks us to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    broker.declare()
    orders = broker.consumer(broker.ORDERS, "fulfilment", greeting="waiting for orders")
    with closing(orders), closing(broker.producer()) as producer:
        # The handler returns: done, and its offset is committed. It raises: back to this record,
        # and the second time a copy goes to the dead-letter topic, and then it is done.
        give_up = hopspan.dead_letter(broker.DEAD_LETTERS, producer=producer)
        policy = hopspan.requeue_times(1, then=give_up)
        consumer = hopspan.wrap(orders, policy=policy, commits=broker.AT_ONCE)
        for record in consumer:
            on_order(record)


if __name__ == "__main__":
    main()
