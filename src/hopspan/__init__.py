"""hopspan carries a trace across a message broker, and settles messages as their spans end.

Three faces, one behaviour: a decorator on consumer handlers (`consumer`), a wrapped native object
(`wrap`), the whole process (`instrument`); and inline `process` and `each` where the code owns the
loop. They can be mixed: together they make one span.
"""

from hopspan import adapters as _adapters  # noqa: F401 - tells the core where adapters are
from hopspan.carrying import Baggage, baggage, inject
from hopspan.config import Config
from hopspan.delivery import Deferred, Delivery, consumer, current, each, process
from hopspan.instrumentation import instrument, uninstrument
from hopspan.interception import wrap
from hopspan.model import (
    ConfigurationError,
    Endpoint,
    HopspanError,
    MessageInfo,
    Outcome,
    PolicyError,
    Settlement,
    UnknownMessageError,
    Verdict,
)
from hopspan.propagation import extract
from hopspan.settlement import (
    Commits,
    Policy,
    ack_always,
    by_exception,
    dead_letter,
    manual,
    reject_on_error,
    requeue_once,
    requeue_times,
)
from hopspan.telemetry import Operation
from hopspan.version import VERSION as __version__  # noqa: N811 - what Python calls it

Processing = Delivery
"""The earlier name of `Delivery`."""

__all__ = [
    "Baggage", "Commits", "Config", "ConfigurationError", "Deferred", "Delivery", "Endpoint",
    "HopspanError", "MessageInfo", "Operation", "Outcome", "Policy", "PolicyError", "Processing",
    "Settlement", "UnknownMessageError", "Verdict", "__version__", "ack_always", "baggage",
    "by_exception", "consumer", "current", "dead_letter", "each", "extract", "inject",
    "instrument", "manual", "process", "reject_on_error", "requeue_once", "requeue_times",
    "uninstrument", "wrap",
]  # fmt: skip
