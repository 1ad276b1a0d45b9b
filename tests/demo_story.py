"""What `hopspan demo` has to show, for its tests on fake brokers and its tests on real ones."""

from __future__ import annotations

import re

STEPS = {
    "fulfilment     waiting for orders",
    "dead-letters   waiting for dead letters",
    "order-service  order 1 placed: kettle for acme",
    "order-service  order 2 placed: tea for globex",
    "order-service  order 3 placed: teapot for acme",
    "order-service  order 4 placed: tea for initech",
    "fulfilment     order 1 shipped for acme",
    "fulfilment     order 2 shipped for globex",
    "fulfilment     order 3 shipped for acme",
    "dead-letters   order 4 of initech needs a person",
}

SUMMARY = "4 orders: 3 acked, 1 dead-lettered; 2 requeued on the way."

# Trees without durations and trace ids, with the names of a run that has the broker for itself.
TREES_ON_RABBITMQ = """\
ORDER 1 of acme: acked (trace)
order-service  place order internal
               |- validate internal
               |- price internal
               |- charge internal
               `- publish demo.orders:order.created producer
fulfilment        `- process demo.orders:order.created:demo.fulfilment consumer + attempt 1 acked, tenant acme
                     |- reserve internal
                     `- ship internal

ORDER 2 of globex: acked (trace)
order-service  place order internal
               |- validate internal
               |- price internal
               |- charge internal
               `- publish demo.orders:order.created producer
fulfilment        `- process demo.orders:order.created:demo.fulfilment consumer + attempt 1 acked, tenant globex
                     |- reserve internal
                     `- ship internal

ORDER 3 of acme: requeued -> acked (trace)
order-service  place order internal
               |- validate internal
               |- price internal
               |- charge internal
               `- publish demo.orders:order.created producer
fulfilment        |- process demo.orders:order.created:demo.fulfilment consumer ~ attempt 1 requeued, WarehouseTimeout, tenant acme
                  |  |- reserve internal x WarehouseTimeout: no answer from the warehouse
                  |  `- nack demo.orders:order.created:demo.fulfilment client tells the broker to requeue
                  `- process demo.orders:order.created:demo.fulfilment consumer + attempt 2 acked, tenant acme
                     |- reserve internal
                     `- ship internal

ORDER 4 of initech: requeued -> rejected -> dead-lettered (trace)
order-service  place order internal
               |- validate internal
               |- price internal
               |- charge internal
               `- publish demo.orders:order.created producer
fulfilment        |- process demo.orders:order.created:demo.fulfilment consumer ~ attempt 1 requeued, UnknownAddress, tenant initech
                  |  |- reserve internal
                  |  |- ship internal x UnknownAddress: the order has no address
                  |  `- nack demo.orders:order.created:demo.fulfilment client tells the broker to requeue
                  |- process demo.orders:order.created:demo.fulfilment consumer x attempt 2 rejected -> dead-lettered, UnknownAddress, tenant initech
                  |  |- reserve internal
                  |  |- ship internal x UnknownAddress: the order has no address
                  |  `- nack demo.orders:order.created:demo.fulfilment client tells the broker to reject
dead-letters      `- process demo.dead-letters consumer + acked, death reason: rejected, tenant initech
"""


TREES_ON_KAFKA = """\
ORDER 1 of acme: acked (trace)
order-service  place order internal
               |- validate internal
               |- price internal
               |- charge internal
               `- send demo.orders producer
fulfilment        `- process demo.orders consumer + attempt 1 acked, tenant acme
                     |- reserve internal
                     |- ship internal
                     `- commit demo.orders client tells Kafka that offset 0 of partition 0 is done

ORDER 2 of globex: acked (trace)
order-service  place order internal
               |- validate internal
               |- price internal
               |- charge internal
               `- send demo.orders producer
fulfilment        `- process demo.orders consumer + attempt 1 acked, tenant globex
                     |- reserve internal
                     |- ship internal
                     `- commit demo.orders client tells Kafka that offset 0 of partition 1 is done

ORDER 3 of acme: requeued -> acked (trace)
order-service  place order internal
               |- validate internal
               |- price internal
               |- charge internal
               `- send demo.orders producer
fulfilment        |- process demo.orders consumer ~ attempt 1 requeued, WarehouseTimeout, tenant acme
                  |  |- reserve internal x WarehouseTimeout: no answer from the warehouse
                  |  `- seek demo.orders client sets the consumer back to offset 1 of partition 0
                  `- process demo.orders consumer + attempt 2 acked, tenant acme
                     |- reserve internal
                     |- ship internal
                     `- commit demo.orders client tells Kafka that offset 1 of partition 0 is done

ORDER 4 of initech: requeued -> rejected -> dead-lettered (trace)
order-service  place order internal
               |- validate internal
               |- price internal
               |- charge internal
               `- send demo.orders producer
fulfilment        |- process demo.orders consumer ~ attempt 1 requeued, UnknownAddress, tenant initech
                  |  |- reserve internal
                  |  |- ship internal x UnknownAddress: the order has no address
                  |  `- seek demo.orders client sets the consumer back to offset 2 of partition 0
                  `- process demo.orders consumer x attempt 2 rejected -> dead-lettered, UnknownAddress, tenant initech
                     |- reserve internal
                     |- ship internal x UnknownAddress: the order has no address
                     |- dead_letter demo.orders client done when Kafka has the copy
                     |- send demo.dead-letters producer
dead-letters         |  `- process demo.dead-letters consumer + acked, tenant initech
                     |     `- commit demo.dead-letters client tells Kafka that offset 0 of partition 0 is done
fulfilment           `- commit demo.orders client tells Kafka that offset 2 of partition 0 is done
"""


def steps_in(output: str) -> set[str]:
    """The lines that the services printed while they worked."""
    return {
        line.strip()
        for line in output.partition("Each order is one trace")[0].splitlines()[2:]
        if line
    }


def trees_in(output: str) -> str:
    """The trees, without what is different in each run: times, ids, and the number in the names."""
    trees = output[output.index("ORDER 1") : output.index("\n4 orders")]
    trees = re.sub(r"\(trace [0-9a-f]{32}, [\d.<]+ m?s\)", "(trace)", trees)
    trees = re.sub(r"\bdemo\d\.", "demo.", trees)
    trees = re.sub(r" +<?[\d.]+ m?s +(?=\w)", " ", trees)
    return re.sub(r"(?<=\w) +(?=[+~x(] ?\w|tells|sets|done when)", " ", trees)
