"""One delivery from hand-over to settled: in handlers, blocks and loops."""

from hopspan.delivery.adapter import (
    Adapter,
    Running,
    adapter_among,
    adapter_of,
    set_lookup,
    unknown,
)
from hopspan.delivery.batch import Batch, given
from hopspan.delivery.block import process
from hopspan.delivery.client import Client, failure
from hopspan.delivery.decorator import (
    consumer,
    is_async,
    overrides_of,
    refuse_on,
    unwrapped,
    wrap_handler,
)
from hopspan.delivery.delivery import CONCLUDES, Deferred, Delivery, Inner, Scope
from hopspan.delivery.entering import NO_DELIVERY, current, safely
from hopspan.delivery.loop import AsyncLoop, Loop, each
from hopspan.delivery.outcomes import auto_ack_error, outcome_of, refuse
from hopspan.delivery.subscription import Subscription, Subscriptions

__all__ = [
    "CONCLUDES", "NO_DELIVERY", "Adapter", "AsyncLoop", "Batch", "Client", "Deferred", "Delivery",
    "Inner", "Loop", "Running", "Scope", "Subscription", "Subscriptions", "adapter_among",
    "adapter_of", "auto_ack_error", "consumer", "current", "each", "failure", "given", "is_async",
    "outcome_of", "overrides_of", "process", "refuse", "refuse_on", "safely", "set_lookup",
    "unknown", "unwrapped", "wrap_handler",
]  # fmt: skip
