"""From hand-over to settled: the handling of deliveries in handlers, blocks and loops."""

from hopspan.processing.adapting import (
    Adapter,
    adapter_among,
    adapter_of,
    failure,
    unknown,
    use_locator,
)
from hopspan.processing.blocks import process
from hopspan.processing.concluding import outcome_of
from hopspan.processing.deferral import Deferred
from hopspan.processing.delivery import Processing
from hopspan.processing.handlers import consumer, face_of, traced
from hopspan.processing.holding import Hold
from hopspan.processing.loops import AsyncLoop, Loop, each
from hopspan.processing.opening import NOTHING, begin, current, started
from hopspan.processing.refusals import refuse, settled_already
from hopspan.processing.scope import Attachment, undo_leftovers
from hopspan.processing.together import Together

__all__ = [
    "NOTHING",
    "Adapter",
    "AsyncLoop",
    "Attachment",
    "Deferred",
    "Hold",
    "Loop",
    "Processing",
    "Together",
    "adapter_among",
    "adapter_of",
    "begin",
    "consumer",
    "current",
    "each",
    "face_of",
    "failure",
    "outcome_of",
    "process",
    "refuse",
    "settled_already",
    "started",
    "traced",
    "undo_leftovers",
    "unknown",
    "use_locator",
]
