"""Logs that carry the trace: which span, which service and which baggage a record was made in.

`install` does it for the standard library's logging, `structlog_processor` for structlog, and
`JsonFormatter` writes records as JSON. Field names are those of OpenTelemetry's *Trace Context in
non-OTLP Log Formats*. Needs nothing but the OpenTelemetry API.
"""

from hopspan.logs.fields import SERVICE_NAME, SPAN_ID, TRACE_FLAGS, TRACE_ID
from hopspan.logs.formatting import JsonFormatter
from hopspan.logs.records import TraceFilter, install, installed, uninstall
from hopspan.logs.structured import structlog_processor

__all__ = [
    "SERVICE_NAME", "SPAN_ID", "TRACE_FLAGS", "TRACE_ID", "JsonFormatter", "TraceFilter",
    "install", "installed", "structlog_processor", "uninstall",
]  # fmt: skip
