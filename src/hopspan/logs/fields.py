"""What a log record says about where it was made: span, service, chosen baggage.

Rules of this module: nothing at all where no span is current; what comes from a span is never
overridden by baggage, which others may have written.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage, trace
from opentelemetry.semconv.attributes.service_attributes import SERVICE_NAME

from hopspan.model import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.trace import Span

__all__ = ["SERVICE_NAME", "SPAN_ID", "TRACE_FLAGS", "TRACE_ID", "Chosen", "Fields"]

# OpenTelemetry, Trace Context in non-OTLP Log Formats.
TRACE_ID = "trace_id"
SPAN_ID = "span_id"
TRACE_FLAGS = "trace_flags"


class Chosen:
    """Which baggage entries are copied: exact names, and prefixes such as `app.*`. Immutable.

    Raises:
        ConfigurationError: something that is neither.
    """

    __slots__ = ("_names", "_prefixes")

    def __init__(self, patterns: Iterable[str]) -> None:
        if isinstance(patterns, str) or not hasattr(patterns, "__iter__"):
            raise ConfigurationError(
                f"baggage={patterns!r} is not valid: it takes a list of names and prefixes, "
                'such as ["tenant_id", "app.*"]'
            )
        every = [_pattern(each) for each in patterns]
        self._prefixes = tuple(each[:-1] for each in every if each.endswith("*"))
        self._names = tuple(each for each in every if not each.endswith("*"))

    def __bool__(self) -> bool:
        return bool(self._names or self._prefixes)

    def of(self, entries: Mapping[str, object]) -> dict[str, str]:
        """The chosen ones among some entries, as text."""
        return {
            name: str(value)
            for name, value in entries.items()
            if name in self._names or name.startswith(self._prefixes)
        }


def _pattern(pattern: Any) -> str:
    if not isinstance(pattern, str) or not pattern or "*" in pattern[:-1]:
        raise ConfigurationError(
            f"{pattern!r} names no baggage: give a name, or a prefix with * at its end"
        )
    return pattern


class Fields:
    """Reads the fields of a record in the context that is current. Thread-safe and task-safe."""

    __slots__ = ("_chosen",)

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._chosen = Chosen(patterns)

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
        if self._chosen:
            return {**self._chosen.of(baggage.get_all()), **fields}
        return fields


def _service(span: Span) -> str | None:
    """The service that the span is exported for; without an SDK, what the environment calls it."""
    for holder in (span, trace.get_tracer_provider()):
        resource = getattr(holder, "resource", None)
        if resource is not None:
            return _named(resource.attributes.get(SERVICE_NAME))
    return os.environ.get("OTEL_SERVICE_NAME") or None


def _named(service: object) -> str | None:
    return str(service) if service else None
