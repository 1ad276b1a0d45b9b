"""What a service's process tells the runner, line by line: finished spans, and what it exported."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.trace import INVALID_SPAN_CONTEXT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace import ReadableSpan

_MARK = "\x1e"
"""How our lines begin (RFC 7464's record separator): a service prints lines for people too."""


class FinishedSpan(NamedTuple):
    """What the demo shows of a span. Times in ns since the epoch, ids as in `traceparent`."""

    trace: str
    id: str
    parent: str | None
    name: str
    kind: str
    """`internal`, `producer`, `consumer` or `client`."""
    service: str
    start: int
    end: int
    failed: bool = False
    description: str | None = None
    """Of the status, when it failed."""
    attributes: Mapping[str, Any] = {}


class Exported(NamedTuple):
    """How many spans a service sent to the OTLP endpoint, and how many it could not."""

    sent: int = 0
    lost: int = 0


def finished(span: ReadableSpan) -> FinishedSpan:
    """A span of the SDK as a value."""
    context = span.get_span_context() or INVALID_SPAN_CONTEXT
    return FinishedSpan(
        trace=f"{context.trace_id:032x}",
        id=f"{context.span_id:016x}",
        parent=f"{span.parent.span_id:016x}" if span.parent else None,
        name=span.name,
        kind=span.kind.name.lower(),
        service=str(span.resource.attributes.get("service.name", "")),
        start=span.start_time or 0,
        end=span.end_time or 0,
        failed=not span.status.is_ok,
        description=span.status.description,
        attributes=dict(span.attributes or {}),
    )


def to_line(told: FinishedSpan | Exported) -> str:
    """One line of text, without the line's end."""
    return _MARK + json.dumps([type(told).__name__, told._asdict()], default=list)


def from_line(line: str) -> FinishedSpan | Exported | None:
    """What a line tells; None for a line that is for people."""
    if not line.startswith(_MARK):
        return None
    name, values = json.loads(line[1:])
    return Exported(**values) if name == "Exported" else FinishedSpan(**values)
