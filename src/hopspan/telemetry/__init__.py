"""From values to spans: starting operations, choosing parents and links, recording exceptions.

It knows nothing of clients, policies or settlement. An `Instrumenter` is immutable and shared by
all threads and tasks.
"""

from hopspan.telemetry.context import (
    EMPTY,
    Attachment,
    attach,
    before,
    detach,
    get_current,
    restore,
    revert,
    whereabouts,
)
from hopspan.telemetry.enabled import is_suppressed, without_nested
from hopspan.telemetry.instrumenter import Instrumenter
from hopspan.telemetry.operation import OTHER_ERROR, Operation, call_hook
from hopspan.telemetry.recording import (
    record_settle,
    start_internal,
    start_receive,
    start_send,
)
from hopspan.telemetry.relations import (
    Members,
    common_endpoint,
    link_limit,
    messages_to_count,
    relate,
    relate_batch,
)
from hopspan.telemetry.scopes import (
    CONSUMER,
    GENERATION,
    NO_OVERRIDES,
    Binding,
    Overrides,
    active_instrumenters,
    binding_of,
    cached_overrides,
    forget_defaults,
    instrumenter_for,
    keep_binding,
    set_for_client,
)
from hopspan.telemetry.spans import UNSET, StatusSpan

__all__ = [
    "CONSUMER", "EMPTY", "GENERATION", "NO_OVERRIDES", "OTHER_ERROR", "UNSET", "Attachment",
    "Binding", "Instrumenter", "Members", "Operation", "Overrides", "StatusSpan",
    "active_instrumenters", "attach", "before", "binding_of", "cached_overrides", "call_hook",
    "common_endpoint", "detach", "forget_defaults", "get_current", "instrumenter_for",
    "is_suppressed", "keep_binding", "link_limit", "messages_to_count", "record_settle", "relate",
    "relate_batch", "restore", "revert", "set_for_client", "start_internal", "start_receive",
    "start_send", "whereabouts", "without_nested",
]  # fmt: skip
