"""What a log record says about where it was made: span, service, chosen baggage.

Rules of this module: nothing at all where no span is current; what comes from a span is never
overridden by baggage, which others may have written.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.semconv.attributes.service_attributes import SERVICE_NAME

from hopspan.config.settings import patterns
from hopspan.propagation.baggage import Names, recorded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.trace import Span

__all__ = ["SERVICE_NAME", "SPAN_ID", "TRACE_FLAGS", "TRACE_ID", "Fields"]

# OpenTelemetry, Trace Context in non-OTLP Log Formats.
TRACE_ID = "trace_id"
SPAN_ID = "span_id"
TRACE_FLAGS = "trace_flags"


_NOT_BAGGAGES = frozenset(
    {
        SERVICE_NAME, *dir(logging.LogRecord("", 0, "", 0, "", (), None)), "asctime", "message",
        "taskName", "_from_structlog", "_logger", "_name", "_record", "event", "positional_args",
    }
)  # fmt: skip
"""What logging and structlog have, or refuse to have overwritten: a sender has no say in it."""


class Fields:
    """Reads the fields of a record in the context that is current. Thread-safe and task-safe.

    Raises:
        ConfigurationError: `baggage` is no list of names and prefixes.
    """

    __slots__ = ("_chosen",)

    def __init__(self, baggage: Iterable[str] = ()) -> None:
        chosen = patterns("baggage", baggage)
        self._chosen = Names(chosen) if chosen else None

    def current(self) -> dict[str, str]:
        """Fields by their names in the log; empty where no span is current."""
        span = trace.get_current_span()
        context = span.get_span_context()
        if not context.is_valid:
            return {}
        fields = {
            TRACE_ID: format(context.trace_id, "032x"),
            SPAN_ID: format(context.span_id, "016x"),
            TRACE_FLAGS: format(context.trace_flags, "02x"),
        }
        service = _service(span)
        if service:
            fields[SERVICE_NAME] = service
        if self._chosen is None:
            return fields
        entries = recorded(get_current(), self._chosen)
        return {**{key: entries[key] for key in entries if key not in _NOT_BAGGAGES}, **fields}


def _service(span: Span) -> str | None:
    """The service that the span is exported for; without an SDK, what the environment calls it."""
    for holder in (span, trace.get_tracer_provider()):
        resource = getattr(holder, "resource", None)
        if resource is not None:
            return _named(resource.attributes.get(SERVICE_NAME))
    return os.environ.get("OTEL_SERVICE_NAME") or None


def _named(service: object) -> str | None:
    return str(service) if service else None
