"""Spans that are no messaging operation: a call that only looks like a delivery, and reports.

They count in no metric.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.context import get_current

from hopspan.conventions import Action
from hopspan.model import OperationType
from hopspan.telemetry.links import links_to_spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext

    from hopspan.model import Endpoint
    from hopspan.telemetry.instrumenter import Instrumenter
    from hopspan.telemetry.spans import Operation


def start_internal(
    instrumenter: Instrumenter,
    name: str,
    endpoint: Endpoint,
    attributes: dict[str, Any],
    *,
    parent: Context | None = None,
    of: Sequence[SpanContext] = (),
) -> Operation:
    """Start a span of kind INTERNAL.

    Args:
        instrumenter: Whose settings hold.
        name: What goes on: `run`, `lost`.
        endpoint: What it is about.
        attributes: What differs from one to the next.
        parent: The current context when omitted.
        of: Spans that it tells of; they are linked to.
    """
    context = get_current() if parent is None else parent
    action = Action(name, OperationType.INTERNAL)
    relation = (context, context, links_to_spans(of))
    return instrumenter.start(action, endpoint, relation, attributes)
