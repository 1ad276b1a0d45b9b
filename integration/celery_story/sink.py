"""A tracer provider that writes finished spans down, in batches: what is not flushed is lost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, format_span_id, format_trace_id

from integration.faults.journal import Journal


class Sink(SpanExporter):
    """Appends a line for each span."""

    def __init__(self, journal: Journal, role: str) -> None:
        self._journal = journal
        self._role = role

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self._journal.write("span", role=self._role, process=os.getpid(), **_described(span))
        return SpanExportResult.SUCCESS


def provider(journal: Journal, role: str, delay: float) -> TracerProvider:
    """Return a provider that exports every `delay` seconds, and else when it is flushed."""
    made = TracerProvider()
    batches = BatchSpanProcessor(Sink(journal, role), schedule_delay_millis=delay * 1000)
    made.add_span_processor(batches)
    return made


def _described(span: ReadableSpan) -> Mapping[str, Any]:
    context = span.get_span_context()
    assert context is not None
    return {
        "name": span.name,
        "kind": span.kind.name,
        "id": _id(context),
        "parent": _id(span.parent) if span.parent else None,
        "links": [_id(link.context) for link in span.links],
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes or {}),
    }


def _id(context: SpanContext) -> str:
    return f"{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"
