"""Watches the dead-letter topic: tells a person about every order that the fulfilment gave up."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import closing

from kafka.consumer.fetcher import ConsumerRecord
from opentelemetry import baggage, trace

import hopspan
from orders.on_kafka import broker


# Whatever happens in here, the record is done: there is no dead-letter topic for dead letters.
@hopspan.consumer(policy=hopspan.ack_always)
def on_dead_letter(record: ConsumerRecord) -> None:
    """Report one order, which is still in its trace, and whose tenant is still known."""
    order, tenant = json.loads(record.value), baggage.get_baggage("tenant.id")
    trace.get_current_span().set_attributes({"order.id": order["id"], "tenant.id": str(tenant)})
    print(f"order {order['id']} of {tenant} needs a person", flush=True)


def main() -> None:
    """Watch until somebody asks us to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    broker.declare()
    letters = broker.consumer(
        broker.DEAD_LETTERS, "dead-letters", greeting="waiting for dead letters"
    )
    with closing(hopspan.wrap(letters, commits=broker.AT_ONCE)) as consumer:
        for record in consumer:
            on_dead_letter(record)


if __name__ == "__main__":
    main()
